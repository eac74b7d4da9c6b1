"""Hostile input, and what has to hold of it: it is taken or refused in a sentence, and what is taken is sound.

Hypothesis makes the inputs. The suite tries a few of them, the same ones in every run (``unit/test_properties.py``),
the campaign many, other ones in every run (``benchmarks/campaign``).
"""

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from headimpact.data import masks
from headimpact.data.checking import check
from headimpact.data.coco import annotation_path
from headimpact.data.images import read_image
from headimpact.errors import InputError
from headimpact.evaluation.answers import Scores, score
from headimpact.lifecycle import params
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.gateway import IMAGES, RefusedError, read_question
from headimpact.selection.grammar import alias, read_setup
from headimpact.text import normalise, words

numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 2**31, 2**63, 10**40, 1e308, float("nan"), float("inf")])
)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=20), st.sampled_from(["../x", "a\0b", "\ud800"])
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def changed(data: st.DataObject, content: Any) -> Any:
    """A JSON value with something else in one to three places, or with a place left out."""
    content = json.loads(json.dumps(content))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(content)))
        if not place:
            return data.draw(anything)
        holder = content
        for key in place[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[place[-1]] = data.draw(anything)
        else:
            del holder[place[-1]]
    return content


@dataclass(frozen=True)
class Place:
    """Where properties are tried.

    Attributes:
        dataset: a small one, which stays as it is.
        folder: an empty folder, for what is damaged.
        values: the content of params.yaml.
    """

    dataset: Path
    folder: Path
    values: dict[str, Any]


def annotations(place: Place, data: st.DataObject) -> None:
    """Annotation files in which something is changed."""
    folder = place.folder / "mine"
    if not folder.exists():
        shutil.copytree(place.dataset, folder)
        (folder / "manifest.json").unlink(missing_ok=True)
    content = json.loads(annotation_path(place.dataset, "test").read_text(encoding="utf-8"))
    text = json.dumps(changed(data, content))  # with NaN and Infinity, as Python writes them
    annotation_path(folder, "test").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        found = check(folder)
    except InputError:
        return
    assert all(problem.what and problem.advice for problem in found.problems)
    if not found.problems:
        assert found.parts["test"][0] <= len(content["images"])


def run_lengths(place: Place, data: st.DataObject) -> None:
    """Run lengths of any kind: a mask of the size, or a refusal."""
    whole_numbers = numbers.filter(lambda n: isinstance(n, int))
    counts = data.draw(st.one_of(st.text(max_size=12), st.lists(whole_numbers, max_size=6)))
    height, width = size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    try:
        rle = masks.from_run_lengths(Path("a.json"), "annotation 1", size, counts, (width, height))
    except InputError:
        return
    assert masks.decode(rle).shape == (height, width)
    assert masks.count_pixels(rle) == masks.decode(rle).sum()


def masks_come_back(place: Place, data: st.DataObject) -> None:
    """A mask comes back from its run lengths."""
    drawn = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(3, 4)
    assert (masks.decode(masks.encode(drawn)) == drawn).all()


def polygons(place: Place, data: st.DataObject) -> None:
    """Polygons with any numbers."""
    corners = st.lists(st.floats(allow_nan=False, width=32), min_size=6, max_size=8)
    try:
        rle = masks.from_polygons(
            Path("a.json"), "annotation 1", data.draw(st.lists(corners, min_size=1, max_size=2)), (7, 5)
        )
    except InputError:
        return
    assert masks.decode(rle).shape == (5, 7)


def picture(kind: str, **options: Any) -> bytes:
    """A small picture as a file."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def images(place: Place, data: st.DataObject) -> None:
    """Image files with bytes changed or missing."""
    content = bytearray(picture(data.draw(st.sampled_from(["PNG", "JPEG"]))))
    cut = data.draw(st.integers(0, 400))
    for where, value in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)):
        content[where % len(content)] = value
    try:
        image, stored = read_image(io.BytesIO(bytes(content[: len(content) - cut])), max_pixels=10_000)
    except InputError:
        return
    assert image.mode == "RGB"
    assert sorted(image.size) == sorted(stored)


def exif(place: Place, data: st.DataObject) -> None:
    """EXIF that is noise, and any orientation."""
    said = Image.Exif()
    said[0x0112] = min(data.draw(st.integers(0, 70_000)), 65_535)
    noise = picture("JPEG", exif=b"Exif\0\0" + data.draw(st.binary(max_size=60)))
    for content in (noise, picture("JPEG", exif=said)):
        image, stored = read_image(io.BytesIO(content))
        assert sorted(image.size) == sorted(stored)


def phrases(place: Place, data: st.DataObject) -> None:
    """Phrases in any script."""
    phrase = data.draw(st.text(max_size=30))
    once = normalise(phrase)
    assert normalise(once) == once
    assert normalise(f" {phrase}. ") == once or not words(phrase)
    if words(phrase):
        assert score(phrase, phrase) == Scores(1.0, 1.0, 1.0)


def parameters(place: Place, data: st.DataObject) -> None:
    """params.yaml in which something is changed."""
    path = place.folder / "params.yaml"
    path.write_text(json.dumps(changed(data, place.values)), encoding="utf-8")  # which is YAML, too
    with suppress(InputError):
        assert isinstance(params.load(path), Config)


def setups(place: Place, data: st.DataObject) -> None:
    """Texts that may be setups."""
    grammar = st.from_regex(r"\A(heads|layers|top|full|draw)[:-][0-9.,-]{0,30}\Z")
    text = data.draw(st.one_of(st.text(max_size=30), grammar))
    try:
        setup = read_setup(text)
    except InputError:
        return
    assert setup.text == text
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", alias(text))


def forms(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The forms of a request for a row."""
    return [
        {"dataframe_records": [row], "params": {"max_new_tokens": 3}},
        {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}},
        {"inputs": {name: [value] for name, value in row.items()}},
        row,
    ]


def request(data: st.DataObject, row: dict[str, Any]) -> bytes:
    """The body of a request in which something is changed."""
    return json.dumps(changed(data, data.draw(st.sampled_from(forms(row))))).encode()


def requests(place: Place, data: st.DataObject) -> None:
    """Requests in which something is changed come through in the one form, or not at all."""
    try:
        question = json.loads(
            read_question("application/json", {}, request(data, {"image": "aGk=", "prompt": "What?"}))
        )
    except RefusedError:
        return
    assert question.keys() == {"dataframe_records", "params"}
    assert all(isinstance(row, dict) for row in question["dataframe_records"])


def bodies(place: Place, data: st.DataObject) -> None:
    """Bodies that are noise; what is in one that comes as an image, the reader of images finds out."""
    body = data.draw(st.binary(max_size=60))
    kind = data.draw(st.text(max_size=30).filter(lambda kind: kind.partition(";")[0].strip().lower() not in IMAGES))
    for content_type in (kind, "application/json"):
        try:
            read_question(content_type, {}, body)
        except RefusedError:
            continue
        raise AssertionError(f"taken as {content_type!r}: {body!r}")


PROPERTIES: dict[str, Callable[[Place, st.DataObject], None]] = {
    function.__name__: function
    for function in (
        annotations,
        run_lengths,
        masks_come_back,
        polygons,
        images,
        exif,
        phrases,
        parameters,
        setups,
        requests,
        bodies,
    )
}
"""What is tried, by name."""
