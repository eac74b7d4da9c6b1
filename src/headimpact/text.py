"""Text: phrases compared, in any script, and lists in words."""

import unicodedata
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
_SIGNS = "#%&@"
"""Punctuation by Unicode's lists, but a part of names: C# is another language than C."""
_BREAK, _JOINER = "\u200b", "\u200d"
_SELECTORS = "\ufe0e\ufe0f"  # emoji drawn in colour or not
_SKINS = ("\U0001f3fb", "\U0001f3ff")
_UNSPACED = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR")
"""How Unicode's names of letters begin in scripts that are written without spaces between words."""


def words(text: str) -> list[str]:
    """The words of a text, in any script, as they are compared: without case, punctuation and ways of encoding.

    Letters keep their combining marks. A sign that is no punctuation (``+``, ``#``, an emoji with what is joined to
    it) is a word of its own, and so is a letter of a script that is written without spaces.
    """
    found: list[str] = []
    is_open = joins = False  # whether a letter, or whatever comes next, goes on with the last word
    for character in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        kind = unicodedata.category(character)
        goes_on = bool(found) and (joins or kind[0] == "M" or _SKINS[0] <= character <= _SKINS[1])
        if character in _SELECTORS or (kind == "Cf" and character != _BREAK):
            joins = character == _JOINER and bool(found) and _is_sign(found[-1][0])
            continue
        if kind[0] in "LNM":
            alone = _is_unspaced(character)
            if goes_on or (is_open and not alone):
                found[-1] += character
            else:
                found.append(character)
            is_open = is_open if goes_on else not alone
        elif _is_sign(character):
            if goes_on:
                found[-1] += character
            else:
                found.append(character)
            is_open = False
        else:
            is_open = False
        joins = False
    # A mark that stood apart may make one character with the letter that it has come to.
    return [unicodedata.normalize("NFC", word) for word in found]


def _is_sign(character: str) -> bool:
    return character in _SIGNS or unicodedata.category(character)[0] == "S"


def _is_unspaced(character: str) -> bool:
    return character > "\u0e00" and unicodedata.name(character, "").startswith(_UNSPACED)


def normalise(phrase: str) -> str:
    """A phrase for comparison: two phrases that a person would call the same become the same text.

    Its :func:`words` without articles (what comes last is none: *vitamin A*); where it has no word, as in *?!*, the
    phrase as it is.
    """
    of_phrase = words(phrase)
    kept = [word for word in of_phrase[:-1] if word not in ARTICLES] + of_phrase[-1:]
    return " ".join(kept) or unicodedata.normalize("NFKC", phrase).strip()


def listed(names: Sequence[str]) -> str:
    """As in ``a, b and c``."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)
