"""The known words that a mistyped one may have meant, for the `fix` of a refusal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean a, b? " for the known words that are nearest to this one, or
    that end in it; "" where there are none.
    """
    options = list(known)
    ends = [one for one in options if word and one.rpartition(".")[2] == word.rpartition(".")[2]]
    near = list(
        dict.fromkeys([*ends, *difflib.get_close_matches(word, options, 3, 0.6)]),
    )[:3]
    return f"did you mean {', '.join(near)}? " if near else ""
