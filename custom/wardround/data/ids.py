"""Do the ids of two sources almost fit? A table may have lost its leading zeros, its
case of letters, or a prefix.

Only reasons and counts are returned, never an id, because the text may stand in a log.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection

_SEPARATORS = re.compile(r"[-_. /\\]+")


def _one_spelling(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _without_blanks(text: str) -> str:
    return re.sub(r"[\s\u200b\ufeff]+", "", _one_spelling(text))


def _without_case(text: str) -> str:
    return _without_blanks(text).casefold()


def _without_zeros(text: str) -> str:
    return re.sub(
        r"\d+",
        lambda match: match[0].lstrip("0") or "0",
        _without_case(text),
    )


def _without_decimals(text: str) -> str:
    return _without_zeros(re.sub(r"[.,]0+$", "", text.strip()))


def _without_separators(text: str) -> str:
    return _SEPARATORS.sub("", _without_zeros(text))


_REASONS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("the spelling of accents", _one_spelling),
    ("blanks", _without_blanks),
    ("upper and lower case", _without_case),
    ("leading zeros", _without_zeros),
    ("a decimal .0, as spreadsheets write it", _without_decimals),
    ("separators like - _ . or blank", _without_separators),
)


def alike(ids: Collection[str]) -> int:
    """Return how many ids differ from another one only in case of letters, blanks,
    leading zeros or separators.
    """
    plain = Counter(_without_separators(one) for one in set(ids))
    return sum(count for count in plain.values() if count > 1)


def almost(wanted: Collection[str], given: Collection[str]) -> str | None:
    """Return why ids that are wanted and missing almost fit ids that are given and left
    over; None if none of them does.

    The result is the first reason that holds for any of them, with the count. The last
    reason is a word before or behind the rest of the id.
    """
    lost = sorted(set(wanted) - set(given))
    left = sorted(set(given) - set(wanted))
    for reason, plain in _REASONS:
        keys = {plain(one) for one in left}
        count = sum(plain(one) in keys for one in lost)
        if count:
            return f"{count} of {len(lost)} would fit but for {reason}"
    whole, parts = (
        {_parted(one) for one in left},
        {part for one in left for part in _parts(one)},
    )
    count = sum(_parted(one) in parts or not whole.isdisjoint(_parts(one)) for one in lost)
    return f"{count} of {len(lost)} would fit but for a word before or behind the id" if count else None


def _parted(text: str) -> str:
    return _without_zeros(_SEPARATORS.sub("-", text)).strip("-")


def _parts(text: str) -> set[str]:
    """Return what is left of an id without words before or behind it: P_001 gives 1,
    sub-01-x gives 1-x and sub-1, P7 gives 7.
    """
    words = _parted(text).split("-")
    parts = {"-".join(words[k:]) for k in range(1, len(words))} | {"-".join(words[:k]) for k in range(1, len(words))}
    behind = re.sub(r"^[^\W\d_]+(?=\d)", "", "-".join(words))
    return {part.lstrip("0") or part for part in (parts | {behind}) - {"-".join(words)}}
