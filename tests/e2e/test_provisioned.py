"""A provisioned consortium with mutual TLS on loopback: real startup kits, real processes, the secure sums end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consortium import SERVER, SITES, Consortium, started


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Consortium]:
    with started(tmp_path_factory.mktemp("consortium"), repository) as made:
        yield made


@pytest.fixture(scope="module")
def reports(consortium: Consortium) -> dict[str, dict[str, Any]]:
    """Four jobs, submitted one after the other, each waited for: one in plaintext, three in integers."""
    names = {
        "plain": "brats_fedavg",
        "he": "brats_fedavg_he",
        "masked": "brats_fedavg_secagg",
    }
    found = {mode: consortium.result(consortium.job(name)) for mode, name in names.items()}
    return found | {"ring": consortium.result(consortium.job("brats_fedavg", "privacy=secagg_ring"))}


def test_the_kits_hold_what_each_party_may_have(consortium):
    names = {path.name for path in (consortium.kits / SERVER / "startup").iterdir()}
    assert "wardround_sum_public.json" in names
    assert "wardround_sum_key.key" not in names
    keys = {(consortium.kits / site / "startup" / "wardround_sum_key.key").read_bytes() for site in SITES}
    assert len(keys) == 1
    assert (
        json.loads(keys.pop())["seed"]
        not in (consortium.kits / SERVER / "startup" / "wardround_sum_public.json").read_text()
    )


@pytest.mark.parametrize("mode", ["plain", "masked", "he", "ring"])
def test_every_site_is_in_every_sum(reports, mode):
    report = reports[mode]
    assert report["outcome"] == "complete"
    assert report["simulator"] is False
    for entry in report["rounds"]:
        assert entry["configured"] == entry["trained"] == entry["aggregated"] == list(SITES)
    assert set(report["verdicts"]) == set(SITES)


def test_the_models_are_the_same_bit_for_bit(reports):
    found = {mode: report["model"]["sha256"] for mode, report in reports.items() if mode != "plain"}
    assert len(set(found.values())) == 1, found
    assert len(found["masked"]) == 64


def test_the_job_in_plaintext_is_downloaded_with_its_model(consortium, reports):
    from wardround.models import checkpoint

    assert set(reports["plain"]["final"]) == set(SITES)
    assert all(one["cases"]["train"] >= 1 for one in reports["plain"]["sites"].values())
    found = [
        checkpoint.load(path, reports["plain"]["model"]["fingerprint"])[1]
        for path in (consortium.root / "downloads").rglob("final_model.npz")
    ]
    assert [meta["round"] for meta in found] == [2]


def test_the_server_holds_no_model_and_no_key(consortium, reports):
    held = {path.name for path in (consortium.kits / SERVER).rglob("*") if path.is_file()}
    assert not {"final_model.npz", "best_model.npz", "wardround_sum_key.key", "secrets.json"} & held
    assert list((consortium.kits / "site-1").rglob("final_model.npz"))


# A dying site is also in the drills, in test_lost_site.py, and at every step in tests/aggregation without processes.
@pytest.mark.nightly
@pytest.mark.parametrize(("task", "in_the_sum"), [("train", False), ("hop", None)])
def test_a_site_that_dies_at_its_hop_is_survived_and_named(consortium, reports, task, in_the_sum):
    """SIGKILL while its training result or its hop leaves: the three others finish the round and the run.

    The receipt is written before the message is sent, so the site dies just before or just after that.
    """
    patience = ("federation.step_timeout_s=10", "federation.round_timeout_s=45")
    job_id = consortium.job("brats_fedavg", "privacy=secagg_ring", *patience)
    consortium.wait_for_receipt("site-4", job_id, task)
    consortium.kill("site-4")
    try:
        report = consortium.incomplete(job_id)
    finally:
        consortium.start("site-4")
    consortium.wait_until_registered("site-4")
    first, second = report["rounds"]
    assert report["outcome"] == "incomplete"
    assert [words for words in report["problems"] if words.startswith("site-4 was lost in ")]
    assert first["configured"] == second["configured"] == list(SITES)
    assert second["aggregated"] == ["site-1", "site-2", "site-3"]
    if in_the_sum is not None:
        assert ("site-4" in first["aggregated"]) is in_the_sum
        assert first["recovered"] == ["site-4"]
    assert set(report["final"]) == {"site-1", "site-2", "site-3"}
    assert len(report["model"]["sha256"]) == 64
