"""Long work goes on where it was killed, and ends with the same bytes."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from headimpact.data import journal
from headimpact.data.lines import Line, read, to_json
from headimpact.errors import InputError

COUNT = 23
# Kills itself where `moment` says, as kill -9 does: nothing is flushed, no handler runs.
KILLED = """
import os, signal, sys
from pathlib import Path
from headimpact.data import journal
from test_journal import make, work

output, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
to_json, merge = journal.to_json, journal._merge

def half_a_line(line):
    if line.image_id == 17:
        shard = next(output.parent.glob("*.shards/*/*.jsonl"))
        with shard.open("ab") as stream:
            stream.write(to_json(line)[:20])
        die()
    return to_json(line)

def half_a_merge(*arguments):
    class Images(list):
        def __iter__(self):
            yield from list.__iter__(self[:9])
            die()
    merge(arguments[0], arguments[1], Images(arguments[2]))

def failing(first):
    return lambda group: die() if any(image.image_id >= first for image in group) else make(group)

task = {"first": failing(1), "middle": failing(13)}.get(moment, make)
if moment == "half a line":
    journal.to_json = half_a_line
if moment == "merge":
    journal._merge = half_a_merge
if moment == "removal":
    journal.shutil.rmtree = die
journal.complete(output, work(make=task), journal.Processes())
"""


class Answer(Line, frozen=True):
    answer: float
    error: str | None = None


def images(count: int = COUNT) -> list[Line]:
    return [Line(image_id=i, file_name=f"é{i}.jpg", width=4, height=3) for i in range(1, count + 1)]


def make(group: Sequence[Line]) -> list[Answer]:
    return [Answer(**image.model_dump(), answer=round(1 / (image.image_id + 3), 4)) for image in group]


def work(group_images: int = 3, settings: dict | None = None, make=make) -> journal.Work:
    return journal.Work(images, settings or {"model": "a"}, group_images, make)


def counted(done: list[int]):
    def make_and_count(group: Sequence[Line]) -> list[Answer]:
        done.extend(image.image_id for image in group)
        return make(group)

    return make_and_count


def alone(output: Path, task: journal.Work) -> bytes:
    assert journal.complete(output, task, journal.Processes())
    return output.read_bytes()


@pytest.fixture(scope="module")
def expected() -> bytes:
    return b"".join(to_json(line) for line in make(images()))


def test_lines_are_written_by_ascending_id_and_nothing_else_is_left(tmp_path, expected):
    assert alone(tmp_path / "deep" / "out.jsonl", work()) == expected
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.jsonl"]
    assert list(read(tmp_path / "deep" / "out.jsonl", Answer)) == make(images())


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path, expected, count):
    output, done = tmp_path / "out.jsonl", []
    for rank in reversed(range(count)):
        task = work(make=counted(done))
        assert journal.complete(output, task, journal.Processes(rank, count)) == (rank == 0)
        assert output.exists() == (rank == 0)
    assert output.read_bytes() == expected
    assert sorted(done) == list(range(1, COUNT + 1))


@pytest.mark.parametrize("group_images", [1, 5, 100])
def test_the_bytes_do_not_depend_on_the_size_of_the_groups(tmp_path, expected, group_images):
    assert alone(tmp_path / "out.jsonl", work(group_images)) == expected


def test_a_process_waits_for_the_others_before_it_writes_the_output(tmp_path, expected):
    output = tmp_path / "out.jsonl"

    def wait() -> None:
        assert not output.exists()
        journal.complete(output, work(), journal.Processes(1, 2))

    assert journal.complete(output, work(), journal.Processes(0, 2, wait))
    assert output.read_bytes() == expected


def test_a_process_that_ended_too_early_is_told_and_what_is_done_is_kept(tmp_path, expected):
    output, done = tmp_path / "out.jsonl", []
    with pytest.raises(InputError, match=r"image 4 was not worked on: another process .* Run the step again"):
        journal.complete(output, work(), journal.Processes(0, 2))
    assert not output.exists()
    assert alone(output, work(make=counted(done))) == expected
    assert done == [4, 5, 6, 10, 11, 12, 16, 17, 18, 22, 23]


@pytest.mark.parametrize("moment", ["first", "middle", "half a line", "merge", "removal"])
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path, project_root, expected, moment):
    output = tmp_path / "out.jsonl"
    paths = f"{project_root / 'src'}:{project_root / 'tests'}"
    killed = subprocess.run([sys.executable, "-c", KILLED, output, moment], env={"PYTHONPATH": paths}, check=False)
    assert killed.returncode == -9
    assert output.exists() == (moment == "removal")
    done = []
    assert alone(output, work(make=counted(done))) == expected
    assert len(done) == {"first": 23, "middle": 11, "half a line": 8, "merge": 0, "removal": 0}[moment]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_build_with_another_number_of_processes_goes_on(tmp_path, expected):
    output, done = tmp_path / "out.jsonl", []
    for rank in (1, 2):
        journal.complete(output, work(), journal.Processes(rank, 3))
    shard = next(tmp_path.glob("*.shards/*/2-of-3.jsonl"))
    shard.write_bytes(shard.read_bytes()[:-10])
    for rank in (1, 0):
        journal.complete(output, work(make=counted(done)), journal.Processes(rank, 2))
    assert output.read_bytes() == expected
    assert sorted(done) == [1, 2, 3, 10, 11, 12, 16, 17, 18, 19, 20, 21]


def test_the_half_of_a_line_is_cut_off_before_more_is_written(tmp_path, expected):
    output = tmp_path / "out.jsonl"
    journal.complete(output, work(), journal.Processes(1, 2))
    shard = next(tmp_path.glob("*.shards/*/1-of-2.jsonl"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    journal.complete(output, work(), journal.Processes(1, 2))
    assert shard.read_bytes() == whole
    assert journal.complete(output, work(), journal.Processes(0, 2))
    assert output.read_bytes() == expected


def test_lines_of_other_settings_are_not_continued(tmp_path, expected):
    output, done = tmp_path / "out.jsonl", []
    journal.complete(output, work(settings={"model": "b"}), journal.Processes(1, 2))
    assert alone(output, work(make=counted(done))) == expected
    assert sorted(done) == list(range(1, COUNT + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_progress_is_given_what_is_left(tmp_path):
    output, told = tmp_path / "out.jsonl", []

    def progress(groups, total):
        told.append(total)
        return groups

    journal.complete(output, work(), journal.Processes(1, 2), progress)
    journal.complete(output, work(), journal.Processes(0, 1), progress)
    assert told == [4, 4]


def test_no_images_make_an_empty_file(tmp_path):
    nothing = journal.Work(list, {}, 4, make)
    assert alone(tmp_path / "out.jsonl", nothing) == b""


def test_a_damaged_shard_is_told(tmp_path):
    journal.complete(tmp_path / "out.jsonl", work(), journal.Processes(1, 2))
    shard = next(tmp_path.glob("*.shards/*/1-of-2.jsonl"))
    shard.write_bytes(b"\0" * 7 + b"\n" + shard.read_bytes())
    with pytest.raises(InputError, match=r"1-of-2.jsonl: byte 0: .* Delete"):
        journal.complete(tmp_path / "out.jsonl", work(), journal.Processes())
