import math
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.reports.verdict import NOT_HELPED, choose, floors, judge, margin

ALL = {"local": 0.6, "fedavg": 0.6, "fedavg_finetuned": 0.6, "personalised": 0.6}


def with_gain(value: float, low: float | None, high: float | None, cases: int = 4) -> dict[str, Any]:
    gain = {"value": value, "low": low, "high": high, "cases": cases}
    return {"local": {"val": 0.5}, "personalised": {"k": 5, "val": 0.7, "gain": gain}}


def test_margin_by_hand() -> None:
    assert (margin(1), margin(4), margin(25)) == (pytest.approx(0.05), pytest.approx(0.025), pytest.approx(0.01))
    assert margin(10**6) == 0.005
    assert margin(0) == math.inf


@pytest.mark.parametrize(
    ("change", "cases", "expected"),
    [
        ({}, 25, "local"),  # a tie
        ({"personalised": 0.609}, 25, "local"),  # below the margin of 0.01
        ({"personalised": 0.611}, 25, "personalised"),
        ({"personalised": 0.611}, 4, "local"),  # the same gain on fewer patients
        ({"fedavg": 0.70, "personalised": 0.705}, 25, "fedavg"),
        ({"fedavg_finetuned": 0.70, "personalised": 0.705}, 25, "fedavg_finetuned"),
        ({"local": 0.9}, 25, "local"),
        ({"personalised": 0.99}, 0, "local"),
        ({"local": None, "fedavg": float("nan")}, 0, "fedavg_finetuned"),
    ],
)
def test_choice(change: dict[str, float | None], cases: int, expected: str) -> None:
    assert choose({**ALL, **change}, cases) == expected


def test_choice_does_not_depend_on_the_order_of_the_mapping() -> None:
    assert choose(dict(reversed(ALL.items())), 9) == "local"


@pytest.mark.parametrize("val", [{}, {"local": None}, {"local": float("nan")}, {"local": 0.5, "fedprox": 0.6}])
def test_scores_that_are_refused(val: dict[str, float | None]) -> None:
    with pytest.raises(ConfigRefused):
        choose(val, 5)


def test_a_clear_gain() -> None:
    said = judge(with_gain(0.05, 0.01, 0.09), "personalised").advice
    assert said == (
        "Deploy the personalised model (5 fine-tuning steps). On 4 test patients it gains 0.050 Dice "
        "over your own local model (95 % interval +0.010 to +0.090)."
    )
    assert judge(with_gain(0.05, 0.01, 0.09), "personalised").kind == "helped"


def test_a_gain_whose_interval_includes_zero_could_be_chance() -> None:
    verdict = judge(with_gain(0.05, -0.01, 0.09), "personalised")
    assert (verdict.kind, verdict.deploy) == ("chance", "personalised")
    assert "the interval includes 0: this could be chance" in verdict.advice
    assert NOT_HELPED not in verdict.advice


def test_one_case_has_no_interval() -> None:
    verdict = judge(with_gain(0.05, None, None, cases=1), "personalised")
    assert verdict.kind == "chance"
    assert "On 1 test patient it" in verdict.advice
    assert "1 case: no interval" in verdict.advice


@pytest.mark.parametrize(("low", "high", "chance"), [(-0.06, 0.02, True), (-0.06, -0.01, False)])
def test_a_loss_on_test_did_not_help(low: float, high: float, chance: bool) -> None:
    verdict = judge(with_gain(-0.02, low, high), "personalised")
    assert (verdict.kind, verdict.deploy) == ("not_helped", "personalised")
    assert "joining did not help you" in verdict.advice
    assert ("could be chance" in verdict.advice) is chance


def test_no_gain_at_all_did_not_help() -> None:
    advice = judge(with_gain(0.0, 0.0, 0.0), "personalised").advice
    assert "joining did not help you" in advice
    assert "this could be chance" in advice


def test_an_interval_that_touches_zero_is_no_proof() -> None:
    assert judge(with_gain(0.05, 0.0, 0.1), "personalised").kind == "chance"


def test_local_chosen() -> None:
    said = judge(with_gain(0.05, 0.01, 0.09), "local").advice
    assert "Deploy your own local model" in said
    assert "clear margin" in said
    assert "joining did not help you" in said
    assert "no shared model was evaluated" in judge({"local": {"val": 0.5}}, "local").advice


def test_without_gain_the_test_means_are_compared() -> None:
    test = {"local": {"test": {"dice_mean": {"value": 0.5, "cases": 3}}}}
    fedavg = {"k": 0, "test": {"dice_mean": {"value": 0.75, "cases": 3}}, "gain": None}
    verdict = judge({**test, "fedavg": fedavg}, "fedavg")
    assert verdict.kind == "chance"
    assert "it gains 0.250 Dice" in verdict.advice
    assert "3 cases: no interval" in verdict.advice


@pytest.mark.parametrize("local", [None, {}, {"test": None}, {"test": {"dice_mean": {"value": 0.5, "cases": 2}}}])
def test_nothing_to_compare_with(local: dict[str, Any] | None) -> None:
    verdict = judge({"local": local, "fedavg": {"test": {"dice_mean": {"value": 0.75, "cases": 3}}}}, "fedavg")
    assert (verdict.kind, verdict.deploy) == ("unknown", "fedavg")
    assert "unknown" in verdict.advice


@pytest.mark.parametrize(("candidates", "chosen"), [({}, None), ({}, "local"), ({"local": None}, "local")])
def test_nothing_to_recommend(candidates: dict[str, Any], chosen: str | None) -> None:
    assert judge(candidates, chosen).deploy is None
    assert "No model can be recommended" in judge(candidates, chosen).advice


def scored(key: str, value: float, low: float | None, high: float | None = 0.99, cases: int = 6) -> dict[str, Any]:
    return {"k": 0, "val": 0.9, "test": {key: {"value": value, "low": low, "high": high, "cases": cases}}, "gain": None}


@pytest.mark.parametrize(
    ("candidate", "least", "usable"),
    [
        (scored("dice_mean", 0.021, 0.01, 0.03), floors(), False),
        (scored("dice_mean", 0.45, 0.29, 0.6), floors(), False),  # good on the mean, not beyond doubt
        (scored("dice_mean", 0.45, 0.31, 0.6), floors(), True),
        (scored("dice_mean", 0.45, 0.31, 0.6), floors(least_dice=0.4), False),
        (scored("dice_mean", 0.29, None, None, 1), floors(), False),
        (scored("balanced_accuracy", 1 / 3, 1 / 3, 1 / 3), floors(3), False),  # [.333, .333] is chance, not certainty
        (scored("balanced_accuracy", 0.6, 0.4, 0.8), floors(3), True),
        (scored("balanced_accuracy", 0.6, 0.4, 0.8), floors(2), False),
        (scored("auroc", 0.167, 0.1, 0.3), floors(3), False),
    ],
)
@pytest.mark.parametrize("chosen", ["local", "fedavg"])
def test_below_the_floor_nothing_is_recommended(candidate: Any, least: Any, usable: bool, chosen: str) -> None:
    verdict = judge({"local": candidate, "fedavg": candidate}, chosen, least=least)
    assert (verdict.kind == "unusable") == (not usable)
    assert (verdict.deploy is None) == (not usable)
    assert ("No model here is usable yet: train longer" in verdict.advice) == (not usable)
    assert ("deploy" in verdict.advice.lower()) == usable


def test_the_word_of_the_site_counts_where_its_numbers_are_not_told() -> None:
    """Over few patients a candidate is {}: whether it is usable is one word, and the number behind it stays."""
    candidates: dict[str, Any] = {"local": {}, "fedavg": {}}
    verdict = judge(candidates, "local", usable=False)
    assert (verdict.deploy, verdict.kind) == (None, "unusable")
    assert "not reported" in verdict.advice
    good = judge(candidates, "local", usable=True)
    assert (good.deploy, good.kind) == ("local", "not_helped")
    assert "no shared model was better" in good.advice
    shared = judge(candidates, "fedavg", usable=True)
    assert (shared.deploy, shared.kind) == ("fedavg", "unknown")
    assert "n < 5" in shared.advice
