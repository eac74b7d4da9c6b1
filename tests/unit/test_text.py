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
        ("vitamin A", "vitamin a"),
        ("red_ball", "red ball"),
        ("?!", "?!"),
        ("C++ logo", "c + + logo"),
        ("C# logo", "c # logo"),
        ("หมู", "ห มู"),
        ("काला कुत्ता", "काला कुत्ता"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("o\u0308 \u0304", "\u022b"),  # the mark that stands apart goes with the letter
        ("m²", "m2"),
        ("❤\ufe0f", "❤"),
        ("👩\u200d🔬 at work", "👩🔬 at work"),
        ("👍🏽", "👍🏽"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
    ],
)
def test_normalise(phrase, same):
    assert normalise(phrase) == same
