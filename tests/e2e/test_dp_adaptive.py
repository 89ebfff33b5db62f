"""Hospital-level privacy in real simulator processes: adapters shared, charged, and nothing told."""

import json

import pytest

from wardround.core.arrays import digest
from wardround.dp.ledger import Ledger
from wardround.dp.releases import GaussianRelease
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d

SITES = ("site-1", "site-2", "site-3")
SMALL = ("work=2", "num_rounds=2", "phantoms.patients=5")
ADAPTERS = ("sharing=adapters_alone", "model.adapter_rank=1", "scaling.start=[]", "scaling.follow=true")
TINY = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0, adapter_rank=1)


@pytest.fixture(scope="session")
def run(simulator):
    job = simulator.job("brats_dp_adaptive", " ".join(SITES), *SMALL, *ADAPTERS)
    return simulator.run(job, "dp_adaptive", 3)


def models(run):
    return [checkpoint.load(run.site(s) / "wardround" / "final_model.npz", fingerprint(TINY))[0] for s in SITES]


def test_it_runs_to_its_end_without_a_score(run):
    assert run.code == 0, run.said[-4000:]
    assert (run.report["outcome"], run.report["problems"]) == ("complete", [])
    assert run.report["final"] == {site: {"candidates": {}, "deploy": None} for site in SITES}
    told = [numbers for row in run.report["rounds"] for numbers in row["sites"].values()]
    assert len(told) == 6
    assert {value for numbers in told for value in numbers.values()} == {None}
    assert run.report["settings"]["dp.unit"] == "hospital"


def test_one_shared_part_everywhere(run):
    found = models(run)
    assert len({digest(model) for model in found}) == 1
    ups = [block for name, block in found[0].items() if name.endswith(".up")]
    assert ups
    assert all(block.any() for block in ups)


def test_every_round_is_charged_once(run):
    for site in SITES:
        ledger = Ledger(run.site(site).parent / "local").state()
        (account,) = ledger.accounts.values()
        (z,) = {one.noise_multiplier for one in account.spent["federation"]}
        assert sum(one.count for one in account.spent["federation"]) == 2
        assert account.reserved["federation"] == GaussianRelease("hospital", z, 2)


def test_the_scores_stay_in_the_hospitals_own_report(run):
    for site in SITES:
        folder = run.site(site) / "wardround"
        assert (folder / "site_report.html").is_file()
        assert (folder / "deploy_model.npz").is_file()
        receipts = [json.loads(line) for line in (folder / "releases.jsonl").read_text().splitlines()]
        assert [row["mechanism"] for row in receipts if row["task"] == "train"] == ["Gaussian"] * 2
