"""Columns in one line: what is written is read back, and what could be read in two ways is not written."""

from __future__ import annotations

import pytest

from wardround.core.errors import ConfigRefused
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.ehr_text import table_from, words_of
from wardround.synthetic.phantom_ehr import COLUMNS

TABLES = [
    Table(),
    COLUMNS,
    Table((Column("base excess (BE)", "numeric", "1", -1.5e-5, 0.1, censored=True),)),
    Table((Column("a", "categorical", categories=("x y", "z")), Column("b", "numeric", "10^3/ul", -2, -1))),
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: words_of(table) or "none")
def test_there_and_back(table: Table) -> None:
    assert table_from(words_of(table)) == table


def test_it_reads_well_and_leaves_aliases_out() -> None:
    age = Column("age", "numeric", "years", 18, 90, aliases=("alter",))
    sex = Column("sex", "categorical", categories=("f", "m"))
    assert words_of(Table((age, sex))) == "age [years] 18..90; sex: f | m"
    assert words_of(Table()) == ""


@pytest.mark.parametrize(
    "column",
    [
        Column("a; b", "categorical", categories=("f", "m")),
        Column("a: b", "categorical", categories=("f", "m")),
        Column("a", "categorical", categories=("f | g", "m")),
        Column("a", "categorical", categories=("{x}", "m")),
        Column("a", "numeric", "mg; l", 0, 1),
    ],
)
def test_two_readings_are_refused(column: Column) -> None:
    with pytest.raises(ConfigRefused, match="a separator in it"):
        words_of(Table((column,)))


@pytest.mark.parametrize("words", ["age", "age [years] 90..18", "age [years] 1.2.3..4", "sex: f", "; ", "a [] 0..1"])
def test_other_text_is_refused(words: str) -> None:
    with pytest.raises(ConfigRefused):
        table_from(words)
