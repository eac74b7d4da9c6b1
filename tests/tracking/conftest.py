"""A project folder with a database, as the working directory of every test."""

import shutil
from pathlib import Path

import pytest

from headimpact.lifecycle import tracking


@pytest.fixture(scope="module")
def store(tracking_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a database: the tests share it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(tracking_database, folder)
    return folder


@pytest.fixture(autouse=True)
def project(store: Path, without_mlflow: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project folder as the working directory."""
    monkeypatch.chdir(store)
    tracking.initialise()
    return store
