"""A site's data, budget and dummy round, each with one thing broken for real."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from wardround.data.site_config import SiteConfig
from wardround.dp import ledger_file
from wardround.dp.budget import FILE, read_budget
from wardround.dp.ledger import Job, Ledger
from wardround.dp.releases import SampledGaussianRelease
from wardround.jobs import recipes
from wardround.jobs.building import build
from wardround.ops import preflight_data as checks
from wardround.ops.findings import FAIL, PASS, WARN
from wardround.ops.preflight_data import Rehearsed
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_types import write_types
from wardround.synthetic.phantoms import write_cohort

SHAPE = (24, 24, 24)


def silent(done, total):
    """Progress that nobody reads."""


@pytest.fixture
def cohort(tmp_path):
    write_cohort(tmp_path / "data", hospital(0), seed=0, shape=SHAPE, patients=8)
    return SiteConfig(tmp_path / "data")


@pytest.fixture
def labelled(tmp_path):
    write_types(tmp_path / "types", hospital(0), 0, patients=12, shape=(20, 20, 16))
    return SiteConfig(tmp_path / "types")


def parts(name, *settings):
    job = recipes.job(name, settings)
    return Rehearsed(
        name,
        build(job.algorithm["site"], "algorithm"),
        build(job.sharing, "sharing"),
        build(job.task["model"], "model"),
        build(job.task["sampling"], "sampling"),
        build(job.federation["schedule"], "schedule").steps(0),
        0,
    )


SMALL = ("model.channels=[4,8]", "sampling.patch=[16,16,16]")


def test_sound_data(cohort):
    found = checks.data(cohort, silent)
    assert [one.status for one in found.findings] == [PASS]
    assert "8 cases, 8 patients" in found.findings[0].found
    assert found.voxels == 8 * 24**3
    assert len(found.some) == checks.DUMMY_PATIENTS


def test_every_damaged_case_is_a_line_of_its_own(cohort):
    scans = sorted(cohort.data.rglob("*_flair.nii.gz"))[:2]
    for scan in scans:
        scan.write_bytes(b"not a NIfTI file")
    found = checks.data(cohort, silent)
    assert [one.status for one in found.findings] == [FAIL, FAIL]
    assert all(scan.name in one.found for scan, one in zip(scans, found.findings, strict=True))


def test_a_hospital_without_a_sequence_is_told_so(tmp_path):
    write_cohort(tmp_path, hospital(3), seed=0, shape=SHAPE, patients=8)
    found = checks.data(SiteConfig(tmp_path), silent).findings
    assert (found[1].status, found[1].found) == (WARN, "no t2 in any case")


def test_too_few_patients(tmp_path):
    write_cohort(tmp_path, hospital(0), seed=0, shape=SHAPE, patients=2)
    (found,) = checks.data(SiteConfig(tmp_path), silent).findings
    assert (found.status, "2 patients" in found.found) == (FAIL, True)


def test_an_empty_folder(tmp_path):
    assert [one.status for one in checks.data(SiteConfig(tmp_path), silent).findings] == [FAIL]


def test_labelled_images(labelled):
    found = checks.data(labelled, silent).findings
    assert (found[0].status, "12 labelled images of 12 patients" in found[0].found) == (PASS, True)


def test_damaged_labelled_images(labelled):
    (labelled.data / "cases.csv").write_text("case\n")
    assert [one.status for one in checks.data(labelled, silent).findings] == [FAIL]


@pytest.mark.parametrize("name", ["brats_fedavg", "brats_perfedavg", "brats_scaffold", "brats_fedavg_he"])
def test_a_dummy_round_trains_and_leaves_nothing(cohort, name):
    before = sorted(cohort.data.parent.rglob("*"))
    found = checks.dummy_round(parts(name, *SMALL), cohort, checks.data(cohort, silent).some, lambda: 10**9)
    assert (found.status, "6 patients decoded" in found.found, "1.0 GB at most" in found.found) == (PASS, True, True)
    assert sorted(cohort.data.parent.rglob("*")) == before


@pytest.mark.parametrize("work", ["work=2", "work=60"])
def test_a_dummy_round_knows_rates_that_fall_with_every_step(cohort, work):
    job = parts("brats_fedavg", *SMALL, "schedule=standard", work)
    assert checks.dummy_round(job, cohort, checks.data(cohort, silent).some, lambda: 10**9).status == PASS


def test_a_job_that_this_data_cannot_feed(cohort, labelled):
    assert checks.dummy_round(parts("tumour_type_fedavg"), cohort, (), lambda: 0).status == FAIL
    assert checks.dummy_round(parts("brats_fedavg", *SMALL), labelled, (), lambda: 0).status == FAIL


def test_no_memory_and_a_loss_that_is_no_number(cohort, monkeypatch):
    def full(*_):
        raise MemoryError

    some = checks.data(cohort, silent).some
    monkeypatch.setattr(checks, "local_round", lambda *_: ({}, {}, (float("nan"),)))
    assert "not a number" in checks.dummy_round(parts("brats_fedavg", *SMALL), cohort, some, lambda: 0).found
    monkeypatch.setattr(checks, "local_round", full)
    assert "out of memory" in checks.dummy_round(parts("brats_fedavg", *SMALL), cohort, some, lambda: 0).found


NOW = datetime.now(timezone.utc)
RELEASE = SampledGaussianRelease("patient", 1.0, 0.05, 100)


def spend(local, epsilon):
    (local / FILE).write_text(json.dumps({"patient": {"epsilon": 100, "delta": 1e-5}}))
    job = Job("a-1", "brats_dp_patient", "0.1.0")
    Ledger(local).reserve(job, {"federation": RELEASE}, read_budget(local / FILE))
    Ledger(local).spend(job, "federation", RELEASE, read_budget(local / FILE))
    (local / FILE).write_text(json.dumps({"patient": {"epsilon": epsilon, "delta": 1e-5}}))


def test_no_budget_is_a_warning_and_an_unspent_one_passes(tmp_path):
    (found,) = checks.budget(tmp_path, NOW)
    assert (found.status, FILE in found.fix) == (WARN, True)
    (tmp_path / FILE).write_text('{"patient": {"epsilon": 8, "delta": 1e-5}}')
    (found,) = checks.budget(tmp_path, NOW)
    assert (found.status, found.found) == (PASS, "epsilon 0 of 8 per patient is spent or reserved")


@pytest.mark.parametrize(("epsilon", "status"), [(8, PASS), (0.5, FAIL)])
def test_a_spent_ledger(tmp_path, epsilon, status):
    spend(tmp_path, epsilon)
    (found,) = checks.budget(tmp_path, datetime.now(timezone.utc))
    assert (found.status, f"of {epsilon:g} per patient" in found.found) == (status, True)


def test_a_ledger_without_budget_an_edited_one_and_one_from_the_future(tmp_path):
    spend(tmp_path, 8)
    early = checks.budget(tmp_path, NOW - timedelta(days=2))
    assert [one.status for one in early] == [PASS, FAIL]
    assert "later than now" in early[1].found
    budget = (tmp_path / FILE).read_text()
    (tmp_path / FILE).unlink()
    assert checks.budget(tmp_path, NOW)[0].status == FAIL
    (tmp_path / FILE).write_text(budget)
    ledger = tmp_path / ledger_file.FILE
    ledger.write_text(ledger.read_text().replace("brats_dp_patient", "brats_fedavg"))
    (found,) = checks.budget(tmp_path, datetime.now(timezone.utc))
    assert (found.status, "the ledger" in found.found) == (FAIL, True)
