"""The comparisons beside joining.py by hand: the value of joining, the verdicts of the main job, rounds to a target, the claims."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import claims
import drawing
import main_job_verdicts
import to_target
import value_hospitals
import value_of_joining
from common import REAL_DATA, Part, Parts
from wardround.reports.intervals import Interval


def value_part(patients: int, gain: float, seed: int = 0) -> Part:
    """Two hospitals of two test patients; FedAvg is better by `gain` for each, centralised by another .02."""
    local = {site: {"0": 0.5, "1": 0.6} for site in ("site-1", "site-2")}
    test = {
        method: {site: {who: dice + more for who, dice in row.items()} for site, row in local.items()}
        for method, more in (
            ("local", 0.0),
            ("fedavg", gain),
            ("fedavg+tuned", gain),
            ("central_all", gain + 0.02),
        )
    }
    key = {
        "data": "hippocampus",
        "skew": "scanner",
        "hospitals": 4,
        "patients": patients,
        "seed": seed,
    }
    return Part(key, "abc", {"rounds": 10}, 1.0, {"test": test})


def test_the_curve_has_a_point_for_each_size_and_goals_count_settings() -> None:
    parts = [value_part(4, 0.1), value_part(4, 0.1, seed=1), value_part(32, 0.0)]
    assert value_of_joining.points(parts) == [
        {
            "patients": 4,
            "hospitals": 4,
            "gain": 0.1,
            "low": 0.1,
            "high": 0.1,
            "n": 8,
            "what": "hippocampus, scanner",
        },
        {
            "patients": 32,
            "hospitals": 4,
            "gain": 0.0,
            "low": 0.0,
            "high": 0.0,
            "n": 4,
            "what": "hippocampus, scanner",
        },
    ]
    made = value_of_joining.tables(parts)
    assert made["gain"].lines[2].startswith("| hippocampus | scanner | 4 | 4 | 2 | 0.550 | +0.100 [+0.100, +0.100] |")
    assert made["goals"].lines[2:] == [
        "| the gain's interval above 0 with 4 and 8 patients | 1 of 1 | met |",
        "| FedAvg within 0.01 of centralised | 0 of 2 | **not met** |",
    ]


def test_the_picture_is_sound_and_does_not_depend_on_the_order_of_the_parts() -> None:
    parts = [value_part(4, 0.1), value_part(8, 0.05), value_part(32, -0.01)]
    drawn = value_of_joining.pictures(parts)
    assert drawn == value_of_joining.pictures(parts[::-1])
    root = ET.fromstring(drawn["value_of_joining.svg"])  # noqa: S314
    words = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"4", "8", "32", "hippocampus, scanner, 4 hospitals"} <= set(words)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 3 + 1
    assert value_of_joining.pictures([]) == {}


def test_a_label_is_text_and_no_markup() -> None:
    text = drawing.lines_with_intervals([drawing.Series("a<b", ((4, 0.1, 0.0, 0.2),))], "x", "y")
    assert "a&lt;b" in text
    ET.fromstring(text)  # noqa: S314


@pytest.mark.parametrize("patients", [4, 16])
def test_a_larger_hospital_contains_the_smaller_one_and_tests_the_same(patients: int) -> None:
    order = [f"p{number}" for number in range(40)]
    small, large = (value_hospitals.split_of(order[: 12 + n], 12) for n in (patients, 2 * patients))
    assert small.test == large.test
    assert len(small.test) == 12
    assert set(small.train + small.val) < set(large.train + large.val)
    assert len(small.train + small.val) == patients
    assert small.val
    assert not set(small.test) & set(large.train + large.val)


def test_phantom_hospitals_test_the_same_patients_whatever_their_size(tmp_path: Path) -> None:
    key = {"data": "phantoms", "hospitals": 2, "seed": 0}
    small, large = (
        value_hospitals.phantoms(key, (12, 12, 12), tmp_path / str(patients), patients) for patients in (4, 6)
    )
    for name, (_, order) in small.items():
        assert large[name][1][:4] == order


@pytest.mark.skipif(not (REAL_DATA / "hippocampus_msd").is_dir(), reason="no hippocampus_msd in shared/data")
@pytest.mark.parametrize("skew", value_hospitals.SKEWS)
def test_real_cases_become_hospitals(skew: str, tmp_path: Path) -> None:
    key = {"data": "hippocampus", "skew": skew, "hospitals": 4, "patients": 4, "seed": 0}
    options = {"tests": 2, "patch": (8, 8, 8), "batch": 2}
    sites, _ = value_hospitals.opened(key, options, tmp_path, REAL_DATA)
    assert len(sites) == 4
    cases = [case for site in sites.values() for case in site.cohort.cases]
    assert len(set(cases)) == len(cases) == 4 * 6
    first = next(iter(sites.values()))
    assert first.scores(first.model.vector.clone(), first.split.test, with_hd95=False)
    (loss, _) = first.objective("train", 0).value_and_grad(
        first.model.vector.clone(), first.objective("train", 0).sample(1)[0]
    )
    assert 0 < loss < 5


def verdict_part(seed: int, told: str, deploy: str, gain: float) -> Part:
    """One hospital with 20 fresh patients; the shared model is better by `gain` for each."""
    local = [0.5 + 0.01 * who for who in range(20)]
    fresh = {"local": local, "fedavg": [dice + gain for dice in local]}
    row = {"told": told, "deploy": deploy, "gain_told": None, "tests": 12, "fresh": fresh}
    return Part({"seed": seed}, "abc", {"job": "x"}, 1.0, {"sites": {"site-1": row}})


def test_what_a_hospital_is_told_is_compared_with_fresh_patients() -> None:
    parts = [
        verdict_part(101, "helped", "fedavg", 0.05),
        verdict_part(102, "helped", "fedavg", -0.02),
        verdict_part(103, "not_helped", "local", 0.03),
        verdict_part(104, "not_helped", "local", -0.03),
        verdict_part(105, "chance", "fedavg", 0.01),
    ]
    rows = main_job_verdicts.rows_of(parts)["site-1"]
    found = main_job_verdicts.counts(rows)
    assert found["gain"] == pytest.approx(0.04 / 5)
    assert {name: value for name, value in found.items() if name != "gain"} == {
        "runs": 5,
        "told": 2,
        "true": 2,
        "told_and_true": 1,
        "told_not_true": 1,
        "missed": 2,
        "below_own": 1,
    }
    goals = main_job_verdicts.tables(parts)["goals"].lines
    assert "| told and not true nowhere | 1 | **not met** |" in goals


def target_part(arm: str, start: str, val: list[float], size: int = 100) -> Part:
    ways = {"up": [size] * len(val), "down": [size] * len(val)}
    numbers = {"val": val, "bytes": {"plain": ways}, "first": 50, "test": {}}
    return Part({"arm": arm, "start": start, "seed": 0}, "abc", {"rounds": 4}, 1.0, numbers)


def test_rounds_and_bytes_to_the_mark_by_hand() -> None:
    """FedAvg ends at .8: the mark is .76, reached in round 4 from scratch, in round 1 from the warm start."""
    parts = [
        target_part("fedavg", "scratch", [0.2, 0.4, 0.6, 0.8]),
        target_part("fedavg", "warm", [0.77, 0.8, 0.8, 0.8]),
        target_part("klmask", "scratch", [0.1, 0.2, 0.3, 0.4]),
        target_part("quantise_4", "scratch", [0.2, 0.4, 0.77, 0.8], size=10),
    ]
    rows = {(one["arm"], one["start"]): one for one in to_target.rows_of(parts)}
    assert rows["fedavg", "warm"]["rounds_share"] == 0.25
    assert rows["fedavg", "warm"]["bytes_share"] == pytest.approx(250 / 850)
    assert rows["klmask", "scratch"]["rounds_share"] is None
    assert rows["quantise_4", "scratch"]["bytes_share"] == pytest.approx(110 / 850)
    lines = to_target.tables(parts)["target"].lines
    assert "| FedAvg | warm | 1 | 0.25 | 0.29 | 0.800 | met |" in lines
    assert "| KL masks | scratch | never | - | - | 0.400 |  |" in lines


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.04, 0.01, 0.07), "holds"),
        ((0.02, 0.01, 0.03), "holds, and is smaller than claimed"),
        ((0.00, -0.02, 0.02), "**does not hold**"),
        ((0.03, -0.02, 0.08), "not reported from chance"),
        ((0.03, None, None), "not reported from chance"),
    ],
)
def test_a_verdict_needs_its_interval(interval: tuple[float, Any, Any], expected: str) -> None:
    assert claims.verdict(Interval(*interval, 10), 0.05) == expected


def test_claims_are_computed_from_parts_and_say_where_there_are_none(tmp_path: Path) -> None:
    empty = claims.tables_from(tmp_path)["all"]
    assert sum("not measured yet" in line for line in empty.lines) == len(claims.CLAIMS)
    assert sum("cannot be tested" in line for line in empty.lines) == len(claims.UNTESTED)
    parts = Parts(tmp_path / "joining")
    for method, dice in (("fedavg", 0.6), ("perfedavg_fo", 0.61)):
        key = {
            "recipe": "plain",
            "start": "scratch",
            "work": 1,
            "method": method,
            "fold": 0,
            "seed": 0,
        }
        row = {"val": {"9": dice}, "test": {str(who): dice + 0.01 * who for who in range(4)}}
        parts.keep(key, {"rounds": 20}, 1.0, {"sites": {"DU": row}})
    line = claims.tables_from(tmp_path)["all"].lines[2]
    assert line.endswith(
        "| FO less FedAvg +0.010 (4 patients) | yes | [+0.010, +0.010] | holds, and is smaller than claimed |"
    )


def test_another_hospitals_model_is_compared_on_the_same_patients(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "joining")
    key = {"recipe": "plain", "start": "scratch", "work": 1, "method": "local", "seed": 0}
    own = {"val": {"9": 0.5}, "test": {"0": 0.5, "1": 0.7}}
    parts.keep(key | {"fold": 0}, {"rounds": 20}, 1.0, {"sites": {"FG": own}})
    parts.keep(
        key | {"fold": "no_FG"},
        {"rounds": 20},
        1.0,
        {"unseen": {"FG": {"DU": {"0": 0.2, "1": 0.4}}}},
    )
    [line] = [one for one in claims.tables_from(tmp_path)["all"].lines if "a model from one hospital" in one]
    assert "own local model less another's +0.300 (2 patients)" in line
    assert line.endswith("| holds |")


def test_points_are_what_the_report_reads(tmp_path: Path) -> None:
    point = value_of_joining.points([value_part(4, 0.1)])[0]
    assert set(point) == {"patients", "hospitals", "gain", "low", "high", "n", "what"}
    assert json.loads(json.dumps(point)) == point
