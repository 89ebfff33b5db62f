"""Secure sums in real simulator processes: the same model in every mode, receipts, restarted processes, a failing hop."""

import json

import numpy as np
import pytest

from wardround.core.arrays import digest, in_variable
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.training.global_model import initial_arrays

# The same sums run with kits and TLS in test_provisioned.py, and in one process in tests/secagg.
pytestmark = pytest.mark.nightly

SITES = ("site-1", "site-2", "site-3")
FEDAVG = ("fixed", "secagg", "he")
PERFEDAVG = ("perfedavg_open", "perfedavg_ring", "perfedavg_restarted")
TINY = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)

# Stands in the job's own folder: takes the kept integers of one site away before its hop.
FAULT = """
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey

from wardround.flare import workspaces as places


class Fault(FLComponent):
    def handle_event(self, event_type, fl_ctx):
        at_hop = event_type == EventType.BEFORE_TASK_EXECUTION and fl_ctx.get_prop(FLContextKey.TASK_NAME) == "hop"
        if at_hop and fl_ctx.get_identity_name() == "site-2":
            for path in (places.state_folder(fl_ctx) / "secure").glob("held-*.npz"):
                path.unlink()
"""


SMALL = ("work=2", "phantoms.patients=5")


@pytest.fixture(scope="session")
def runs(simulator):
    """Every run by name. The slowest (a process for every task) goes on beside the others."""
    ring = simulator.job("brats_perfedavg_ring", " ".join(SITES), *SMALL, "num_rounds=1")
    slow = simulator.start(ring, "perfedavg_restarted", 1)
    found = {}
    for mode in FEDAVG:
        found[mode] = simulator.run(simulator.job(f"brats_fedavg_{mode}", " ".join(SITES), *SMALL), f"hidden_{mode}", 3)
    plain = simulator.job("brats_perfedavg_ring", " ".join(SITES), "privacy=fixed_point", *SMALL, "num_rounds=1")
    found["perfedavg_open"] = simulator.run(plain, "perfedavg_open", 3)
    found["perfedavg_ring"] = simulator.run(ring, "perfedavg_ring", 3)
    found["perfedavg_restarted"] = simulator.finish(slow, "perfedavg_restarted")
    return found


@pytest.fixture(scope="session")
def fault(simulator):
    """Four hospitals in a ring; what site-2 has kept is gone when its hop comes."""
    job = simulator.job("brats_fedavg", "site-1 site-2 site-3 site-4", "privacy=secagg_ring", *SMALL, "num_rounds=1")
    config = job / "app/config/config_fed_client.json"
    client = json.loads(config.read_text())
    client["components"].append({"id": "fault", "path": "ring_fault.Fault", "args": {}})
    config.write_text(json.dumps(client))
    (job / "app/custom/ring_fault.py").write_text(FAULT)
    return simulator.run(job, "fault", 4)


def model(run, site):
    return checkpoint.load(run.site(site) / "wardround" / "final_model.npz", fingerprint(TINY))


def receipts(run, site):
    text = (run.site(site) / "wardround" / "releases.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", [*FEDAVG, *PERFEDAVG])
def test_it_runs_to_its_end(runs, name):
    run = runs[name]
    assert run.code == 0, run.said[-4000:]
    assert (run.report["outcome"], run.report["problems"]) == ("complete", [])
    for entry in run.report["rounds"]:
        assert entry["configured"] == entry["trained"] == entry["aggregated"] == list(SITES)
        assert (entry["attempts"], entry["recovered"]) == (1, [])
    assert set(run.report["final"]) == set(run.report["verdicts"]) == set(SITES)


@pytest.mark.parametrize("names", [FEDAVG, PERFEDAVG])
def test_the_model_is_the_same_bit_for_bit(runs, names):
    """In every mode, at every site, with long-lived and with restarted processes."""
    (first, meta), *others = (model(runs[name], site) for name in names for site in SITES)
    for weights, _ in others:
        assert weights.keys() == first.keys()
        assert all(np.array_equal(weights[block], first[block]) for block in first)
    start = initial_arrays(TINY, seed=0)
    assert all(not np.array_equal(first[block], start[block]) for block in first if first[block].size > 8)
    assert meta["round"] == (2 if names is FEDAVG else 1)
    assert len({runs[name].report["model"]["sha256"] for name in names}) == 1


def test_the_reports_digest_is_that_of_the_model(runs):
    weights, _ = model(runs["he"], "site-2")
    assert runs["he"].report["model"]["sha256"] == digest(in_variable("model", weights))


def test_what_follows_from_the_model_is_the_same(runs):
    for names in (FEDAVG, PERFEDAVG):
        first, *others = (runs[name].report for name in names)
        assert all(report["final"] == first["final"] for report in others)
        assert all(report["best"] == first["best"] for report in others)


@pytest.mark.parametrize("name", [*FEDAVG, *PERFEDAVG])
def test_the_server_has_no_model(runs, name):
    assert not list((runs[name].workspace / "server").rglob("*.npz"))


@pytest.mark.parametrize("name", [*FEDAVG, *PERFEDAVG])
def test_a_receipt_for_every_release(runs, name):
    steps = {
        "fixed": ["train"],
        "secagg": ["prepare", "train", "unmask"],
        "he": ["train"],
        "perfedavg_open": ["train"],
    }.get(name, ["prepare", "train", "hop", "unmask"])
    for site in SITES:
        lines = receipts(runs[name], site)
        assert [line["task"] for line in lines] == ["join", *steps * len(runs[name].report["rounds"]), "finish"]
        heavy = [line for line in lines if line["bytes"]]
        assert {line["task"] for line in heavy} == ({"hop"} if "hop" in steps else {"train"})
        assert all(len(line["sha256"]) == 64 for line in heavy)
        assert len({line["sha256"] for line in heavy}) == len(heavy)
        trained = [line for line in lines if line["task"] == "train"]
        assert all(line["values"] > 0 and len(line["update"]) == 64 for line in trained)


def test_bytes_up_are_those_of_the_receipts(runs):
    for name in (*FEDAVG, *PERFEDAVG):
        sent = sum(line["bytes"] for site in SITES for line in receipts(runs[name], site))
        assert sum(entry["bytes_up"] for entry in runs[name].report["rounds"]) == sent


def test_an_update_is_half_as_large_as_in_plaintext_or_smaller(runs):
    """Eight bits and a few of headroom for each number, before encryption adds its own."""
    count = sum(block.size for block in initial_arrays(TINY, seed=0).values())
    (line,) = (line for line in receipts(runs["secagg"], "site-1")[:4] if line["task"] == "train")
    assert line["bytes"] < 4 * count / 2


def test_no_number_of_patients_is_told(runs):
    for name in (*FEDAVG, *PERFEDAVG):
        assert all(site["cases"] is None for site in runs[name].report["sites"].values())
        assert '"cases": 3' not in runs[name].words_of("server")


def test_keys_of_the_simulator_lie_beside_the_parties(runs):
    """One key for the sites; at the server its id alone, and the key in nothing that anybody wrote."""
    for name in ("he", "perfedavg_ring"):
        run = runs[name]
        files = [run.workspace / site / "startup" / "wardround_sum_key.key" for site in SITES]
        assert len({path.read_bytes() for path in files}) == 1
        assert not list((run.workspace / "server").rglob("wardround_sum_key.key"))
        assert not list((run.workspace / "server").rglob("*.key"))
        seed = json.loads(files[0].read_text())["seed"]
        assert seed not in run.said
        assert seed not in run.words_of("server")


def test_a_hop_that_fails_is_passed_over(fault):
    """Three of four are in the sum, the masks of the fourth are removed, and everybody is told who failed and when."""
    others = ["site-1", "site-3", "site-4"]
    (entry,) = fault.report["rounds"]
    assert entry["trained"] == ["site-1", "site-2", "site-3", "site-4"]
    assert (entry["aggregated"], entry["recovered"], entry["attempts"]) == (others, ["site-2"], 1)
    assert fault.report["problems"] == ["site-2 was lost in round 1: refused: round (see that site's own log)"]
    assert fault.report["outcome"] == "incomplete"
    assert set(fault.report["final"]) == set(others)
    assert fault.code != 0
    assert "LOST site-2 in round 1" in fault.said
    first, *rest = (model(fault, site)[0] for site in others)
    assert all(np.array_equal(weights[block], first[block]) for weights in rest for block in first)
    assert not (fault.site("site-2") / "wardround" / "final_model.npz").exists()


def test_the_reason_of_the_failed_hop_is_at_its_site(fault):
    assert "no readable held-00000.npz" in (fault.site("site-2") / "wardround" / "refusals.txt").read_text()
    assert "held-00000" not in json.dumps(fault.report)
    assert [line["task"] for line in receipts(fault, "site-2")] == ["join", "prepare", "train"]
