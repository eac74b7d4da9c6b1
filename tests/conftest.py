"""What all tests share."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Snapshots of text are compared, or written anew."""
    parser.addoption("--renew", action="store_true", help="write tests/snapshots/ anew; look at the changes with git")


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def outputs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every step has written its files, made up by ``report_outputs``; nobody changes it."""
    import report_outputs

    root = tmp_path_factory.mktemp("outputs")
    report_outputs.write_everything(root)
    return root


@pytest.fixture(scope="session")
def outputs(outputs_root: Path):
    """These files, read."""
    import report_outputs

    from headimpact.lifecycle.outputs import collect

    return collect([report_outputs.MODEL], report_outputs.SETUPS, outputs_root)
