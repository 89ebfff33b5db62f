"""What a hospital enforces itself, in a provisioned consortium: NVFlare's privacy scopes, TLS, processes of their own.

site-1   privacy_hospital.json alone, and a budget         site-3   no policy
site-2   the same, with a budget that is too small          site-4   privacy.json: every scope, `open` unless a job names one
Sites 2 and 4 know the scope `secagg` too, for jobs that name it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consortium import SERVER, SITES, Consortium, started

LIMITS = {"site-1": 40.0, "site-2": 0.5, "site-4": 40.0}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Consortium]:
    def equip(made: Consortium) -> None:
        for site, epsilon in LIMITS.items():
            local = made.kits / site / "local"
            name = "privacy.json" if site == "site-4" else "privacy_hospital.json"
            policy = json.loads((repository / "poc_workspace" / name).read_text())
            if site in ("site-2", "site-4"):
                more = json.loads((repository / "poc_workspace" / "privacy_secagg.json").read_text())
                policy["scopes"] += more["scopes"]
            (local / "privacy.json").write_text(json.dumps(policy))
            budget = {"hospital": {"epsilon": epsilon, "delta": 1e-5}}
            (local / "wardround_budget.json").write_text(json.dumps(budget))
            resources = json.loads((local / "resources.json.default").read_text())
            (local / "resources.json").write_text(json.dumps(resources | {"allow_log_streaming": False}))

    with started(tmp_path_factory.mktemp("policy"), repository, equip) as made:
        yield made


class Seen:
    """What one job left at every party."""

    def __init__(self, consortium: Consortium, job_id: str) -> None:
        self.consortium, self.job_id = consortium, job_id
        self.completed = consortium.call_code("job", "wait", job_id, "--timeout", "240", "--interval", "1") == 0
        self.report = consortium.report(job_id)

    def run(self, site: str) -> Path:
        return self.consortium.kits / site / self.job_id / "wardround"

    def receipts(self, site: str, task: str = "train") -> list[dict[str, Any]]:
        file = self.run(site) / "releases.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if line["task"] == task]

    def reasons(self, site: str) -> str:
        file = self.consortium.private(site, self.job_id) / "refusals.txt"
        return file.read_text() if file.exists() else ""

    def account(self, site: str) -> Any:
        from wardround.dp.ledger import Ledger

        return Ledger(self.consortium.kits / site / "local").state().accounts.get(self.job_id)

    @property
    def deployed(self) -> str:
        """Return what NVFlare tells the lead of the job, with a line for every site that refused it."""
        return json.dumps(self.consortium.ask("job", "meta", self.job_id))


@pytest.fixture(scope="module")
def plain(consortium: Consortium) -> Seen:
    """A job in plaintext that names no scope."""
    return Seen(consortium, consortium.job("brats_fedavg", "federation.min_clients=2"))


@pytest.fixture(scope="module")
def unknown(consortium: Consortium, plain: Seen) -> Seen:
    """A job that names the scope `patient`, which sites 1 and 2 do not know; it has no privacy at all."""
    return Seen(consortium, consortium.job("brats_fedavg", "federation.min_clients=1", scope="patient"))


@pytest.fixture(scope="module")
def hidden(consortium: Consortium, unknown: Seen) -> Seen:
    """A secure sum without noise, under the scope `hospital`."""
    sites = ["site-1", "site-3", "site-4"]
    return Seen(consortium, consortium.job("brats_fedavg_secagg", sites=sites, scope="hospital"))


@pytest.fixture(scope="module")
def insisted(consortium: Consortium, hidden: Seen) -> Seen:
    """A secure sum without noise, under the scope `secagg`, submitted and signed by an administrator of the project."""
    sites = ["site-2", "site-3", "site-4"]
    return Seen(consortium, consortium.job("brats_fedavg_secagg", sites=sites, scope="secagg"))


def test_a_hospital_that_insists_is_noised_and_charged_and_the_others_are_not(plain):
    from wardround.dp.releases import GaussianRelease
    from wardround.flare.ledger_adapter import POLICY

    one = GaussianRelease("hospital", 2.0, 1)
    assert plain.account("site-1").spent == {POLICY: (one, one)}
    assert plain.account("site-3") is plain.account("site-4") is None
    first, second = (line for line in plain.receipts("site-1") if "policy" in line)
    assert [first["ledger_entry"], second["ledger_entry"]] == [1, 2]
    assert "unit: hospital" in first["guarantee"]
    assert [line["mechanism"] for line in plain.receipts("site-3")] == ["none", "none"]
    assert not [line for line in plain.receipts("site-4") if "policy" in line]


def test_what_left_is_what_the_policy_made(plain):
    """The job's own exit notes the digest of what it sends: at site-1 that of the noised update."""
    lines = plain.receipts("site-1")
    assert [line["sha256"] for line in lines[0::2]] == [line["sha256"] for line in lines[1::2]]
    assert [line.get("policy") for line in lines] == ["hospital", None] * 2


def test_no_number_of_that_hospital_reaches_the_server(consortium, plain):
    for entry in plain.report["rounds"]:
        assert set(entry["sites"]["site-1"].values()) >= {None}
        assert entry["sites"]["site-1"]["val_score"] is None
        assert entry["sites"]["site-3"]["val_score"] is not None
    assert plain.report["final"].get("site-1", {"candidates": {}})["candidates"] == {}
    curves = list((consortium.kits / SERVER).rglob("events.*")) + list((consortium.root / "store").rglob("events.*"))
    curves += list((consortium.root / "downloads").rglob("events.*"))
    assert {site for site in SITES for path in curves if site in path.parts} == {"site-3", "site-4"}


def test_a_budget_that_is_too_small_refuses_before_training(plain):
    assert "train" not in [line["task"] for line in plain.receipts("site-2")]
    assert plain.account("site-2") is None
    assert "at most 0.5" in plain.reasons("site-2")
    assert "with this job" in plain.reasons("site-2")
    assert [
        words for words in plain.report["problems"] if "site-2 was lost in round 1: refused: TASK_DATA_FILTER" in words
    ]
    assert not (plain.run("site-2") / "wardround_cache").exists()
    assert [entry["aggregated"] for entry in plain.report["rounds"]] == [["site-1", "site-3", "site-4"]] * 2


def test_the_server_is_told_no_reason(consortium, plain):
    server = consortium.kits / SERVER
    texts = [path.read_text(errors="replace") for path in server.rglob("*") if path.suffix in (".txt", ".log", ".json")]
    assert not [text for text in texts if "at most 0.5" in text or "with this job" in text]


def test_an_unknown_scope_is_refused_at_that_site_alone(unknown):
    for site in ("site-1", "site-2"):
        assert f"{site}: NVFLARE_ERROR: privacy scope 'patient' is not allowed" in unknown.deployed
        assert not unknown.run(site).exists()
    assert [entry["aggregated"] for entry in unknown.report["rounds"]] == [["site-3"]] * 2
    assert not unknown.completed, "it lost site-4, which refused in round 1"


def test_a_job_without_privacy_is_refused_before_training_under_patient(unknown):
    assert "patient-level differential privacy" in unknown.reasons("site-4")
    assert unknown.receipts("site-4") == []


@pytest.mark.nightly
def test_a_hidden_sum_of_noised_updates_is_complete(hidden):
    from wardround.flare.ledger_adapter import POLICY

    assert hidden.completed
    assert [words for words in hidden.report["problems"] if not words.endswith("returned no final result")] == []
    assert [entry["aggregated"] for entry in hidden.report["rounds"]] == [["site-1", "site-3", "site-4"]] * 2
    for site in ("site-1", "site-4"):
        assert len(hidden.account(site).spent[POLICY]) == 2
    assert hidden.account("site-3") is None


@pytest.mark.nightly
def test_secure_aggregation_that_a_lead_signed_runs_where_hospitals_insist_on_it(consortium, insisted):
    """NVFlare's own runner, router, filters and signature: what is refused otherwise is told in tests/flare."""
    assert [insisted.reasons(site) for site in ("site-2", "site-4")] == ["", ""]
    assert insisted.completed
    assert [entry["aggregated"] for entry in insisted.report["rounds"]] == [["site-2", "site-3", "site-4"]] * 2
    for site in ("site-2", "site-4"):
        said = json.loads((consortium.kits / site / "local" / "wardround_served.json").read_text())
        ((_, rounds),) = said["settings"].items()
        assert {one["run"] for one in rounds.values()} == {insisted.job_id}
        assert all(one["roster"] == one["opened"] == ["site-2", "site-3", "site-4"] for one in rounds.values())
