"""One sentence says what is deployed and why."""

from __future__ import annotations

from typing import Any

import pytest

from wardround.reports.reasons import reason


def scored(**values: float | None) -> dict[str, Any]:
    dice = {"dice_mean": {"value": 0.5, "cases": 6}}
    return {name: {"k": 0, "val": value, "test": dice} for name, value in values.items()}


def test_a_blend_at_its_own_site() -> None:
    candidates = scored(local=0.69, fedavg=0.701, blend=0.712)
    said = reason(candidates, "blend", 6, {"share": 0.25, "of": "fedavg", "k": 0})
    assert said == (
        "Deployed is a mean of this hospital's own model and the shared FedAvg model (25% and 75% of the probabilities), "
        "because on the 6 validation patients of this hospital it scored 0.712 Dice; this hospital's own local model scored "
        "0.690 and the shared FedAvg model scored 0.701."
    )


def test_a_blend_in_the_report_of_all_tells_no_share() -> None:
    said = reason(scored(local=0.69, blend=0.712), "blend", None)
    assert said.startswith(
        "Deployed is a mean of this hospital's own model and a shared one, because on the validation patients"
    )
    assert "%" not in said


def test_the_simpler_model_says_what_was_better_and_why_that_is_not_enough() -> None:
    said = reason(scored(local=0.69, fedavg=0.70), "local", 2)
    assert "this hospital's own local model, because on the 2 validation patients" in said
    assert said.endswith(
        "the shared FedAvg model scored 0.700 (more, but so few patients do not show that it is better)."
    )


def test_the_best_model_stands_beside_the_best_of_the_others() -> None:
    said = reason(scored(local=0.8, fedavg=0.6, personalised=0.7), "local", 3)
    assert said.endswith("it scored 0.800 Dice; the personalised model scored 0.700.")
    assert reason(scored(local=0.8), "local", 3).endswith("it scored 0.800 Dice, and nothing else was compared.")


def test_steps_and_weights_between() -> None:
    candidates = scored(local=0.5, personalised=0.6, interpolated=0.7)
    candidates["personalised"]["k"] = 5
    assert "the personalised model, trained for 5 more steps on this hospital's patients, because" in reason(
        candidates, "personalised", 1
    )
    between = reason(candidates, "interpolated", 1, {"share": 0.75, "of": "fedavg", "k": 5})
    assert "one model with weights between the shared ones and the fine-tuned ones (25% and 75%)" in between
    assert "on the one validation patient of this hospital" in between


@pytest.mark.parametrize(
    ("candidates", "chosen"), [({}, None), ({"local": {}}, "local"), (scored(local=None), "local")]
)
def test_nothing_is_said_where_nothing_is_known(candidates: dict[str, Any], chosen: str | None) -> None:
    assert reason(candidates, chosen, 6) == ""
