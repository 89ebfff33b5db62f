"""Rows of a health record (EHR) as numbers, with a flag for every number that is known.

Scaling is robust and public: (x - middle) / half of the column's public range, limited
to +-3. Fitting the scale in the federation was not chosen: see ehr_columns.py. A
missing value is 0 (the middle of the range, no category) with `known` false; a network
must be given both.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.ehr_columns import MISSING, Column, column_from_json, conversion, same_unit

# In half ranges: a value further out is cut to this, and counts as known.
LIMIT = 3.0
# In half ranges: beyond this the value is taken for one in another unit, and refused.
IMPLAUSIBLE = 10.0
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+")
# What statistics programs write for missing: 9, 99, 999, ..., with and without
# decimals.
_NINES = (9.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0, 9999999.0, 999.9, 999.99, 9999.9, 9999.99)
_HEADER = re.compile(r"(?P<name>[^\[\]]*[^\[\]\s])\s*\[(?P<unit>[^\[\]]*)\]")
_ROUND = re.compile(r"(?P<name>[^()]*[^()\s])\s*\((?P<unit>[^()]*)\)")
# What nobody reaches, in the units of an age or a duration; every other range differs
# from column to column.
_MOST = {"years": 130.0, "months": 1560.0}

Values = NDArray[np.float32]
Known = NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """The columns of the health record, in the order of the features. Without columns F
    is 0, and no record is used.
    """

    columns: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        names = [name.casefold() for column in self.columns for name in (column.name, *column.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigRefused(
                "the columns of the record",
                found=f"{twice[0]!r} twice (names and aliases count, upper and lower case are the same)",
                expected="every name once",
                fix="rename one of them",
            )

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the F numbers of a row."""
        return tuple(feature for column in self.columns for feature in column.features)

    def digest(self) -> str:
        """Return a hash of all columns without their aliases. It is equal at two sites
        if and only if their numbers mean the same.
        """
        content = json.dumps(
            [replace(column, aliases=()).as_json() for column in self.columns],
            sort_keys=True,
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def read(
        self,
        rows: Sequence[Mapping[str, str]],
        header: Sequence[str],
        units: Mapping[str, str],
        where: str,
    ) -> tuple[Values, Known]:
        """Return values float32 [N, F] and known bool [N, F] of N rows (cells by
        header). Both are 0 where a value is missing (empty, NA, N/A, NaN, null).

        rows: the rows of the table.
        header: its headers.
        units: the units of numeric columns whose header states none. A column that is
          not numeric, or not here, is refused.
        where: the name of the table in a refusal.

        A unit is what the header says (`crp [mg/l]`), or what `units` says for the
        column; if neither does, it is taken to be the column's. A stated unit that
        differs by a fixed factor (mg/dl, mg/l) is converted.

        Refused with DataRefused, with column and count but never the value: an absent
        column, a repeated header, another unit, header and `units` that contradict each
        other, something that is no number or no known category, and a number more than
        10 half ranges from the middle, which probably has another unit. A unit that
        makes values too small (a tenth) cannot be noticed, so it should be stated.
        """
        strangers = sorted(set(units) - {c.name for c in self.columns if c.kind == "numeric"})
        if strangers:
            raise _refused(
                where,
                "units",
                f"a unit for {strangers[0]!r}",
                "units of numeric columns only",
            )
        parts = [self._column(column, rows, header, units, where) for column in self.columns]
        values = np.concatenate(
            [np.zeros((len(rows), 0), np.float32), *(v for v, _ in parts)],
            axis=1,
        )
        known = np.concatenate([np.zeros((len(rows), 0), bool), *(k for _, k in parts)], axis=1)
        return values, known

    def _column(
        self,
        column: Column,
        rows: Sequence[Mapping[str, str]],
        header: Sequence[str],
        units: Mapping[str, str],
        where: str,
    ) -> tuple[Values, Known]:
        name, factor = _find(column, header, units.get(column.name), where)
        cells = [row[name].strip() for row in rows]
        if column.kind == "categorical":
            return _one_hot(column, cells, where)
        return _scaled(column, cells, factor, where)


def table_from_json(columns: Iterable[object], where: str) -> Table:
    """Return the table that JSON objects describe (ehr_columns.py). It is refused as
    there; `where` says whose they are.
    """
    return Table(tuple(column_from_json(one, where) for one in columns))


def _find(column: Column, header: Sequence[str], unit: str | None, where: str) -> tuple[str, float]:
    """Return the column's name in the file, and the factor from the file's unit to the
    column's.
    """
    wanted = {name.casefold() for name in (column.name, *column.aliases)}
    found = []
    for title in header:
        match = _HEADER.fullmatch(title.strip())
        if match is None and title.strip().casefold() not in wanted:
            match = _ROUND.fullmatch(title.strip())
        plain, stated = (match["name"], match["unit"].strip()) if match else (title.strip(), None)
        if plain.casefold() in wanted:
            found.append((title, stated))
    if len(found) != 1:
        count = "no such column" if not found else f"{len(found)} columns of this name"
        expected = f"one column {column.header!r}; a site that never measured it has it with empty cells"
        raise _refused(where, column.name, count, expected)
    title, stated = found[0]
    if column.kind == "categorical":
        if stated is not None:
            raise _refused(where, column.name, f"the unit {stated!r}", "categories, without a unit")
        return title, 1.0
    if stated is not None and unit is not None and same_unit(stated) != same_unit(unit):
        raise _refused(
            where,
            column.name,
            f"{stated!r} in the header and {unit!r} in 'units'",
            "one unit",
        )
    given = stated if stated is not None else unit
    factor = 1.0 if given is None else conversion(given, column.unit)
    if factor is None:
        raise _refused(
            where,
            column.name,
            f"the unit {given!r}",
            f"the unit {column.unit!r}, or a multiple of it",
        )
    return title, factor


def _one_hot(column: Column, cells: Sequence[str], where: str) -> tuple[Values, Known]:
    place = {category.casefold(): k for k, category in enumerate(column.categories)}
    values = np.zeros((len(cells), len(place)), np.float32)
    known = np.zeros((len(cells), len(place)), bool)
    strange = 0
    for i, cell in enumerate(cells):
        k = place.get(cell.casefold())
        if k is not None:
            values[i, k], known[i] = 1, True
        elif cell.casefold() not in MISSING:
            strange += 1
    if strange:
        expected = f"one of {', '.join(column.categories)}, or empty"
        raise _refused(
            where,
            column.name,
            f"{strange} of {len(cells)} cells that are no known category",
            expected,
        )
    return values, known


def _scaled(column: Column, cells: Sequence[str], factor: float, where: str) -> tuple[Values, Known]:
    limits = {"inf": np.inf, "+inf": np.inf, "-inf": -np.inf} if column.censored else {}
    raw = np.full(len(cells), np.nan)
    strange = 0
    for i, cell in enumerate(cells):
        text = cell.casefold()
        if text in limits:
            raw[i] = limits[text]
        elif _NUMBER.fullmatch(text):
            raw[i] = float(text) * factor
        elif text not in MISSING:
            strange += 1
    if strange:
        commas = sum(bool(_COMMA.fullmatch(cell)) for cell in cells)
        found = f"{strange} of {len(cells)} cells that are no number{f', {commas} of them with a decimal comma' if commas else ''}"
        raise _refused(where, column.name, found, "numbers like 3.5, or empty")
    _require_possible(column, raw, factor, where)
    scaled = (raw - (column.low + column.high) / 2) / ((column.high - column.low) / 2)
    known = ~np.isnan(raw)
    far = int(np.count_nonzero(np.abs(scaled[np.isfinite(scaled)]) > IMPLAUSIBLE))
    if far:
        found = f"{far} of {int(known.sum())} values more than ten times the public range away: probably another unit"
        raise _refused(
            where,
            column.name,
            found,
            f"{column.low:g} .. {column.high:g} {column.unit}, roughly",
        )
    most = _MOST.get(same_unit(column.unit), np.inf)
    if old := int(np.count_nonzero(raw[np.isfinite(raw)] > most)):
        found = f"{old} of {int(known.sum())} values above {most:g} {column.unit}: probably another unit, or a slip"
        raise _refused(
            where,
            column.name,
            found,
            f"{column.low:g} .. {column.high:g} {column.unit}, roughly",
        )
    values = np.where(known, np.clip(scaled, -LIMIT, LIMIT), 0).astype(np.float32)
    return values[:, None], known[:, None]


def _require_possible(column: Column, raw: NDArray[np.float64], factor: float, where: str) -> None:
    """Raise DataRefused for values that nobody can have: below zero, and codes for
    missing such as -9, 999 or a zero.

    raw: the values in the column's unit.
    factor: the factor from the file's unit to it.

    A code is recognised by its form in the file and by lying outside the public range;
    within the range, by being there more than once.
    """
    finite = raw[np.isfinite(raw)]
    written = np.round(finite / factor, 6)
    outside = (finite < column.low) | (finite > column.high)
    nines = np.isin(np.abs(written), _NINES)
    again = nines & (np.abs(written) >= _NINES[2])
    negative = int(np.count_nonzero(finite < 0)) if column.low >= 0 else 0
    codes = int(np.count_nonzero(nines & outside & ((written < 0) | again)))
    inside = int(np.count_nonzero(again & ~outside))
    zeros = int(np.count_nonzero(finite == 0)) if column.low > 0 else 0
    counts = {
        "below zero": negative,
        "that are codes for missing (-9, 999 and the like)": codes + (inside if inside > 1 else 0),
        "that are 0, outside the public range: a code for missing?": zeros if zeros > 1 else 0,
    }
    found = next(
        (f"{count} of {len(finite)} values {what}" for what, count in counts.items() if count),
        None,
    )
    if found:
        raise DataRefused(
            f"the column {column.name!r} of {where}",
            found=found,
            expected=f"{column.low:g} .. {column.high:g} {column.unit}, roughly; an empty cell where nothing is known",
            fix="correct the cells or their unit, and empty those whose value is not known",
        )


def _refused(where: str, column: str, found: str, expected: str) -> DataRefused:
    return DataRefused(
        f"the column {column!r} of {where}",
        found=found,
        expected=expected,
        fix="correct the table, or state the unit in the header, as in `crp [mg/l]`",
    )
