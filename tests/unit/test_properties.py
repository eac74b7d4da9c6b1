"""Hostile input: whatever it holds, it is taken or refused in a sentence, and what is taken is sound.

Hypothesis makes the inputs, the same ones in every run.
"""

import io
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_datasets import write_small_dataset

from headimpact.data import masks
from headimpact.data.checking import check
from headimpact.data.coco import annotation_path
from headimpact.data.images import read_image
from headimpact.errors import InputError
from headimpact.evaluation.answers import Scores, score
from headimpact.lifecycle import params
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.gateway import RefusedError, read_question
from headimpact.selection.grammar import alias, read_setup
from headimpact.text import normalise, words

hostile = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_dataset(tmp_path_factory.mktemp("data") / "mine")


@settings(hostile, max_examples=25)
@given(data=st.data())
def test_annotations(dataset: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "mine"
    if not folder.exists():
        shutil.copytree(dataset, folder)
        (folder / "manifest.json").unlink(missing_ok=True)
    content = json.loads(annotation_path(dataset, "test").read_text(encoding="utf-8"))
    text = json.dumps(changed(data, content))  # with NaN and Infinity, as Python writes them
    annotation_path(folder, "test").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        found = check(folder)
    except InputError:
        return
    assert all(problem.what and problem.advice for problem in found.problems)
    if not found.problems:
        assert found.parts["test"][0] <= len(content["images"])


@hostile
@given(
    counts=st.one_of(st.text(max_size=12), st.lists(numbers.filter(lambda n: isinstance(n, int)), max_size=6)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_run_lengths(counts: Any, size: tuple[int, int]) -> None:
    height, width = size
    try:
        rle = masks.from_run_lengths(Path("a.json"), "annotation 1", size, counts, (width, height))
    except InputError:
        return
    assert masks.decode(rle).shape == (height, width)
    assert masks.count_pixels(rle) == masks.decode(rle).sum()


@hostile
@given(mask=st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_mask_comes_back_from_its_run_lengths(mask: list[bool]) -> None:
    drawn = np.array(mask).reshape(3, 4)
    assert (masks.decode(masks.encode(drawn)) == drawn).all()


@hostile
@given(
    polygons=st.lists(st.lists(st.floats(allow_nan=False, width=32), min_size=6, max_size=8), min_size=1, max_size=2)
)
def test_polygons(polygons: list[list[float]]) -> None:
    try:
        rle = masks.from_polygons(Path("a.json"), "annotation 1", polygons, (7, 5))
    except InputError:
        return
    assert masks.decode(rle).shape == (5, 7)


def picture(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@hostile
@given(
    kind=st.sampled_from(["PNG", "JPEG"]),
    cut=st.integers(0, 400),
    spoiled=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_images(kind: str, cut: int, spoiled: list[tuple[int, int]]) -> None:
    content = bytearray(picture(kind))
    for place, value in spoiled:
        content[place % len(content)] = value
    try:
        image, stored = read_image(io.BytesIO(bytes(content[: len(content) - cut])), max_pixels=10_000)
    except InputError:
        return
    assert image.mode == "RGB"
    assert sorted(image.size) == sorted(stored)


@hostile
@given(exif=st.binary(max_size=60), orientation=st.integers(0, 70_000))
def test_exif(exif: bytes, orientation: int) -> None:
    said = Image.Exif()
    said[0x0112] = min(orientation, 65_535)
    for content in (picture("JPEG", exif=b"Exif\0\0" + exif), picture("JPEG", exif=said)):
        image, stored = read_image(io.BytesIO(content))
        assert sorted(image.size) == sorted(stored)


@hostile
@given(phrase=st.text(max_size=30))
def test_phrases(phrase: str) -> None:
    once = normalise(phrase)
    assert normalise(once) == once
    assert normalise(f" {phrase}. ") == once or not words(phrase)
    if words(phrase):
        assert score(phrase, phrase) == Scores(1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def values(project_root: Path) -> dict[str, Any]:
    return yaml.safe_load((project_root / params.layout.PARAMS).read_text(encoding="utf-8"))


@hostile
@given(data=st.data())
def test_params(values: dict[str, Any], tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(changed(data, values)), encoding="utf-8")  # which is YAML, too
    with suppress(InputError):
        assert isinstance(params.load(path), Config)


@hostile
@given(text=st.one_of(st.text(max_size=30), st.from_regex(r"\A(heads|layers|top|full|draw)[:-][0-9.,-]{0,30}\Z")))
def test_setups(text: str) -> None:
    try:
        setup = read_setup(text)
    except InputError:
        return
    assert setup.text == text
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", alias(text))


ROW = {"image": "aGk=", "prompt": "What?"}
FORMS = [
    {"dataframe_records": [ROW], "params": {"max_new_tokens": 3}},
    {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}},
    {"inputs": {name: [value] for name, value in ROW.items()}},
    ROW,
]


@hostile
@given(data=st.data())
def test_requests(data: st.DataObject) -> None:
    body = json.dumps(changed(data, data.draw(st.sampled_from(FORMS)))).encode()
    try:
        question = json.loads(read_question("application/json", {}, body))
    except RefusedError:
        return
    assert question.keys() == {"dataframe_records", "params"}
    assert all(isinstance(row, dict) for row in question["dataframe_records"])


@hostile
@given(body=st.binary(max_size=60), kind=st.text(max_size=30))
def test_bodies(body: bytes, kind: str) -> None:
    for content_type in (kind, "application/json"):
        with pytest.raises(RefusedError):
            read_question(content_type, {}, body)
