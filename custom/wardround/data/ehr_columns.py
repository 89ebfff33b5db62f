"""What does a column of a health record mean? Its name, its unit, its public range or
its categories.

All of it is public and the same at every site: it is written down before anybody looks
at a patient. So nothing is fitted, nothing about a scale is exchanged, and no privacy
budget is spent on it. A range that fits badly costs accuracy, never privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wardround.core.errors import ConfigRefused

KINDS = ("numeric", "categorical")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "#n/a", "<na>"})

# unit: (what it measures, factor to the first of its kind). Substance-dependent
# conversions (mmol/l to mg/dl) are not here on purpose: they need a molar mass.
_UNITS: dict[str, tuple[str, float]] = {
    **{
        u: ("mass per volume", f)
        for u, f in {
            "mg/l": 1,
            "ug/ml": 1,
            "mg/dl": 10,
            "g/l": 1e3,
            "g/dl": 1e4,
        }.items()
    },
    **{u: ("mass per volume", f) for u, f in {"mg/ml": 1e3, "ug/l": 1e-3, "ng/ml": 1e-3, "ug/dl": 1e-2}.items()},
    **{u: ("substance per volume", f) for u, f in {"mmol/l": 1, "umol/l": 1e-3, "nmol/l": 1e-6}.items()},
    **{
        u: ("cells per volume", f)
        for u, f in {
            "10^9/l": 1,
            "10^3/ul": 1,
            "tsd/ul": 1,
            "/nl": 1,
            "/ul": 1e-3,
        }.items()
    },
    **{u: ("pressure", f) for u, f in {"mmhg": 1, "kpa": 7.50062}.items()},
    **{u: ("length", f) for u, f in {"cm": 1, "m": 100, "mm": 0.1}.items()},
    **{u: ("time", f) for u, f in {"years": 12, "months": 1}.items()},
    **{u: ("mass", f) for u, f in {"kg": 1, "g": 1e-3}.items()},
}


@dataclass(frozen=True)
class Column:
    """One column of the health record.

    name: the column's name, the same at every site.
    kind: numeric or categorical.
    unit: of a numeric column, always ("1" for a pure number); a categorical one has
      none.
    low, high: the public range of a numeric column; its middle becomes 0, its ends -1
      and 1.
    categories: of a categorical column, two at least, in the order of the one-hot
      features.
    aliases: other names that this site's file may use for it. Columns that differ only
      here are equal.
    censored: of a numeric column, whether -inf and inf in a cell mean below and above
      what the method can measure.
    """

    name: str
    kind: str
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    categories: tuple[str, ...] = ()
    aliases: tuple[str, ...] = field(default=(), compare=False)
    censored: bool = False

    def __post_init__(self) -> None:
        names = (self.name, *self.aliases)
        if not all(n and n == n.strip() and "[" not in n for n in names) or self.kind not in KINDS:
            raise _bad(
                self.name,
                f"kind {self.kind!r}, names {names}",
                f"kind {' or '.join(KINDS)}; names without [ ]",
            )
        if self.kind == "numeric":
            if not self.unit.strip() or self.categories:
                raise _bad(
                    self.name,
                    "numeric without a unit, or with categories",
                    'a unit ("1" for a pure number)',
                )
            if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
                raise _bad(
                    self.name,
                    f"the range {self.low} .. {self.high}",
                    "a public range with low < high",
                )
        else:
            own = [c.casefold() for c in self.categories]
            if len(set(own)) < max(2, len(own)) or not all(c and c == c.strip() for c in own):
                raise _bad(
                    self.name,
                    f"the categories {self.categories}",
                    "two or more different, not empty",
                )
            if self.unit or self.low or self.high or self.censored:
                raise _bad(
                    self.name,
                    "categorical with a unit, a range or censored",
                    "categories only",
                )

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the numbers that this column becomes: `age`, or `sex=f` and
        `sex=m`.
        """
        return (self.name,) if self.kind == "numeric" else tuple(f"{self.name}={c}" for c in self.categories)

    @property
    def header(self) -> str:
        """The header of this column in a table that we write: `crp [mg/l]`, `sex`."""
        return f"{self.name} [{self.unit}]" if self.kind == "numeric" else self.name

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this column without defaults. `column_from_json`
        reads it.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value or (self.kind == "numeric" and key in ("low", "high"))
        }


def column_from_json(content: object, where: str) -> Column:
    """Return the column that a JSON object describes.

    Anything but an object, an unknown or missing key, a wrong type, and all that Column
    refuses are refused with ConfigRefused.
    """
    if not isinstance(content, Mapping):
        raise _bad(where, f"a JSON {type(content).__name__}", "one object per column")
    allowed = (
        "name",
        "kind",
        "unit",
        "low",
        "high",
        "categories",
        "aliases",
        "censored",
    )
    unknown = sorted(str(key) for key in content if key not in allowed)
    if unknown:
        raise _bad(
            where,
            f"unknown key {', '.join(map(repr, unknown))}",
            f"only {', '.join(allowed)}",
        )
    checks: dict[str, Callable[[object], bool]] = {
        **dict.fromkeys(("name", "kind"), _is_text),
        **{key: check for key, check in _OPTIONAL.items() if key in content},
    }
    wrong = [key for key, check in checks.items() if not check(content.get(key))]
    if wrong:
        raise _bad(
            where,
            f"{wrong[0]!r} is absent or of a wrong type",
            "see docs/data.md for the keys and types",
        )
    if content["kind"] == "numeric" and not {"low", "high"} <= content.keys():
        raise _bad(where, "a numeric column without 'low' and 'high'", "a public range")
    return Column(
        name=content["name"],
        kind=content["kind"],
        unit=content.get("unit", ""),
        low=float(content.get("low", 0)),
        high=float(content.get("high", 0)),
        categories=tuple(content.get("categories", ())),
        aliases=tuple(content.get("aliases", ())),
        censored=content.get("censored", False),
    )


def same_unit(unit: str) -> str:
    """Return a unit without blanks and case, so that `U/l` is `u/l` and a micro sign is
    u.
    """
    return "".join(unit.split()).replace("µ", "u").replace("μ", "u").casefold()


def conversion(given: str, wanted: str) -> float | None:
    """Return the factor from one unit to another, or None where no factor holds for
    every substance.
    """
    one, two = same_unit(given), same_unit(wanted)
    if one == two:
        return 1.0
    if one not in _UNITS or two not in _UNITS or _UNITS[one][0] != _UNITS[two][0]:
        return None
    return _UNITS[one][1] / _UNITS[two][1]


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_OPTIONAL: dict[str, Callable[[object], bool]] = {
    "unit": _is_text,
    "low": _is_number,
    "high": _is_number,
    "categories": _is_texts,
    "aliases": _is_texts,
    "censored": _is_bool,
}


def _bad(name: str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the record's column {name!r}",
        found=found,
        expected=expected,
        fix="correct the column",
    )
