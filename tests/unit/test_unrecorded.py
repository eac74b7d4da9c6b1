"""What was computed stays until it is recorded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headimpact.lifecycle import unrecorded

FACTS = {"base": "a", "values": {"sizes": (1, 2)}}


@pytest.fixture
def removed() -> list[str]:
    return []


def test_it_is_removed_when_everything_in_the_block_is_recorded(removed: list[str]) -> None:
    with unrecorded.until_recorded():
        unrecorded.when_recorded(lambda: removed.append("training"))
        with unrecorded.until_recorded():  # what is upstream is recorded sooner
            unrecorded.when_recorded(lambda: removed.append("upstream"))
        assert removed == ["upstream"]
    assert removed == ["upstream", "training"]


def fails(work: Callable[[], None]) -> None:
    """A step that works and then cannot be recorded."""

    def step() -> None:
        with unrecorded.until_recorded():
            work()
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        step()


def test_it_stays_where_recording_fails(removed: list[str]) -> None:
    fails(lambda: unrecorded.when_recorded(lambda: removed.append("training")))
    with unrecorded.until_recorded():  # of another command: what failed is not its own
        pass
    assert removed == []


def test_where_nothing_is_recorded_it_goes_at_once(removed: list[str]) -> None:
    unrecorded.when_recorded(lambda: removed.append("training"))
    assert removed == ["training"]


def written(folder: Path) -> Path:
    output = folder / "output"
    output.mkdir()
    (output / "results.json").write_text("{}")
    return output


def test_a_result_comes_back_after_it_was_removed(tmp_path: Path) -> None:
    output, place = written(tmp_path), tmp_path / "kept"
    fails(lambda: unrecorded.keep(output, place, FACTS))
    (output / "results.json").unlink()  # as DVC does before it runs a stage
    output.rmdir()
    with unrecorded.until_recorded():
        assert not unrecorded.restore(output, place, FACTS | {"base": "b"})
        assert unrecorded.restore(output, place, FACTS)
        assert [path.name for path in output.iterdir()] == ["results.json"]
        assert place.exists()
    assert not place.exists()
    assert output.exists()


def test_nothing_comes_back_where_nothing_was_kept(tmp_path: Path) -> None:
    assert not unrecorded.restore(tmp_path / "output", tmp_path / "kept", FACTS)
    assert not (tmp_path / "output").exists()


def test_what_was_made_once_is_not_made_again_until_it_is_recorded(tmp_path: Path) -> None:
    place, calls = tmp_path / "kept", []

    def make() -> list[tuple[str, str]]:
        calls.append(1)
        written(tmp_path)
        return [("2 images", "too small")]

    def make_once() -> None:
        unrecorded.once(output, place, FACTS, make)

    output = tmp_path / "output"
    fails(make_once)
    with unrecorded.until_recorded():
        assert unrecorded.once(output, place, FACTS, make) == ([["2 images", "too small"]], True)
    shutil.rmtree(output)
    with unrecorded.until_recorded():
        assert unrecorded.once(output, place, FACTS, make) == ([["2 images", "too small"]], False)
    assert len(calls) == 2
