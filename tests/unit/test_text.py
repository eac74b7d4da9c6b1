"""Phrases compared."""

import pytest

from headimpact.text import normalise


@pytest.mark.parametrize(
    ("phrase", "same"),
    [
        ("The street light", "street light"),
        ("  A  Man's   HAT. ", "man s hat"),
        ("an old T-shirt, the red one!", "old t shirt red one"),
        ("theatre", "theatre"),
        ("Straße", "strasse"),
    ],
)
def test_normalise(phrase, same):
    assert normalise(phrase) == same
