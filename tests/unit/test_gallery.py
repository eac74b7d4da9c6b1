"""The gallery: everything in one page, nothing of it read as markup."""

from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from headimpact.data.samples import Sample, key_object
from headimpact.report import gallery


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    masks = np.zeros((2, 60, 80), dtype=bool)
    masks[0, 10:30, 10:30] = True
    masks[1, 30:50, 50:70] = True
    path = tmp_path / "grey.png"
    Image.new("RGB", (80, 60), (100, 100, 100)).save(path)
    objects = [
        key_object(70 + i, phrase, mask, 1.0)
        for i, (phrase, mask) in enumerate(zip(("red <b>star</b>", "blue ring"), masks, strict=True))
    ]
    return Sample(7, path, 80, 60, tuple(objects))


def answers(sample: Sample, caption: str, scores: tuple[float, float]) -> pd.DataFrame:
    rows = []
    for obj, f1 in zip(sample.objects, scores, strict=True):
        for kind in ("caption", "question", "cutout"):
            row = {"image_id": sample.id, "object_id": obj.id, "phrase": obj.phrase, "kind": kind, "prompt": f"{kind}?"}
            rows.append(row | {"answer": f"{caption} {kind}", "exact_match": float(f1 == 1), "f1": f1})
    return pd.DataFrame(rows)


def test_every_setup_stands_beside_the_others(sample: Sample):
    generated = {"original": answers(sample, "a", (0.25, 0.5)), "top-4": answers(sample, "<script>b", (1.0, 0.0))}
    page = gallery.html("What tiny says", [sample], generated)
    assert "<script>b" not in page
    assert "red <b>" not in page
    shown = unescape(page)
    for text in ("red <b>star</b>", "blue ring", "a cutout", "<script>b caption", "Prompts: caption: caption?"):
        assert text in shown
    assert page.count("F1 0.50, 2") == 2  # the original's caption and question are nearest to object 2
    assert page.count("F1 1.00, 1") == 2
    assert page.count("F1 0.25") == 1
    assert page.count("<strong>") == 3
    assert page.count("data:image/jpeg;base64,") == 1
    assert 'src="http' not in page
    assert page == gallery.html("What tiny says", [sample], generated)


def test_objects_are_outlined_and_the_rest_is_left_alone(sample: Sample):
    drawn = np.asarray(gallery.outlined(sample)).astype(int)
    assert drawn.shape == (60, 80, 3)
    changed = (drawn != 100).any(axis=2)
    assert changed[9, 10:30].all()  # beside the first object
    assert changed[50, 50:70].all()  # below the second
    assert not changed[11, 11:17].any()  # within the first, away from its number
    assert not changed[:, 35:45].any()
    assert tuple(drawn[9, 15]) != tuple(drawn[50, 65])  # each has its own colour
