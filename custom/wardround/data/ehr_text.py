"""The columns of a health record as one line of text, and back: what reports print and
files of weights carry.

    age [years] 18..90; sex: f | m; crp [mg/l] 0..200 censored

Aliases are left out: they belong to one site's table.
"""

from __future__ import annotations

import re

from wardround.core.errors import ConfigRefused
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column

_NUMERIC = re.compile(
    r"(?P<name>.+) \[(?P<unit>[^\[\]]+)\] (?P<low>[-+.e\d]+?)\.\.(?P<high>[-+.e\d]+)(?P<end> censored)?"
)


def words_of(table: Table) -> str:
    """Return the columns in words, or "" for none.

    A name, unit or category that could be read in two ways (`;`, `|`, `: `, braces) is
    refused with ConfigRefused.
    """
    words = "; ".join(_words(column) for column in table.columns)
    try:
        if table_from(words) == table and not set("{}") & set(words):
            return words
    except ConfigRefused:
        pass
    raise ConfigRefused(
        "the columns of the record",
        found="a name, unit or category with a separator in it",
        expected="none of ; | { } and no `: ` in them",
        fix="rename it in the job",
    )


def table_from(words: str) -> Table:
    """Return the columns that `words_of` wrote. Anything else is refused with
    ConfigRefused.
    """
    return Table(tuple(_column(part) for part in words.split("; ")) if words else ())


def _words(column: Column) -> str:
    if column.kind == "categorical":
        return f"{column.name}: {' | '.join(column.categories)}"
    ends = "..".join(repr(float(end)).removesuffix(".0") for end in (column.low, column.high))
    return f"{column.header} {ends}{' censored' if column.censored else ''}"


def _column(part: str) -> Column:
    match = _NUMERIC.fullmatch(part)
    if match is None:
        name, _, categories = part.partition(": ")
        return Column(name, "categorical", categories=tuple(categories.split(" | ")))
    try:
        low, high = float(match["low"]), float(match["high"])
    except ValueError:
        low = high = 0.0  # refused by Column
    return Column(
        match["name"],
        "numeric",
        match["unit"],
        low,
        high,
        censored=match["end"] is not None,
    )
