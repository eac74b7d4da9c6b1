"""One HTML page that shows where every head of a model looks; it needs no server and no network.

Everything in it is data for ``look.js``: the picture and the attention of an image are read when they are looked at.
Texts reach the page as data and are shown as text, whatever is in them.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headimpact.impact.object_maps import Look, Maps, Subject, in_place
from headimpact.report.look import drawing
from headimpact.report.standalone.rendering import render
from headimpact.vlm.base import Vlm

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Told:
    """What the page says of itself.

    Attributes:
        title: its title.
        facts: what was looked at, name and value.
        notes: what a reader should know, such as what was left out.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def html(told: Told, vlm: Vlm, subjects: Sequence[Subject], looks: Mapping[str, Look]) -> str:
    """The page.

    Args:
        told: what it says of itself.
        vlm: the model.
        subjects: what was looked at.
        looks: by name (original, and the setup) what was seen; the first has the top heads.

    Raises:
        InputError: an image cannot be read.
    """
    return render(
        _FOLDER,
        "look.html",
        told.title,
        ["look.css"],
        ["maps.js", "colours.js", "choice.js", "look.js"],
        told=told,
        data=_data(vlm, subjects, looks),
        attention=[_packed(number, subjects, looks) for number in range(len(subjects))],
    )


def _data(vlm: Vlm, subjects: Sequence[Subject], looks: Mapping[str, Look]) -> dict[str, Any]:
    """All but the attention, for ``look.js``; numbers of whole phrases are those that were computed."""
    first = next(iter(looks.values()))
    return {
        "layers": len(vlm.attention_layers),
        "numbers": list(vlm.attention_layers),
        "heads": vlm.heads,
        "masked": first.by_impact,
        "top": [list(head) for head in first.top],
        "pieces": len(first.objects[0][0].maps.scales) > 1,
        "variants": [
            {
                "name": name,
                "hi": [[None if np.isnan(score) else score for score in row] for row in look.scores().tolist()],
                "iou": _numbers([[maps.maps.iou[0].ravel() for maps in of_image] for of_image in look.objects]),
                "share": _numbers([[maps.maps.share[0].ravel() for maps in of_image] for of_image in look.objects]),
                "top_iou": _numbers([[maps.top.iou.ravel() for maps in of_image] for of_image in look.objects]),
            }
            for name, look in looks.items()
        ],
        "images": [_image(vlm, subject) for subject in subjects],
    }


def _image(vlm: Vlm, subject: Subject) -> dict[str, Any]:
    sample = subject.sample
    by_id = {obj.id: obj for obj in sample.objects}
    return {
        "id": sample.id,
        "name": sample.path.name,
        "width": sample.width,
        "height": sample.height,
        "tokens": subject.grid.tokens,
        "planes": drawing.layers_of_tokens(vlm.geometry(sample.width, sample.height), subject.grid),
        "picture": drawing.picture(sample.image()),
        "objects": [
            {
                "id": words.object_id,
                "phrase": words.phrase,
                "pieces": list(words.pieces),
                "outline": None if words.mask is None else drawing.outline(by_id[words.object_id].mask()),
            }
            for words in subject.words
        ],
    }


def _numbers(of_images: Sequence[Sequence[np.ndarray]]) -> str:
    """float32, object by object."""
    return _text(
        np.concatenate([of_object for of_image in of_images for of_object in of_image]).astype("<f4").tobytes()
    )


def _packed(number: int, subjects: Sequence[Subject], looks: Mapping[str, Look]) -> str:
    """The maps of an image, deflated: of every model and object those of :class:`ObjectMaps`, then its mask."""
    subject = subjects[number]
    parts: list[bytes] = []
    for look in looks.values():
        for of_object in look.objects[number]:
            parts += [*_bytes(of_object.maps), *_bytes(of_object.top)]
    for words in subject.words:
        if words.mask is not None:
            parts.append(np.packbits(words.mask.numpy()[in_place(subject.grid)]).tobytes())
    return _text(zlib.compress(b"".join(parts), 9))


def _bytes(maps: Maps) -> list[bytes]:
    numbers = [np.stack([maps.scales, maps.share, maps.iou], -1).astype("<f4").tobytes()]
    return [*numbers, maps.values.tobytes(), maps.above.tobytes()]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
