"""Text: phrases compared, and lists in words."""

import re
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}


def normalise(phrase: str) -> str:
    """A phrase for comparison: lower case, without punctuation, articles and extra spaces."""
    words = re.sub(r"[\W_]+", " ", phrase.casefold()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def listed(names: Sequence[str]) -> str:
    """As in ``a, b and c``."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)
