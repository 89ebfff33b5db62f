"""The tables of joining.py by hand: folds become one row, differences are paired by patient, goals need their parts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import joining
import joining_tables
import paired
from common import Part
from wardround.core.errors import ConfigRefused, DataRefused

SITES = ("DU", "FG")


def part(method: str, fold: int | str, dice: float, **changed: Any) -> Part:
    """Two patients at DU (2 fold, 2 fold + 1) and one at FG, all with this Dice; validation a tenth below."""
    key = {
        "recipe": "plain",
        "start": "scratch",
        "work": 1,
        "method": method,
        "fold": fold,
        "seed": 0,
    } | changed
    test = {"DU": {str(2 * fold): dice, str(2 * fold + 1): dice - 0.1}, "FG": {str(fold): dice}}
    val = {"x": dice - 0.1}
    numbers = {"sites": {site: {"val": val, "test": test[site]} for site in SITES}}
    if method.startswith("fed"):
        for row in numbers["sites"].values():
            tuned = {who: one + 0.01 for who, one in row["test"].items()}
            row["tuned"] = {"k": 5, "val": {"x": dice - 0.2}, "test": tuned}
    return Part(key, "abc", {"rounds": 20}, 1.0, numbers)


PARTS = [part(method, fold, dice) for method, dice in (("local", 0.6), ("fedavg", 0.7)) for fold in (0, 1)]


def lines(name: str, parts: list[Part]) -> list[str]:
    return list(joining.tables(parts)[name].lines)


def test_folds_become_one_row_and_the_best_mean_is_first() -> None:
    found = lines("plain-scratch-dice", PARTS)
    assert found[2] == "| FedAvg + fine-tuning | 0.660 | 0.710 | 0.685 | 0.500 | 6 |"
    assert found[3] == "| FedAvg | 0.650 | 0.700 | 0.675 | 0.600 | 6 |"
    assert found[4] == "| local only | 0.550 | 0.600 | 0.575 | 0.500 | 6 |"


def test_differences_are_paired() -> None:
    """Patients differ by .1 at DU, methods by exactly .1 for each patient: the interval has no width."""
    found = lines("plain-scratch-gain", PARTS)
    assert found[3].startswith("| FedAvg | +0.100 [+0.100, +0.100] | +0.100 [+0.100, +0.100] | +0.100 [")


def test_shared_is_chosen_on_validation_though_fine_tuning_is_better_on_test() -> None:
    assert joining_tables.chosen(PARTS) == "fedavg"
    assert lines("plain-scratch-goals", PARTS)[2] == "| shared is | FedAvg |  |"


def test_goals_without_their_parts_are_not_measured() -> None:
    found = lines("plain-scratch-goals", PARTS)
    assert "| deployed - local | - | not measured yet |" in found
    assert "| shared within 0.01 of centralised, work of all | - | not measured yet |" in found
    assert "| the better of both >= +0.03, interval above 0 | +0.100 [+0.100, +0.100] | met |" in found
    assert "| at FG >= +0.05 | +0.100 [+0.100, +0.100] | met |" in found
    assert "| mean Dice >= 0.74 | 0.675 | **not met** |" in found
    deployed = [part("deployed", fold, 0.59) for fold in (0, 1)]
    found = lines("plain-scratch-goals", [*PARTS, *deployed])
    assert "| deployed nowhere more than 0.005 below local | DU -0.010 [-0.010, -0.010] | **not met** |" in found


def with_candidates() -> list[Part]:
    """The deployed part of fold 0: local is deployed, a blend is better on validation and on test."""
    base = part("deployed", 0, 0.6)
    for row in base.numbers["sites"].values():
        better = {name: {who: dice + 0.1 for who, dice in row[name].items()} for name in ("val", "test")}
        row["candidates"] = {
            "local": {name: row[name] for name in ("val", "test")},
            "fedavg": better,
            "blend": better,
        }
    return [*PARTS, base]


def test_candidates_of_the_deployed_part_are_rows_and_no_shared_method() -> None:
    found = lines("plain-scratch-dice", with_candidates())
    assert "| blend of own and shared | 0.650 | 0.700 | 0.675 | 0.600 | 3 |" in found
    assert joining_tables.chosen(with_candidates()) == "fedavg"


def test_another_rule_of_choice_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def best(rule: str, models: Any) -> str:
        return max(models, key=lambda name: models[name].value)

    choice = SimpleNamespace(RULES={"best": best}, choose_by=best)
    monkeypatch.setitem(sys.modules, "wardround.reports.choice", choice)
    found = lines("plain-scratch-dice", with_candidates())
    assert "| deployed (the verdict's choice), rule best | 0.650 | 0.700 | 0.675 | 0.600 | 3 |" in found
    assert "| deployed (the verdict's choice) | 0.550 | 0.600 | 0.575 | 0.500 | 3 |" in found


def test_a_comparison_of_fewer_parts_says_so() -> None:
    found = lines("plain-scratch-goals", PARTS[1:])
    assert "| shared - local | +0.100 [+0.100, +0.100] (not all parts are there) |  |" in found


def test_the_curve_over_work_has_a_column_for_each_multiple() -> None:
    more = [part("fedavg", 0, 0.8, work=4), part("fedavg", 0, 0.5, work=0.5)]
    found = lines("plain-scratch-work", [*PARTS, *more])
    assert found[0] == "| method | work x 0.5 | work x 1 | work x 4 |"
    assert "| FedAvg | 0.475 | 0.675 | 0.775 |" in found
    assert "| local only | - | 0.575 | - |" in found


def test_the_unseen_hospital_has_every_model_and_one_sentence() -> None:
    numbers = {
        "fedavg": {"shared": {"0": 0.5, "1": 0.6}},
        "local": {"DU": {"0": 0.4, "1": 0.5}, "HT": {"0": 0.3, "1": 0.3}},
    }
    key = {"recipe": "plain", "start": "scratch", "work": 1, "fold": "no_FG", "seed": 0}
    parts = [
        Part(key | {"method": method}, "abc", {"rounds": 20}, 1.0, {"unseen": {"FG": found}})
        for method, found in numbers.items()
    ]
    found = lines("plain-scratch-unseen", parts)
    assert found[3].startswith("| FG | local model of DU | 0.450 | +0.100 [+0.100, +0.100]")
    both = lines("plain-scratch-goals", [*PARTS, *parts])
    assert "| unseen hospital: FedAvg above every local model | FG +0.100 | met |" in both


def test_parts_that_cannot_be_compared_are_refused() -> None:
    other = part("fedavg", 0, 0.5, seed=1)
    with pytest.raises(ConfigRefused, match="delete the older part"):
        joining.tables([*PARTS, Part(other.key, "abc", {"rounds": 3}, 1.0, other.numbers)])
    with pytest.raises(ConfigRefused, match="which this script does not have"):
        joining.tables([part("magic", 0, 0.9)])
    twice = [("DU", 0, {"3": 0.5}), ("DU", 0, {"3": 0.6})]
    with pytest.raises(DataRefused, match="tested twice"):
        paired.merged(twice)


def test_rows_without_a_common_patient_have_no_difference() -> None:
    assert paired.gain({"DU": {0: {"1": 0.5}}}, {"DU": {0: {"2": 0.5}}}) is None
    assert paired.gain({"DU": {0: {"1": 0.5}}}, {}) is None


def test_a_method_that_shares_no_whole_model_is_not_tried_at_an_unseen_hospital() -> None:
    assert {"fedbn", "fedrep", "klmask"} <= set(joining.stays())
    assert not {"fedavg", "ditto", "perfedavg_fo"} & set(joining.stays())


def test_a_recipe_of_a_job_is_its_schedule_and_sampling_with_the_patches_of_these_images() -> None:
    from wardround.jobs import recipes

    job, found = recipes.job("brats_fedavg", ["num_rounds=7"]), joining.of_a_job(["num_rounds=7"])
    assert found["rounds"] == 7
    assert found["schedule"] | {"num_rounds": 7} == job.federation["schedule"]["args"]
    assert found["sampling"] == {**job.task["sampling"]["args"], "patch": (64, 64, 16)}


def test_the_keys_ask_for_whole_folds_of_all_methods_first() -> None:
    args = SimpleNamespace(
        quick=False,
        recipe="plain",
        works=[1, 2],
        starts=["scratch"],
        seeds=[0],
        folds=[0, 1],
        unseen=True,
    )
    args.methods = ["local", "fedbn", "deployed"]
    keys = joining.wanted_keys(args)
    assert [(key["work"], key["fold"], key["method"]) for key in keys[:4]] == [
        (1, 0, "local"),
        (1, 0, "fedbn"),
        (1, 0, "deployed"),
        (1, 1, "local"),
    ]
    assert [(key["fold"], key["method"]) for key in keys[12:]] == [
        (f"no_{site}", "local") for site in ("DU", "HT", "FG")
    ]
