import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from headimpact.data import records
from headimpact.errors import InputError

COUNT = 23
# Kills itself where `moment` says, as kill -9 does: nothing is flushed, no handler runs.
KILLED = """
import os, signal, sys
from pathlib import Path
from headimpact.data import records
from test_records import make, work

output, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
line, merge = records.line, records._merge

def half_a_line(record):
    if record.image_id == 17:
        shard = next(output.parent.glob("*.shards/*/*.jsonl"))
        with shard.open("ab") as stream:
            stream.write(line(record)[:20])
        die()
    return line(record)

def half_a_merge(*arguments):
    class Entries(list):
        def __iter__(self):
            yield from list.__iter__(self[:9])
            die()
    merge(arguments[0], arguments[1], Entries(arguments[2]))

def failing(first):
    return lambda group: die() if any(entry.image_id >= first for entry in group) else make(group)

task = {"first": failing(1), "middle": failing(13)}.get(moment, make)
if moment == "half a line":
    records.line = half_a_line
if moment == "merge":
    records._merge = half_a_merge
if moment == "removal":
    records.shutil.rmtree = die
records.complete(output, work(make=task), records.Processes())
"""


class Answer(records.Record, frozen=True):
    answer: float
    error: str | None = None


def entries(count: int = COUNT) -> list[records.Record]:
    return [records.Record(image_id=i, file_name=f"é{i}.jpg", width=4, height=3) for i in range(1, count + 1)]


def make(group: Sequence[records.Record]) -> list[Answer]:
    return [Answer(**entry.model_dump(), answer=round(1 / (entry.image_id + 3), 4)) for entry in group]


def work(group_images: int = 3, settings: dict | None = None, make=make) -> records.Work:
    return records.Work(entries, settings or {"model": "a"}, group_images, make)


def counted(done: list[int]):
    def make_and_count(group: Sequence[records.Record]) -> list[Answer]:
        done.extend(entry.image_id for entry in group)
        return make(group)

    return make_and_count


def alone(output: Path, task: records.Work) -> bytes:
    assert records.complete(output, task, records.Processes())
    return output.read_bytes()


@pytest.fixture(scope="module")
def expected() -> bytes:
    return b"".join(records.line(record) for record in make(entries()))


def test_lines_are_written_by_ascending_id_and_nothing_else_is_left(tmp_path, expected):
    assert alone(tmp_path / "deep" / "out.jsonl", work()) == expected
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.jsonl"]
    assert list(records.read(tmp_path / "deep" / "out.jsonl", Answer)) == make(entries())


def test_what_is_none_is_left_out_and_text_stays_readable(expected):
    assert expected.splitlines()[0].decode() == (
        '{"image_id": 1, "file_name": "é1.jpg", "width": 4, "height": 3, "answer": 0.25}'
    )


def test_a_number_that_is_none_is_not_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        records.line(Answer(image_id=1, file_name="a", width=1, height=1, answer=float("nan")))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path, expected, count):
    output, done = tmp_path / "out.jsonl", []
    for rank in reversed(range(count)):
        shared = work(make=counted(done))
        assert records.complete(output, shared, records.Processes(rank, count)) == (rank == 0)
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
        records.complete(output, work(), records.Processes(1, 2))

    assert records.complete(output, work(), records.Processes(0, 2, wait))
    assert output.read_bytes() == expected


def test_a_process_that_ended_too_early_is_told_and_what_is_done_is_kept(tmp_path, expected):
    output, done = tmp_path / "out.jsonl", []
    with pytest.raises(InputError, match=r"image 4 was not worked on: another process .* Run the step again"):
        records.complete(output, work(), records.Processes(0, 2))
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
        records.complete(output, work(), records.Processes(rank, 3))
    shard = next(tmp_path.glob("*.shards/*/2-of-3.jsonl"))
    shard.write_bytes(shard.read_bytes()[:-10])
    for rank in (1, 0):
        records.complete(output, work(make=counted(done)), records.Processes(rank, 2))
    assert output.read_bytes() == expected
    assert sorted(done) == [1, 2, 3, 10, 11, 12, 16, 17, 18, 19, 20, 21]


def test_the_half_of_a_line_is_cut_off_before_more_is_written(tmp_path, expected):
    output = tmp_path / "out.jsonl"
    records.complete(output, work(), records.Processes(1, 2))
    shard = next(tmp_path.glob("*.shards/*/1-of-2.jsonl"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    records.complete(output, work(), records.Processes(1, 2))
    assert shard.read_bytes() == whole
    assert records.complete(output, work(), records.Processes(0, 2))
    assert output.read_bytes() == expected


def test_lines_of_other_settings_are_not_continued(tmp_path, expected):
    output, done = tmp_path / "out.jsonl", []
    records.complete(output, work(settings={"model": "b"}), records.Processes(1, 2))
    assert alone(output, work(make=counted(done))) == expected
    assert sorted(done) == list(range(1, COUNT + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_progress_is_given_what_is_left(tmp_path):
    output, told = tmp_path / "out.jsonl", []

    def progress(groups, total):
        told.append(total)
        return groups

    records.complete(output, work(), records.Processes(1, 2), progress)
    records.complete(output, work(), records.Processes(0, 1), progress)
    assert told == [4, 4]


def test_no_images_make_an_empty_file(tmp_path):
    nothing = records.Work(list, {}, 4, make)
    assert alone(tmp_path / "out.jsonl", nothing) == b""


def test_a_damaged_shard_is_told(tmp_path):
    records.complete(tmp_path / "out.jsonl", work(), records.Processes(1, 2))
    shard = next(tmp_path.glob("*.shards/*/1-of-2.jsonl"))
    shard.write_bytes(b"\0" * 7 + b"\n" + shard.read_bytes())
    with pytest.raises(InputError, match=r"1-of-2.jsonl: byte 0: .* Delete"):
        records.complete(tmp_path / "out.jsonl", work(), records.Processes())


GOOD = '{"image_id": 5, "file_name": "a.jpg", "width": 4, "height": 3, "answer": 1}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "line 1: the line: Invalid JSON"),
        (GOOD + GOOD, "line 2: image 5 comes after image 5"),
        (GOOD.replace('"answer": 1', '"answer": "x"'), "line 1: answer: "),
        (GOOD.replace("a.jpg", "../a.jpg"), "leaves the folder of images"),
        (GOOD.replace("a.jpg", "/a.jpg"), "leaves the folder of images"),
        (GOOD.replace("a.jpg", "C:\\\\a.jpg"), "leaves the folder of images"),
        (GOOD.replace("a.jpg", "b\\\\..\\\\..\\\\a.jpg"), "leaves the folder of images"),
        (GOOD.replace("4", "0"), "line 1: width: "),
    ],
)
def test_a_file_that_is_no_file_of_records_is_told(tmp_path, text, message):
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(records.read(path, Answer))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(records.read(tmp_path / "none.jsonl", Answer))
