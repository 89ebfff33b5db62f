"""`--set work_by_patients=proportional`: where it stands in a job, what the card says, and where it is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.patient_work import PatientWork
from wardround.core.errors import ConfigRefused
from wardround.flare.job_settings import require_same
from wardround.flare.trainer import Work, require_promise_fits
from wardround.jobs import allow_list, folder, recipes
from wardround.jobs.building import build, require_buildable

OUTBOUND = "wardround.flare.outbound.Outbound"
SET = "work_by_patients=proportional"
PUBLIC = "secagg.weights=patients_plaintext"


def card(*settings: str) -> str:
    return " ".join(folder.job_files(recipes.job("brats_fedavg", settings))["CARD.md"].split())


def test_a_job_without_it_does_not_mention_it() -> None:
    made = recipes.job("brats_fedavg")
    assert "work_by_patients" not in made.schedule
    assert build(made.federation["schedule"], "schedule").work_by_patients is None
    assert "spends 40 gradient evaluations" in card()
    assert card("work_by_patients=none") == card()


def test_it_is_a_part_of_the_schedule() -> None:
    made = recipes.job("brats_fedavg", [SET, "work_by_patients.reference_patients=20", "work_by_patients.most=3.0"])
    require_buildable(made)
    assert build(made.federation["schedule"], "schedule").work_by_patients == PatientWork(20, 0.5, 3.0)
    require_same(folder.server_config(made), folder.client_config(made))
    printed = card(SET)
    assert "0.5 to 2 times 40" in printed
    assert "tells roughly how many" in printed
    path = made.schedule["work_by_patients"]["path"]
    assert path in allow_list.allow_list()["site"]


@pytest.mark.parametrize(
    "settings", [["privacy=secagg_masks", PUBLIC], ["privacy=secagg_he", PUBLIC], ["aggregation=median"]]
)
def test_where_the_server_may_know_the_counts_it_is_allowed(settings: list[str]) -> None:
    require_buildable(recipes.job("brats_fedavg", [SET, "federation.min_clients=3", *settings]))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("brats_dp_patient", [], "no noise hides it"),
        ("brats_dp_adaptive", [], "would tell"),
        ("brats_fedavg_secagg", ["secagg.weights=equal"], "would tell"),
        ("brats_fedavg_secagg", [], "numbers of patients that the server must not learn"),
        ("brats_fedavg_he", [], "secagg.weights=patients_plaintext"),
        ("brats_perfedavg_ring", [], "the time that a round takes would tell"),
        ("brats_fedavg", ["work_by_patients.least=0"], "work_by_patients.least"),
    ],
)
def test_where_no_count_may_be_seen_it_is_refused(name: str, settings: list[str], words: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        require_buildable(recipes.job(name, [SET, *settings]))
    assert words in " ".join(str(caught.value).split())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("brats_dp_patient", []),
        ("brats_dp_adaptive", []),
        ("brats_fedavg_secagg", ["secagg.weights=equal"]),
        ("brats_fedavg_secagg", []),
    ],
)
def test_a_site_refuses_it_when_it_loads_the_job(name: str, settings: list[str]) -> None:
    made = recipes.job(name, settings)
    outbound = build({"path": OUTBOUND, "args": folder.outbound(made)}, "outbound", also=[OUTBOUND])
    parts = [build(made.task[one], one) for one in ("sampling", "model_selection", "phantoms")]
    model, sharing = build(made.task["model"], "model"), build(made.sharing, "sharing")
    schedule = build(made.federation["schedule"], "schedule")
    work = Work(FedAvg(), sharing, model, schedule, *parts, seed=0, fedavg_baseline=None)
    require_promise_fits(outbound, work)
    work.schedule = replace(schedule, work_by_patients=PatientWork(16, 0.5, 2.0))
    with pytest.raises(ConfigRefused, match="local work by patients"):
        require_promise_fits(outbound, work)
