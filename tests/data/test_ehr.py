"""The record: numbers mean the same at every site, or the table is refused, and no refusal tells a value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.ehr import LIMIT, Table
from wardround.data.ehr_columns import Column, column_from_json, conversion

AGE = Column("age", "numeric", "years", 20, 80)
CRP = Column("crp", "numeric", "mg/l", 0, 200, aliases=("C-reactive protein",))
SEX = Column("sex", "categorical", categories=("f", "m"))
TABLE = Table((AGE, CRP, SEX))


def read(table: Table, text: str, **units: str) -> tuple[np.ndarray, np.ndarray]:
    header, *lines = (tuple(cell.strip() for cell in line.split(",")) for line in text.strip().splitlines())
    return table.read([dict(zip(header, line, strict=True)) for line in lines], header, units, "cases.csv")


def test_known_answer() -> None:
    values, known = read(TABLE, "sex,crp,age,other\n m,100,80,x\n F,0,20,y\n ,NA,50,z")
    assert TABLE.features == ("age", "crp", "sex=f", "sex=m")
    np.testing.assert_array_equal(values, np.array([[1, 0, 0, 1], [-1, -1, 1, 0], [0, 0, 0, 0]], np.float32))
    np.testing.assert_array_equal(known, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert (values.dtype, known.dtype) == (np.float32, np.bool_)


def test_no_columns_and_no_rows() -> None:
    assert [a.shape for a in read(Table(), "case\na\nb")] == [(2, 0), (2, 0)]
    assert [a.shape for a in read(TABLE, "age,crp,sex")] == [(0, 4), (0, 4)]


@pytest.mark.parametrize(
    "header", ["CRP", "crp [mg/l]", "crp [MG / L]", "c-reactive protein", "crp [ug/ml]", "crp[µg/ml]"]
)
def test_names_and_equal_units(header: str) -> None:
    assert read(Table((CRP,)), f"{header}\n150")[0][0, 0] == pytest.approx(0.5)


def test_a_stated_unit_is_converted() -> None:
    expected = read(Table((CRP,)), "crp\n150")[0]
    np.testing.assert_allclose(read(Table((CRP,)), "crp [mg/dl]\n15")[0], expected)
    np.testing.assert_allclose(read(Table((CRP,)), "crp\n15", crp="mg/dl")[0], expected)
    np.testing.assert_allclose(read(Table((AGE,)), "age [months]\n600")[0], [[0]], atol=1e-6)


def test_values_are_limited_and_censored_ones_are_at_the_limit() -> None:
    column = Column("crp", "numeric", "mg/l", 0, 200, censored=True)
    assert read(Table((column,)), "crp\n900\n-inf\ninf")[0].ravel().tolist() == [LIMIT, -LIMIT, LIMIT]
    with pytest.raises(DataRefused, match="2 of 3 cells that are no number"):
        read(Table((CRP,)), "crp\n900\n-inf\ninf")


@pytest.mark.parametrize(
    ("text", "units", "message"),
    [
        ("age,sex\n40,f", {}, "'crp'.*\n.*no such column"),
        ("age,crp,sex,crp [mg/l]\n40,77,f,77", {}, "'crp'.*\n.*2 columns"),
        ("age,crp,C-Reactive Protein,sex\n40,77,77,f", {}, "'crp'.*\n.*2 columns"),
        ("age,crp [mmol/l],sex\n40,77,f", {}, "'mmol/l'\n.*'mg/l'"),
        ("age,crp,sex\n40,77,f", {"crp": "nmol/l"}, "'nmol/l'\n.*'mg/l'"),
        ("age,crp [mg/l],sex\n40,77,f", {"crp": "mg/dl"}, "'mg/l' in the header and 'mg/dl'"),
        ("age,crp,sex\n40,77,f", {"sex": "mg/dl"}, "a unit for 'sex'"),
        ("age,crp,sex\n40,77,f", {"ldh": "U/l"}, "a unit for 'ldh'"),
        ("age,crp,sex [m/f]\n40,77,f", {}, "without a unit"),
        ("age,crp,sex\n40,77,f\n480,77,f\n500,77,f", {}, "'age'.*\n.*2 of 3 values.*probably another unit"),
        ("age,crp,sex\n40,77,f\n40,-950,f", {}, "'crp'.*\n.*1 of 2 values"),
        ("age,crp,sex\n40,7.7.7,f\n40,<77,f", {}, "2 of 2 cells that are no number"),
        ("age,crp,sex\n40,7_7,f", {}, "1 of 1 cells that are no number"),
        ("age,crp,sex\n40,77,unknown-to-us", {}, "1 of 1 cells that are no known category"),
    ],
)
def test_refused_without_a_value(text: str, units: dict[str, str], message: str) -> None:
    with pytest.raises(DataRefused, match=message) as refusal:
        read(TABLE, text, **units)
    assert not any(cell in str(refusal.value) for cell in ("77", "480", "500", "950", "7.7", "unknown-to-us"))


@pytest.mark.parametrize(
    ("given_", "wanted", "factor"),
    [
        ("mg/dl", "mg/l", 10),
        ("g/dl", "g/l", 10),
        ("kPa", "mmHg", 7.50062),
        ("/ul", "10^9/l", 1e-3),
        ("odd unit", "ODD  unit", 1),
        ("mmol/l", "mg/dl", None),
        ("g/l", "10^9/l", None),
        ("odd", "mg/l", None),
    ],
)
def test_conversions(given_: str, wanted: str, factor: float | None) -> None:
    found = conversion(given_, wanted)
    assert found == (None if factor is None else pytest.approx(factor))
    if factor is not None:
        back = conversion(wanted, given_)
        assert back is not None
        assert back * factor == pytest.approx(1)


@given(
    st.floats(-1e3, -1e-3), st.floats(0.1, 1e3), st.lists(st.floats(-9.9, 9.9), min_size=1, max_size=5), st.booleans()
)
def test_scaling_is_linear_inside_and_bounded(low: float, width: float, scaled: list[float], gap: bool) -> None:
    column = Column("x", "numeric", "1", low, low + width)
    cells = [f"{low + width / 2 + z * width / 2:.12g}" for z in scaled] + ([""] if gap else [])
    assume(all(set(cell) - set("-.9") for cell in cells if cell))
    values, known = Table((column,)).read([{"x": cell} for cell in cells], ["x"], {}, "t")
    np.testing.assert_allclose(values[: len(scaled), 0], np.clip(scaled, -LIMIT, LIMIT), atol=1e-4)
    assert known[:, 0].tolist() == [True] * len(scaled) + ([False] if gap else [])
    assert not gap or values[-1, 0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a", "kind": "numeric", "low": 0, "high": 1},
        {"name": "a", "kind": "numeric", "unit": "1", "low": 1, "high": 1},
        {"name": "a", "kind": "numeric", "unit": "1", "low": 0, "high": math.nan},
        {"name": "a", "kind": "numeric", "unit": "1", "low": 0},
        {"name": "a", "kind": "numeric", "unit": "1", "low": "0", "high": 1},
        {"name": "a", "kind": "numeric", "unit": "1", "low": True, "high": 2},
        {"name": "a", "kind": "categorical", "categories": ["x"]},
        {"name": "a", "kind": "categorical", "categories": ["x", "X"]},
        {"name": "a", "kind": "categorical", "categories": ["x", ""]},
        {"name": "a", "kind": "categorical", "categories": ["x", 1]},
        {"name": "a", "kind": "categorical", "categories": ["x", "y"], "unit": "1"},
        {"name": "a [b]", "kind": "categorical", "categories": ["x", "y"]},
        {"name": "", "kind": "categorical", "categories": ["x", "y"]},
        {"name": "a", "kind": "text"},
        {"name": "a", "kind": "numeric", "unit": "1", "low": 0, "high": 1, "mean": 2},
        {"kind": "numeric"},
        "a",
    ],
)
def test_bad_columns(wrong: object) -> None:
    with pytest.raises(ConfigRefused):
        column_from_json(wrong, "dataset.json")


def test_columns_survive_json_and_the_digest_ignores_aliases() -> None:
    assert tuple(column_from_json(column.as_json(), "x") for column in TABLE.columns) == TABLE.columns
    assert Table((Column("crp", "numeric", "mg/l", 0, 200),)).digest() == Table((CRP,)).digest()
    assert Table((Column("crp", "numeric", "mg/dl", 0, 200),)).digest() != Table((CRP,)).digest()
    assert Table((AGE, CRP)).digest() != Table((CRP, AGE)).digest()


def test_the_same_name_twice() -> None:
    with pytest.raises(ConfigRefused, match="twice"):
        Table((AGE, Column("years", "numeric", "1", 0, 1, aliases=("Age",))))
