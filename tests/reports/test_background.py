from collections.abc import Callable
from typing import Any

import pytest

Shown = Callable[[dict[str, Any], str], str]


def test_costs_are_summed(shown: Shown, run: dict[str, Any]) -> None:
    found = shown(run, "costs")
    assert [row.partition("</th>")[0] for row in found.split('<th scope="row">')[1:]] == ["1", "2", "all"]
    assert '<th scope="row">all</th><td>25.0</td><td>2.0 MB</td><td>4.0 MB</td>' in found
    assert "<td>2</td><td>2</td><td>2</td><td>–</td><td>0.400</td>" in found


def test_repeated_attempts_are_counted(shown: Shown, run: dict[str, Any]) -> None:
    run["rounds"][0].update(attempts=2, recovered=["site-2"])
    assert "<td>2</td><td>2</td><td>2</td><td>2</td>" in shown(run, "costs")


@pytest.mark.parametrize(
    ("masks", "encryption", "words"),
    [
        (None, None, "The server could read the change of each single hospital: no mask"),
        (False, False, "The server could read the change of each single hospital: no mask"),
        (True, False, "the server and the hospitals could read only the sum"),
        (False, True, "All hospitals hold the same key"),
        (True, True, "masked and encrypted"),
    ],
)
def test_who_could_read_a_change_is_said(
    shown: Shown, run: dict[str, Any], masks: bool | None, encryption: bool | None, words: str
) -> None:
    run["settings"] |= {"secagg.masks": masks, "secagg.encryption": encryption}
    assert words in shown(run, "left")


def test_hidden_counts_are_not_claimed_to_have_left(shown: Shown, run: dict[str, Any]) -> None:
    assert "patient counts per split" in shown(run, "left")
    run["settings"]["secagg.weights"] = "patients_in_sum"
    assert "patient counts per split" not in shown(run, "left")
    assert "only inside the sum" in shown(run, "left")
    assert "the number of test patients" not in shown(run, "left")


def test_what_left_names_all_facts_and_only_what_the_job_sends(shown: Shown, run: dict[str, Any]) -> None:
    found = shown(run, "left")
    assert "the name that the hospital gave itself" in found
    assert "the number of test patients; which model was chosen" in found
    assert "layers that stay" in found
    assert "one-time keys" not in found
    assert "releases.jsonl" in found
    run["settings"] |= {"sharing_class": "wardround.algorithms.sharing.Everything", "secagg.masks": True}
    found = shown(run, "left")
    assert "layers that stay" not in found
    assert "one-time keys" in found
    run["settings"] |= {"dp.epsilon": 1.0, "dp.delta": 1e-5, "dp.mu": 0.3, "dp.unit": "patient"}
    found = shown(run, "left")
    assert "for the shared model alone" in found
    assert "which model was chosen" not in found


def test_a_lost_site_shows_in_the_counts(shown: Shown, run: dict[str, Any]) -> None:
    run["rounds"][0].update(trained=["site-1"], aggregated=[], bytes_up=None)
    assert "<td>–</td><td>2</td><td>1</td><td>0</td>" in shown(run, "costs")
    run["rounds"] = []
    assert "No round was finished" in shown(run, "costs")


def test_slowest_site_first(shown: Shown, run: dict[str, Any]) -> None:
    run["rounds"][0]["sites"]["site-2"]["seconds"] = 100.0
    assert "slowest first: south (site-2) 1 min 43 s; north (site-1) 6.5 s." in shown(run, "costs")
    for r in run["rounds"]:
        r["sites"] = None
    assert "slowest" not in shown(run, "costs")


def test_what_left_names_the_size_and_the_danger(shown: Shown, run: dict[str, Any]) -> None:
    assert "143,685 numbers" in shown(run, "left")
    assert "unless a privacy mechanism" in shown(run, "left")
    del run["model"]
    assert "numbers per model" not in shown(run, "left")


def test_settings_list_everything_given(shown: Shown, run: dict[str, Any]) -> None:
    found = shown(run, "settings")
    for words in (
        "ab12cd34",
        '<th scope="row">learning rate</th><td><span class="words"> 0.05</span></td><td>lr</td>',
        '<th scope="row">rounds</th><td><span class="words"> 2</span></td><td>num_rounds</td>',
        "round 2, mean validation Dice 0.400",
    ):
        assert words in found
    run.update(settings=None, model=None, best=None)
    assert "best shared model" not in shown(run, "settings")


@pytest.mark.parametrize(("best", "words"), [(0, "as evaluated in round 1"), (2, "the final one, after round 2")])
def test_the_best_model_is_of_a_round_that_there_was(shown: Shown, run: dict[str, Any], best: int, words: str) -> None:
    """Rounds are counted from 0 in report.json, and the model after the last one is the final one."""
    run["rounds"] = run["rounds"][:2]
    run["best"] = {"round": best, "val_score": 0.5}
    assert words in shown(run, "settings")
