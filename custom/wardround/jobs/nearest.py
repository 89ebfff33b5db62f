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


def class_meant(path: str, known: Iterable[str]) -> str:
    """Return "did you mean a, b? " for the known classes whose own names are nearest to
    that of this full name, whatever the case of their letters; "" where there are none.
    """
    name = path.rpartition(".")[2].lower()
    paths: dict[str, list[str]] = {}
    for one in dict.fromkeys(known):
        paths.setdefault(one.rpartition(".")[2].lower(), []).append(one)
    near = difflib.get_close_matches(name, paths, 3, 0.6)
    found = [one for key in near for one in sorted(paths[key])][:3]
    return f"did you mean {', '.join(found)}? " if found else ""
