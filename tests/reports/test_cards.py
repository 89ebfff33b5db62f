from collections.abc import Callable
from typing import Any

import pytest

from wardround.reports import cards
from wardround.reports.cards import facts
from wardround.reports.html import PARTS
from wardround.reports.schema import build

Shown = Callable[[dict[str, Any], str], str]


def candidate_table(candidates: dict[str, Any], chosen: str, caption: str) -> str:
    return str(PARTS.table(cards.candidate_table(candidates, chosen, caption)))


def test_title_tells_when_and_whether_real(shown: Shown, run: dict[str, Any]) -> None:
    found = shown(run, "title")
    assert "21 November 2025, 08:00 · took 4 min 3 s · simulator · synthetic patients" in found
    assert "SYNTHETIC DATA" in found
    run.update(phantoms=False, simulator=False)
    assert "SYNTHETIC" not in shown(run, "title")
    assert "real sites · patient data" in shown(run, "title")


@pytest.mark.parametrize(
    ("started", "finished", "words"),
    [
        ("2025-11-21T08:00:00Z", "2025-11-21T08:00:05Z", "took 5.0 s"),
        ("2025-11-21T08:00:00Z", "2025-11-21T08:00:05", "08:00 · simulator"),
        ("yesterday", None, "yesterday · simulator"),
        (None, None, "date unknown · simulator"),
    ],
)
def test_times_with_holes(
    shown: Shown, run: dict[str, Any], started: str | None, finished: str | None, words: str
) -> None:
    run.update(started=started, finished=finished)
    assert words in shown(run, "title")


def test_outcome_names_every_problem(shown: Shown, run: dict[str, Any]) -> None:
    assert "COMPLETE." in shown(run, "outcome")
    assert "INCOMPLETE" not in shown(run, "outcome")
    assert "Of 2 hospitals: joining helped at 1; joining did not help at 1." in shown(run, "joining")
    run["problems"] = ["site-1 was lost in round 0", "site-2 was lost in round 1"]
    found = shown(run, "outcome")
    assert "INCOMPLETE." in found
    assert found.count("<li>") == 2


def test_one_card_per_hospital(shown: Shown, run: dict[str, Any]) -> None:
    found = shown(run, "hospitals")
    assert found.count("<article") == 2
    assert found.count('class="card helped"') == 1
    assert "joining did not help you" in found
    del run["final"]["site-2"]
    assert "No model can be recommended" in shown(run, "hospitals")


def test_the_deployed_row_is_marked_in_words(run: dict[str, Any]) -> None:
    found = candidate_table(run["final"]["site-2"]["candidates"], "local", "c")
    assert '<tr class="deployed"><th scope="row">local<span class="chosen"> ✓ deploy</span></th>' in found
    assert found.count("✓ deploy") == 1


def test_unknown_columns_are_left_out(run: dict[str, Any]) -> None:
    """At a site with whole-tumour masks ET is null everywhere; TC was never there."""
    candidates = run["final"]["site-1"]["candidates"]
    assert "Dice ET" in candidate_table(candidates, "local", "c")
    for candidate in candidates.values():
        candidate["test"]["dice_ET"] = None
    found = candidate_table(candidates, "local", "c")
    assert "Dice ET" not in found
    assert "Dice TC" not in found
    assert "Dice WT" in found
    assert "HD95 WT, mm" in found
    assert "7.5" in found


def test_few_test_cases_are_pointed_out(shown: Shown, run: dict[str, Any]) -> None:
    assert shown(run, "hospitals").count("With 4 test patients these numbers are rough") == 2
    for final in run["final"].values():
        for candidate in final["candidates"].values():
            candidate["test"]["dice_mean"]["cases"] = 20
    assert "rough" not in shown(run, "hospitals")


def test_facts_name_a_missing_sequence(run: dict[str, Any]) -> None:
    assert facts(run["sites"]["site-1"]) == (
        "Patients: 9 training, 3 validation, 4 test; scans by sequence: t1 16, t1ce 16, t2 none, flair 16; "
        "labels: tumour regions ET, TC, WT; computed on cpu"
    )
    assert facts({}) == "This hospital told nothing about its data."


def test_facts_of_a_site_that_hides_its_numbers_claim_none(run: dict[str, Any]) -> None:
    site = run["sites"]["site-1"] | {"cases": None, "modalities": {"t1": 1, "t1ce": 1, "t2": 0, "flair": 1}}
    assert facts(site) == (
        "Number of patients: not reported; sequences: t1, t1ce, flair; labels: tumour regions ET, TC, WT; computed on cpu"
    )


def test_overview_marks_the_deployed_mix(shown: Shown, run: dict[str, Any]) -> None:
    found = shown(run, "overview")
    assert 'class="deployed"><th scope="row">the model that each hospital uses</th><td>0.705</td>' in found
    assert "1 of 2" in found
    run["final"] = {}
    assert "No test result came back" in shown(run, "overview")


def test_scores_over_few_patients_are_said_not_to_be_told(shown: Shown, run: dict[str, Any]) -> None:
    run["sites"]["site-1"]["cases"] = {"train": 9, "val": None, "test": None}
    run["final"]["site-1"] = {"candidates": {"local": {}, "fedavg": {}}, "deploy": "fedavg", "usable": True}
    found = shown(run, "hospitals")
    assert "n &lt; 5: not reported" in found
    assert "9 training, few validation, few test" in found
    assert "Deploy the shared FedAvg model" in found


def test_where_only_few_patients_were_tested_the_page_says_that_nothing_was_lost(
    shown: Shown, run: dict[str, Any]
) -> None:
    for site in run["sites"].values():
        site["cases"] = {"train": 9, "val": None, "test": None}
    for final in run["final"].values():
        final["candidates"] = {"local": {}, "fedavg": {}}
    for r in run["rounds"]:
        r["sites"] = {site: {"loss": None, "val_score": None} for site in run["sites"]}
    pages = (
        (shown(run, "overview"), 1),
        (shown(run, "figures"), 3),
    )
    for found, count in pages:
        assert found.count("was told: over few patients") == count
        assert "came back" not in found


def test_a_model_below_the_floor_is_not_marked_for_deployment(shown: Shown, run: dict[str, Any]) -> None:
    for candidate in run["final"]["site-2"]["candidates"].values():
        candidate["test"]["dice_mean"] = {"value": 0.021, "low": 0.01, "high": 0.03, "cases": 4}
    report = build(run)
    assert report["verdicts"]["site-2"]["kind"] == "unusable"
    assert report["verdicts"]["site-2"]["deploy"] is None
    second = shown(run, "hospitals").split("<article")[2]
    assert "not usable yet" in second
    assert "✓ deploy" not in second
    assert "no model is usable yet at 1" in shown(run, "joining")


def test_hospitals_come_by_name(shown: Shown, run: dict[str, Any]) -> None:
    run["sites"] = {name: run["sites"]["site-1"] | {"label": None} for name in ("site-10", "site-2", "site-1")}
    run["rounds"], run["final"] = [], dict.fromkeys(run["sites"])
    found = shown(run, "hospitals")
    assert found.index("site-1<") < found.index("site-2<") < found.index("site-10<")
