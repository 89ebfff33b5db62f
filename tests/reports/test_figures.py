import re
from typing import Any

from wardround.reports import figures
from wardround.reports.figures import curves
from wardround.reports.html import PARTS


def curve_panels(run: dict[str, Any], key: str, what: str) -> str:
    return str(PARTS.panels(figures.curve_panels(run, key, what)))


def candidate_panels(run: dict[str, Any]) -> str:
    return str(PARTS.panels(figures.candidate_panels(run)))


def test_curves_leave_out_what_did_not_come_back(run: dict[str, Any]) -> None:
    run["rounds"][0]["sites"]["site-1"]["val_score"] = None
    run["rounds"][1]["sites"]["site-2"] = None
    run["rounds"][1]["sites"]["stranger"] = {"val_score": 0.2}
    assert curves(run, "val_score") == {"site-1": {2: 0.4}, "site-2": {1: 0.3}, "stranger": {2: 0.2}}


def test_one_panel_per_hospital_with_its_values_in_words(run: dict[str, Any]) -> None:
    found = curve_panels(run, "val_score", "validation Dice")
    assert found.count("<figure>") == 2
    assert 'aria-label="validation Dice of north (site-1) over rounds: round 1 0.30, round 2 0.40"' in found
    assert found.count('class="best"') == 2
    assert 'class="best"' not in curve_panels(run, "loss", "training loss")


def test_dice_is_drawn_on_the_scale_from_0_to_1(run: dict[str, Any]) -> None:
    """The plot reaches from y = 128 (Dice 0) to y = 10 (Dice 1)."""
    for site in run["rounds"][0]["sites"].values():
        site["val_score"] = 0.0
    for site in run["rounds"][1]["sites"].values():
        site["val_score"] = 1.0
    assert re.search(r'd="M34 128L250 10" class="line"', curve_panels(run, "val_score", "validation Dice"))


def test_a_gap_in_the_rounds_stays_a_gap(run: dict[str, Any]) -> None:
    first = run["rounds"][0]
    run["rounds"] = [{**first, "round": r} for r in (0, 1, 3, 4)]
    lines = re.findall(r'd="([^"]*)" class="line"', curve_panels(run, "loss", "training loss"))
    assert [line.count("M") for line in lines] == [2, 2]


def test_no_value_at_all(run: dict[str, Any]) -> None:
    run["rounds"] = []
    assert "No training loss came back" in curve_panels(run, "loss", "training loss")
    run["final"] = {}
    assert "No test result came back" in candidate_panels(run)


def test_a_silent_hospital_keeps_its_panel(run: dict[str, Any]) -> None:
    for r in run["rounds"]:
        del r["sites"]["site-2"]
    found = curve_panels(run, "loss", "training loss")
    assert found.count("<figure>") == 2
    assert found.count("no value came back") == 1


def test_candidates_share_one_range_and_the_deployed_is_marked(run: dict[str, Any]) -> None:
    """Drawn values reach from 0.4 (0.5 - 0.1) to 0.91 (0.81 + 0.1): the range is 0.4 to 1, x = 14 to 246."""
    found = candidate_panels(run)
    assert found.count("<figure>") == 2
    assert found.count('class="open deployed"') == 2
    local = 14 + (0.81 - 0.4) / 0.6 * 232
    assert f'cx="{local:.1f}"' in found
    assert "local 0.810 [0.710, 0.910], to deploy" in found


def test_a_candidate_without_interval_is_a_dot_without_bar(run: dict[str, Any]) -> None:
    for final in run["final"].values():
        for candidate in final["candidates"].values():
            candidate["test"]["dice_mean"].update(low=None, high=None)
    found = candidate_panels(run)
    assert found.count("<circle") == 6
    assert 'class="span' not in found
