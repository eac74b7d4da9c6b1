"""Head Impact in the precision of a GPU: what is measured is the model, not its rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from headimpact.data import coco
from headimpact.data.samples import Sample
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.forward import Engine
from headimpact.impact.head_impact import Impact
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.lifecycle import layout
from headimpact.tiny import bases
from headimpact.vlm import loading
from headimpact.vlm.attention import softmax_rows


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 16, "train": 1, "val": 1, "test": 1}, seed=0)
    return coco.read_part(folder, "impact")


@pytest.mark.parametrize("name", bases.TINY)
def test_head_impact_in_bfloat16_is_that_in_float32(name: str, samples: list[Sample], project_root: Path) -> None:
    def scored(dtype: str) -> Impact:
        base = loading.load(str(project_root / layout.base(name)), device="cpu", dtype=dtype)
        return score_images(Engine(base), samples, ChanceSettings(0.5, 2, 0))[0]

    exact, rounded = scored("float32"), scored("bfloat16")
    difference = np.abs(exact.hi - rounded.hi)
    # A token at the mean of a row may fall on its other side, and an object's IoU with it: of one object, not of more.
    assert difference.max() < 1 / len(exact.object_ids)
    assert difference.mean() < 0.002
    top = [set(np.argsort(-impact.layer_scores())[:4].tolist()) for impact in (exact, rounded)]
    assert top[0] == top[1]


def test_rows_are_computed_in_float32_from_what_the_model_projects() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 5, 64, generator=generator).bfloat16() * 3 for _ in range(2))
    seen = torch.ones(5, 5, dtype=torch.bool)
    expected = (query.double() @ key.double().transpose(1, 2) / 8).softmax(-1)
    found = softmax_rows(query, key, seen, 1 / 8, None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
