"""Which words do dataset.json and site files use for the labels of a mask, and what do
they mean?
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from wardround.core.errors import DataRefused

MEANS = {0: "no tumour", 1: "core", 2: "oedema", 3: "enhancing"}
WHOLE = "whole"
TUMOUR_CORE = "tumour core"
IGNORED = "ignored"
_CODES = {"oedema": 2, "enhancing": 3, "core": 1, "cavity": 0}

_BACKGROUND = re.compile(
    r"background|bg|none|no tumou?r|normal|healthy|healthy tissue|normal tissue|clear label|unlabell?ed"
)
_EXACT: dict[str, str | int] = {
    **dict.fromkeys(
        (
            "wt",
            "whole",
            "tumor",
            "tumour",
            "tumors",
            "tumours",
            "lesion",
            "lesions",
            "glioma",
            "gtv",
        ),
        WHOLE,
    ),
    **dict.fromkeys(
        (
            "whole tumor",
            "whole tumour",
            "complete tumor",
            "complete tumour",
            "foreground",
            "whole tumor wt",
            "whole tumour wt",
        ),
        WHOLE,
    ),
    **dict.fromkeys(
        (
            "entire tumor",
            "entire tumour",
            "brain tumor",
            "brain tumour",
            "gross tumor volume",
            "gross tumour volume",
        ),
        WHOLE,
    ),
    **dict.fromkeys(
        ("tc", "core", "tumor core", "tumour core", "tumor core tc", "tumour core tc"),
        TUMOUR_CORE,
    ),
    "ignore": IGNORED,
}
# Taken out of the text one after the other: what is left of `non-enhancing` must not be
# read as `enhancing`.
_PARTS: tuple[tuple[str, str], ...] = (
    (
        "oedema",
        r"(surrounding )?non[ -]?enhancing flair hyper\s?intensity|snfh|(t2 )?flair hyper\s?intensity",
    ),
    ("oedema", r"\b(o?edema(tous)?|ed|ptoe?|invaded tissue|invasion)\b"),
    ("cavity", r"\b(resection cavity|surgical cavity|cavity|rc)\b"),
    (
        "core",
        r"\b(non[ -]?(contrast[ -]?)?enhanc(ing|ed|ement)|non[ -]?enh|necro(tic|sis)|nec|ncr|netc?|cyst(s|ic)?|cc)\b",
    ),
    (
        "enhancing",
        r"\b((gd[ -]?|gadolinium[ -]?|contrast[ -]?)?enhanc(ing|ed|ement)|enh|et|ce|active tumou?r|aet)\b",
    ),
)
# Words that say nothing by themselves beside those above.
_FILLING = re.compile(
    r"\b(the|and|or|of|with|tumou?r(al|s)?|core|tissue|component|region|part|area|peri[ -]?tumou?ral|perilesional|glioma|"
    r"lesions?|label|class|gd|surrounding|vasogenic|infiltrati(ve|ng)|nodules?|solid|metastas[ei]s)\b"
)


def meaning_of(labels: object, where: str, fix: str) -> tuple[dict[int, int], bool]:
    """Return (the unified value of each stored value, whether it is a whole-tumour
    mask) of a "labels" map.

    labels: {"1": "edema"}, {"edema": 1}, a list of words, or regions {"whole tumor":
      [1, 2, 3], "enhancing tumor": [3], ...}.

    Words that are not understood, values that mean two things, and no tumour at all are
    refused with DataRefused and `fix`.
    """
    named: dict[int, set[str | int]] = {}
    try:
        for value, word in _pairs(labels):
            named.setdefault(value, set()).add(_meaning(word))
    except ValueError as error:
        raise _refused(where, str(error), fix) from error
    named = {value: meant for value, meant in named.items() if IGNORED not in meant}
    regions = {word for meant in named.values() for word in meant}
    whole = regions - {0} == {WHOLE}
    try:
        meaning = {value: _unified(value, meant, regions) for value, meant in sorted(named.items())}
    except ValueError as error:
        raise _refused(where, str(error), fix) from error
    if meaning.get(0, 0) or not any(meaning.values()):
        raise _refused(where, "0 is no background, or no value is tumour", fix)
    return meaning, whole


def _pairs(labels: object) -> Iterator[tuple[int, str]]:
    if isinstance(labels, list):
        labels = dict(enumerate(labels))
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError("no map of values to words")
    for key, item in labels.items():
        number, word = (key, item) if _is_number(key) else (item, key)
        for value in number if isinstance(number, list) else [number]:
            if not _is_number(value) or not isinstance(word, str) or not 0 <= int(value) <= 255:
                raise ValueError("an entry that is no value from 0 to 255 with a word")
            yield int(value), word


def _is_number(value: object) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (isinstance(value, str) and value.strip().isascii() and value.strip().isdigit())


def _meaning(word: str) -> str | int:
    """Return a unified value, or WHOLE, TUMOUR_CORE or IGNORED. A word that is not
    understood, or means two things, raises ValueError.
    """
    text = " ".join(re.sub(r"[_/,;:()+&.]", " ", word.casefold()).split())
    if _BACKGROUND.fullmatch(text):
        return 0
    plain = text.replace("-", " ")
    if plain in _EXACT:
        return _EXACT[plain]
    left, found = text, set()
    for part, pattern in _PARTS:
        fewer = re.sub(pattern, " ", left)
        found |= {part} if fewer != left else set()
        left = fewer
    if len(found) != 1 or re.search(r"[^\W_]", _FILLING.sub(" ", left)):
        raise ValueError(
            f"the label {word!r}, which is not understood" if len(found) < 2 else f"{word!r}: two meanings",
        )
    return _CODES[found.pop()]


def _unified(value: int, meant: set[str | int], regions: set[str | int]) -> int:
    """Return the unified value of a stored value that is named by a label, or by every
    region that it belongs to.
    """
    parts = {one for one in meant if isinstance(one, int)}
    if 0 in parts and len(meant) > 1:
        raise ValueError(f"{value} as tumour and as background")
    if len(parts) > 1:
        # regions: enhancing tumour is a part of the core and of everything
        raise ValueError(f"{value} with two meanings: {' and '.join(MEANS[p] for p in sorted(parts))}")
    if parts:
        return parts.pop()
    if TUMOUR_CORE in meant:
        if 3 not in regions:
            raise ValueError(f"{value} as tumour core, and no label for enhancing tumour in it")
        return 1
    if regions - {0} == {WHOLE}:
        return 1
    if TUMOUR_CORE in regions and 3 in regions:
        return 2
    raise ValueError(f"{value} as tumour that is neither core, oedema nor enhancing")


def _refused(where: str, found: str, fix: str) -> DataRefused:
    return DataRefused(
        where,
        found=found,
        expected='one meaning for every value, in words like "necrosis", "edema", "enhancing tumor", "whole tumor"',
        fix=fix,
    )
