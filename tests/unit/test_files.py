"""Files are whole or absent, also after a process was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headimpact.errors import InputError
from headimpact.files import MACHINE, atomic_file, atomic_folder, read_json, read_json_object


def write(atomic, path: Path, text: str) -> None:
    with atomic(path) as aside:
        (aside if atomic is atomic_file else aside / "file").write_text(text)
        if text == "bad":
            raise ValueError("in the middle")


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
    dead = dead_process()
    (tmp_path / f".a.json.{MACHINE}.{dead}.tmp").write_text("half")
    (tmp_path / f".a.json.{MACHINE}.{os.getppid()}.tmp").write_text("another process is at it")
    (tmp_path / f".other.json.{MACHINE}.{dead}.tmp").write_text("of another file")
    (tmp_path / f".a.json.another-{MACHINE}.{dead}.tmp").write_text("a process of another machine is at it")
    with atomic_file(tmp_path / "a.json") as aside:
        aside.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        f".a.json.another-{MACHINE}.{dead}.tmp",
        "a.json",
        f".a.json.{MACHINE}.{os.getppid()}.tmp",
        f".other.json.{MACHINE}.{dead}.tmp",
    }


def test_a_leftover_folder_is_removed(tmp_path):
    leftover = tmp_path / f".folder.{MACHINE}.{dead_process()}.tmp"
    leftover.mkdir()
    (leftover / "file").write_text("half")
    with atomic_folder(tmp_path / "folder") as aside:
        (aside / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder/file").read_text() == "whole"


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_what_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path, atomic):
    write(atomic, tmp_path / "it", "old")
    with pytest.raises(ValueError, match="in the middle"):
        write(atomic, tmp_path / "it", "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    found = tmp_path / "it" if atomic is atomic_file else tmp_path / "it/file"
    assert found.read_text() == "old"


def test_a_link_in_the_place_of_a_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "it").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"it is a link\. Remove the link"):
        write(atomic_folder, tmp_path / "it", "new")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "it nests too deeply"),
        ("9" * 5000, "is not valid JSON: Exceeds the limit"),
        ("{", "is not valid JSON: Expecting property name"),
        ("\xff", "is not valid JSON: 'utf-8' codec can't decode"),
    ],
)
def test_json_that_cannot_be_read_is_told(text: str, message: str, tmp_path: Path):
    path = tmp_path / "it.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=rf"it\.json.* {message}"):
        read_json(path)


def test_json_of_another_shape_is_told(tmp_path: Path):
    path = tmp_path / "it.json"
    path.write_text('{"a": 1}', encoding="utf-8")
    assert read_json_object(path, "a") == {"a": 1}
    with pytest.raises(InputError, match=r"it\.json has no b, c\. Was it edited by hand"):
        read_json_object(path, "a", "b", "c")
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"it\.json holds no JSON object"):
        read_json_object(path)
