from pathlib import Path
from typing import Any

import pytest

from wardround.reports.schema import build
from wardround.reports.setting_names import value_words
from wardround.reports.summary import (
    all_problems,
    candidates_of,
    deployed,
    ending,
    metric,
    overview,
    site_name,
)


def test_names(run: dict[str, Any]) -> None:
    assert site_name(run, "site-1") == "north (site-1)"
    run["sites"]["site-1"]["label"] = "site-1"
    assert site_name(run, "site-1") == "site-1"
    assert site_name(run, "stranger") == "stranger"


def test_candidates_come_in_order_of_simplicity(run: dict[str, Any]) -> None:
    found = run["final"]["site-1"]["candidates"]
    run["final"]["site-1"]["candidates"] = {**dict(reversed(found.items())), "fedavg": None}
    assert list(candidates_of(run, "site-1")) == ["local", "fedavg_finetuned", "personalised"]
    assert candidates_of(run, "stranger") == {}


def test_an_unknown_value_is_no_metric() -> None:
    assert metric({"test": {"dice_ET": {"value": None}}}, "dice_ET") is None
    assert metric({"test": None}, "dice_ET") is None
    assert metric({"test": {"dice_ET": {"value": 0.0}}}, "dice_ET") == {"value": 0.0}


def test_the_site_decides_what_is_deployed(run: dict[str, Any]) -> None:
    run["final"]["site-1"]["deploy"] = "fedavg"
    assert deployed(run, "site-1") == "fedavg"


@pytest.mark.parametrize("said", [None, "personalised"])
def test_without_a_valid_word_validation_decides(run: dict[str, Any], said: str | None) -> None:
    final = run["final"]["site-1"]
    final["deploy"] = said
    del final["candidates"]["personalised"]
    final["candidates"]["fedavg"]["val"] = 0.9
    assert deployed(run, "site-1") == "fedavg"
    for candidate in final["candidates"].values():
        candidate["val"] = None
    assert deployed(run, "site-1") is None


def test_no_problem_in_a_whole_run(run: dict[str, Any]) -> None:
    assert all_problems(run) == ([], [])


def test_a_silent_loss_is_told_once(run: dict[str, Any]) -> None:
    for r in run["rounds"]:
        r["aggregated"] = ["site-1"]
    del run["final"]["site-2"]
    told = ["site-2 was asked to train but its update is missing in round 1, 2"]
    assert all_problems(run) == (told, ["site-2"])
    run.update(problems=["site-2 was lost in round 0: data refused"], lost=["site-2"])
    assert all_problems(run) == (run["problems"], ["site-2"])
    run.update(problems=["site-22 was lost in round 0"], lost=["site-22"])
    assert all_problems(run)[1] == ["site-22", "site-2"]


def test_a_site_that_was_not_asked_is_not_lost(run: dict[str, Any]) -> None:
    run["rounds"][0].update(configured=["site-1"], trained=["site-1"], aggregated=["site-1"])
    assert all_problems(run) == ([], [])


@pytest.mark.parametrize("private", [False, True])
def test_a_run_ends_with_where_each_hospital_finds_its_own_page(run: dict[str, Any], private: bool) -> None:
    if private:
        run["settings"] |= {"dp.epsilon": 1.0, "dp.delta": 1e-5, "dp.mu": 0.3, "dp.unit": "patient"}
        for final in run["final"].values():
            del final["deploy"]
    page = Path("/ws/server/simulate_job/wardround/report.html")
    *_, own, last = ending(build(run), page)
    assert own.endswith(": /ws/SITE/simulate_job/wardround/site_report.html (SITE: site-1, site-2)")
    assert last == f"open this: {page}"
    assert "WORKSPACE/SITE/simulate_job" in ending(build(run), Path("/elsewhere/report.html"))[-2]
    run["simulator"] = False
    assert "KIT/JOB_ID/wardround/site_report.html at the hospital" in ending(build(run), page)[-2]


def test_overview_by_hand(run: dict[str, Any]) -> None:
    table = overview(run)
    assert list(table) == ["local", "fedavg", "fedavg_finetuned", "personalised", "deployed"]
    assert table["local"] == {
        "mean": pytest.approx(0.655),
        "worst": 0.5,
        "worst_site": "site-1",
        "gap": pytest.approx(0.31),
        "sites": 2,
    }
    assert table["personalised"]["sites"] == 1
    assert table["personalised"]["gap"] == 0.0
    assert table["deployed"]["mean"] == pytest.approx((0.60 + 0.81) / 2)
    run["final"] = {}
    assert overview(run) == {}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model_selection.steps", [0, 1, 5, 20], "0, 1, 5, 20"),
        ("model.channels", [8, 16], "8, 16"),
        ("sampling.patch", [32, 32, 16], "32 x 32 x 16"),
        ("lr", 0.05, "0.05"),
    ],
)
def test_only_sizes_along_axes_are_shown_as_a_product(name: str, value: object, words: str) -> None:
    assert value_words(name, value) == words
