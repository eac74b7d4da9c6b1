"""The input example of a version: a picture of the test part, asked what the adapter was trained to answer."""

import base64
import io
from pathlib import Path

import pandas as pd

from headimpact.data.images import read_image
from headimpact.errors import InputError
from headimpact.files import read_json_object
from headimpact.lifecycle import layout
from headimpact.vlm import loading

_LARGEST = 500_000  # bytes; a larger file is sent as a smaller picture
_SMALLER = (1024, 1024)  # pixels


def input_example(model: str, setup: str, source: str, revision: str | None) -> list[dict[str, str]]:
    """A row with ``image`` (base64) and ``prompt``, of the test object that the adapter describes best.

    Args:
        model: as params.yaml names it.
        setup: which was evaluated.
        source: of the base, whose family has the prompt.
        revision: of the base.

    Returns:
        Nothing where results, image or base are not there: a version needs no example.
    """
    try:
        prompt = loading.skeleton(source, revision).caption("object").user
        picture = _best_image(model, setup)
        data = picture.read_bytes()
        if len(data) > _LARGEST:
            data = _smaller(picture)
    except (InputError, OSError):
        return []
    return [{"image": base64.b64encode(data).decode(), "prompt": prompt}]


def _best_image(model: str, setup: str) -> Path:
    objects = pd.read_parquet(layout.evaluated_objects(model, setup), columns=["image_id", "nll"])
    best = int(objects.sort_values("nll", kind="stable")["image_id"].iloc[0])
    images = read_json_object(layout.DATASET / "annotations/test.json", "images")["images"]
    for image in images:
        if image["id"] == best:
            return layout.DATASET / "images" / image["file_name"]
    raise InputError(f"The test part has no image {best}.")


def _smaller(picture: Path) -> bytes:
    image, _ = read_image(picture)
    image.thumbnail(_SMALLER)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()
