"""The lines between the steps: what is written is read, and nothing else is."""

import pytest

from headimpact.data.lines import Line, read, to_json
from headimpact.errors import InputError


class Answer(Line, frozen=True):
    answer: float
    error: str | None = None


def test_what_is_none_is_left_out_and_text_stays_readable():
    line = Answer(image_id=1, file_name="é1.jpg", width=4, height=3, answer=0.25)
    assert to_json(line).decode() == (
        '{"image_id": 1, "file_name": "é1.jpg", "width": 4, "height": 3, "answer": 0.25}\n'
    )


def test_what_is_written_is_read(tmp_path):
    lines = [
        Answer(image_id=number, file_name="a.jpg", width=1, height=1, answer=number / 3, error=error)
        for number, error in ((1, None), (5, "torn\nin two"))
    ]
    (tmp_path / "out.jsonl").write_bytes(b"".join(map(to_json, lines)))
    assert list(read(tmp_path / "out.jsonl", Answer)) == lines


def test_a_number_that_is_none_is_not_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(Answer(image_id=1, file_name="a", width=1, height=1, answer=float("nan")))


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
def test_a_file_of_other_lines_is_refused(tmp_path, text, message):
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(read(path, Answer))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(read(tmp_path / "none.jsonl", Answer))
