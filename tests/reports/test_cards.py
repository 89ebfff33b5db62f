from typing import Any

import pytest

from wardround.reports.cards import candidate_table, facts, hospital_cards, outcome, overview_table, title
from wardround.reports.figures import candidate_panels, curve_panels
from wardround.reports.schema import build


def test_title_tells_when_and_whether_real(run: dict[str, Any]) -> None:
    found = title(run)
    assert "21 November 2025, 08:00 · took 4 min 3 s · simulator · phantoms" in found
    assert "SYNTHETIC DATA" in found
    run.update(phantoms=False, simulator=False)
    assert "SYNTHETIC" not in title(run)
    assert "real sites · patient data" in title(run)


@pytest.mark.parametrize(
    ("started", "finished", "words"),
    [
        ("2025-11-21T08:00:00Z", "2025-11-21T08:00:05Z", "took 5.0 s"),
        ("2025-11-21T08:00:00Z", "2025-11-21T08:00:05", "08:00 · simulator"),
        ("yesterday", None, "yesterday · simulator"),
        (None, None, "date unknown · simulator"),
    ],
)
def test_times_with_holes(run: dict[str, Any], started: str | None, finished: str | None, words: str) -> None:
    run.update(started=started, finished=finished)
    assert words in title(run)


def test_outcome_names_every_problem(run: dict[str, Any]) -> None:
    assert "COMPLETE." in outcome(build(run))
    assert "INCOMPLETE" not in outcome(build(run))
    assert "2 hospitals (joining helped: 1; joining did not help: 1)." in outcome(build(run))
    run["problems"] = ["site-1 was lost in round 0", "site-2 was lost in round 1"]
    found = outcome(build(run))
    assert "INCOMPLETE." in found
    assert found.count("<li>") == 2


def test_one_card_per_hospital(run: dict[str, Any]) -> None:
    found = hospital_cards(run)
    assert found.count("<article") == 2
    assert found.count('class="card helped"') == 1
    assert "joining did not help you" in found
    del run["final"]["site-2"]
    assert "No model can be recommended" in hospital_cards(run)


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


def test_few_test_cases_are_pointed_out(run: dict[str, Any]) -> None:
    assert hospital_cards(run).count("With 4 cases the numbers are rough") == 2
    for final in run["final"].values():
        for candidate in final["candidates"].values():
            candidate["test"]["dice_mean"]["cases"] = 20
    assert "rough" not in hospital_cards(run)


def test_facts_name_a_missing_sequence(run: dict[str, Any]) -> None:
    assert facts(run["sites"]["site-1"]) == (
        "Patients: 9 training, 3 validation, 4 test; scans by sequence: t1 16, t1ce 16, t2 none, flair 16; "
        "labels: tumour regions ET, TC, WT; computed on cpu"
    )
    assert facts({}) == "This hospital told nothing about its data."


def test_facts_of_a_site_that_hides_its_numbers_claim_none(run: dict[str, Any]) -> None:
    site = run["sites"]["site-1"] | {"cases": None, "modalities": {"t1": 1, "t1ce": 1, "t2": 0, "flair": 1}}
    assert facts(site) == (
        "Number of patients: not told; sequences: t1, t1ce, flair; labels: tumour regions ET, TC, WT; computed on cpu"
    )


def test_overview_marks_the_deployed_mix(run: dict[str, Any]) -> None:
    found = overview_table(build(run))
    assert 'class="deployed"><th scope="row">each hospital&#x27;s deployed model</th><td>0.705</td>' in found
    assert "1 of 2" in found
    run["final"] = {}
    assert "No test result came back" in overview_table(build(run))


def test_scores_over_few_patients_are_said_not_to_be_told(run: dict[str, Any]) -> None:
    run["sites"]["site-1"]["cases"] = {"train": 9, "val": None, "test": None}
    run["final"]["site-1"] = {"candidates": {"local": {}, "fedavg": {}}, "deploy": "fedavg", "usable": True}
    found = hospital_cards(build(run))
    assert "n &lt; 5: not told" in found
    assert "9 training, few validation, few test" in found
    assert "Deploy the shared FedAvg model" in found


def test_where_only_few_patients_were_tested_the_page_says_that_nothing_was_lost(run: dict[str, Any]) -> None:
    for site in run["sites"].values():
        site["cases"] = {"train": 9, "val": None, "test": None}
    for final in run["final"].values():
        final["candidates"] = {"local": {}, "fedavg": {}}
    for r in run["rounds"]:
        r["sites"] = {site: {"loss": None, "val_score": None} for site in run["sites"]}
    pages = (
        overview_table(build(run)),
        candidate_panels(run),
        curve_panels(run, "val_score", "validation Dice"),
        curve_panels(run, "loss", "training loss"),
    )
    for found in pages:
        assert "was told: over few patients" in found
        assert "came back" not in found


def test_a_model_below_the_floor_is_not_marked_for_deployment(run: dict[str, Any]) -> None:
    for candidate in run["final"]["site-2"]["candidates"].values():
        candidate["test"]["dice_mean"] = {"value": 0.021, "low": 0.01, "high": 0.03, "cases": 4}
    report = build(run)
    assert report["verdicts"]["site-2"]["kind"] == "unusable"
    assert report["verdicts"]["site-2"]["deploy"] is None
    second = hospital_cards(report).split("<article")[2]
    assert "not usable yet" in second
    assert "✓ deploy" not in second
    assert "not usable yet: 1" in outcome(report)


def test_hospitals_come_by_name(run: dict[str, Any]) -> None:
    run["sites"] = {name: run["sites"]["site-1"] | {"label": None} for name in ("site-10", "site-2", "site-1")}
    run["rounds"], run["final"] = [], dict.fromkeys(run["sites"])
    found = hospital_cards(run)
    assert found.index("site-1<") < found.index("site-2<") < found.index("site-10<")
