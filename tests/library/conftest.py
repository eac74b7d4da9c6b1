"""A base, and its scores of two images."""

from pathlib import Path

import pytest
from in_memory import in_memory

import headimpact
from headimpact.impact.head_impact import Impact
from headimpact.vlm.base import Vlm


@pytest.fixture(scope="session")
def smolvlm(project_root: Path) -> Vlm:
    return headimpact.load_base(project_root / "models/bases/tiny-smolvlm", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def impact(smolvlm: Vlm) -> Impact:
    return headimpact.score(smolvlm, in_memory(1, 2))
