"""The step finetune, where there is nothing to train."""

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from headimpact.adapters.training import Measurement
from headimpact.files import write_json
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.config import Job
from headimpact.lifecycle.steps import finetune


def test_the_history_of_the_original_is_that_of_a_training_without_rows(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, job = params.load(project_root / "params.yaml"), Job("tiny-smolvlm", "original")
    monkeypatch.chdir(tmp_path)
    write_json(layout.selection(job.model, job.setup), {"layers": [], "table_digest": ""})
    summary = finetune.run(config, job)
    assert summary.rows == [("layers", "none: there is nothing to train")]
    assert not layout.adapter(job.model, job.setup).exists()
    history = pd.read_csv(layout.history(job.model, job.setup))
    assert list(history) == [field.name for field in fields(Measurement)]
    assert history.empty
