"""Terminals that are not UTF-8."""

import io
import sys

import pytest

from headimpact.lifecycle.summary import Summary, print_summary
from headimpact.lifecycle.terminal import make_printable


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_summary_is_printed_in_what_the_terminal_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch):
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding=encoding))
    make_printable()
    print_summary(Summary("evaluate", [("accuracy ↑", "0.9 ± 0.1 Кот")], next="mlflow ui"))
    sys.stdout.flush()
    text = taken.getvalue().decode(encoding)
    assert "accuracy (up)" in text
    assert ("0.9 +/- 0.1 ???" if encoding == "ascii" else "0.9 ± 0.1 ???") in text
