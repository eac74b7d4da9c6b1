"""What all tests share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

SOURCE = Path(__file__).resolve().parent.parent / "src"


def modules_with_shapes() -> list[str]:
    """The modules that annotate shapes."""
    return [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in sorted(SOURCE.rglob("*.py"))
        if "from jaxtyping import" in path.read_text(encoding="utf-8")
    ]


# Shapes are held to their annotations wherever there are any. Not elsewhere: looking at the arguments of a small
# function takes several times as long as the function.
install_import_hook(modules_with_shapes(), "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Snapshots of text are compared, or written anew."""
    parser.addoption("--renew", action="store_true", help="write tests/snapshots/ anew; look at the changes with git")


# What takes longest begins first: the last ones then end together. A file goes to one worker (`--dist loadscope`), so
# that what is made for all of its tests is made once.
FIRST = ("test_lifecycle", "test_tournament_step", "pipeline/", "test_cluster", "test_shared_work", "test_simulation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of FIRST to the front, in this order."""

    def place(item: pytest.Item) -> int:
        return next((index for index, name in enumerate(FIRST) if name in item.nodeid), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Gives the folder of a name, which a function has filled once for all workers; nobody changes it."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                aside = tmp_path_factory.mktemp(name)
                make(aside)
                aside.rename(shared / name)
        return shared / name

    return made


@pytest.fixture(scope="session")
def outputs_root(made_once: MadeOnce) -> Path:
    """A project in which every step has written its files, made up by ``report_outputs``."""
    import report_outputs

    return made_once("outputs", report_outputs.write_everything)


@pytest.fixture(scope="session")
def outputs(outputs_root: Path):
    """These files, read."""
    import report_outputs

    from headimpact.lifecycle.outputs import collect

    return collect([report_outputs.MODEL], report_outputs.SETUPS, outputs_root)


@pytest.fixture(scope="session")
def florence(made_once: MadeOnce) -> Path:
    """The folder of a toy Florence-2; to be left as it is."""
    import toy_models

    return made_once("florence", toy_models.save_florence)


@pytest.fixture(scope="session")
def sam(made_once: MadeOnce) -> Path:
    """The folder of a toy SAM 2; to be left as it is."""
    import toy_models

    return made_once("sam", toy_models.save_sam)


@pytest.fixture(scope="session")
def tracking_database(made_once: MadeOnce) -> Path:
    """MLflow's database with the project's experiment, which takes seconds to make; to be copied."""
    import mlflow

    from headimpact.lifecycle import tracking

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            _forget_mlflow(patch)
            patch.chdir(folder)
            tracking.initialise()
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]

    return made_once("tracking", make) / "mlflow.db"


@pytest.fixture
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the caller's MLflow or DVC in the environment."""
    import mlflow

    _forget_mlflow(monkeypatch)
    yield
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.fixture
def tracked(without_mlflow: None, tracking_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with a database of its own as the working directory."""
    from headimpact.lifecycle import tracking

    shutil.copy(tracking_database, tmp_path)
    monkeypatch.chdir(tmp_path)
    tracking.initialise()
    return tmp_path


def _forget_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from headimpact.lifecycle import tracking

    names = [name for name in os.environ if name.startswith("MLFLOW_") and "TELEMETRY" not in name]
    for name in (*names, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", tracking.STAGE, tracking.PARENT_RUN):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
