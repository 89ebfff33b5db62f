"""One noise of all hospitals through a whole federation with a secure sum: what leaves, what is charged, what all then hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_context import FLContext
from nvflare_federation import Federation, Private, Site, first_model

from wardround.algorithms.patient_steps import PatientSteps
from wardround.algorithms.server_optimizers import FedAvgM
from wardround.algorithms.train_only import TrainOnly
from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.dp import joint_dp, noise_proof
from wardround.dp.budget import FILE
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.joint_dp import JointDP
from wardround.dp.joint_release import JointRelease
from wardround.dp.ledger import Ledger
from wardround.dp.releases import GaussianRelease
from wardround.flare import plaintext_messages, policy_rules, strict_dxo, trainer
from wardround.flare.outbound import Outbound
from wardround.flare.policy_rules import HospitalRule, PatientRule
from wardround.messages import plaintext

Z, M, LR, MOMENTUM = 2.0, 20, 0.3, 0.5
AFFINE = TrainOnly(("affine",))
PROMISE = JointDP(1.0, True, Z, 16, 3, 0, 8, M, 16)
RELEASE = JointRelease(PROMISE, 2, 1e-5, accept_vacuous=False)


def clipped(delta: dict[str, Any]) -> dict[str, Any]:
    """Return what a hospital's joint objective would have made: trained blocks in whole steps, with the proof."""
    trained = {name: block for name, block in delta.items() if name.endswith(".bias") or "adn.N" in name}
    fine = PROMISE.fine_step(500)
    sums = {name: (np.rint(block * 3 / fine) * fine).astype(np.float32) for name, block in trained.items()}
    noise_proof.note(sums, noise_proof.Proof(PROMISE, 1))
    return sums


@pytest.fixture
def played(federation: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """played() -> a federation of joint steps, whose hospitals answer at once"""
    settings = {"algorithm": PatientSteps(2), "sharing": AFFINE, "server_optimizer": FedAvgM(LR, MOMENTUM)}
    monkeypatch.setattr(Site, "settings", settings)
    monkeypatch.setattr(Federation, "home", list(AFFINE.home_roles))
    # The played network starts from its seed; that real ones do not is tests/training/test_joint_training.py.
    monkeypatch.setattr(trainer, "require_joint", lambda *given: None)

    def make(mode: str = "masked") -> Federation:
        run = federation(mode, private=Private(RELEASE), bits=16, weights="equal")
        for site in run.sites.values():
            site.hospital.spoil = clipped
        return run  # type: ignore[no-any-return]

    return make


def charged(site: Site) -> int:
    account = Ledger(site.root / "local").state().accounts.get("simulate_job")
    return 0 if account is None else sum(release.count for release in account.spent.get("federation", ()))


@pytest.mark.parametrize("mode", ["masked", "he with masks"])
def test_a_run_ends_with_one_model_and_every_sum_in_every_ledger(played: Any, mode: str) -> None:
    run = played(mode).run()
    assert run.panics == []
    assert run.record["outcome"] == "complete"
    assert len({digest(site.model()) for site in run.sites.values()}) == 1
    first, model = first_model(), run.sites["site-1"].model()
    moved = {name for name, block in model.items() if (block != first[f"model:{name}"]).any()}
    assert moved
    assert all(name.endswith(".bias") or "adn.N" in name for name in moved)
    for site in run.sites.values():
        account = Ledger(site.root / "local").state().accounts["simulate_job"]
        assert account.reserved["federation"] == GaussianRelease("patient", Z, 2, in_shares=True)
        assert charged(site) == 2
        updates = [row for row in site.receipts if row["task"] == "train"]
        assert [row["ledger_entry"] for row in updates] == [1, 2]
        assert all("2 shares of it make the whole" in row["guarantee"] for row in updates)


def test_nothing_but_the_sum_leaves(played: Any) -> None:
    run = played().run()
    for task, sender, message in run.messages:
        if sender == "server":
            continue
        meta = strict_dxo.meta_of(message)
        if task == plaintext_messages.TRAIN:
            assert meta["numbers"] == {"loss": None, "val_score": None, "seconds": None}
            assert meta["facts"]["cases"] is None
        elif task == plaintext_messages.FINISH:
            assert meta == {"scores": plaintext.SILENT}


def test_without_noise_all_take_the_step_of_the_closed_form(played: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum on the sums over the public number, whoever is in the second one."""
    monkeypatch.setattr(joint_dp, "normal", lambda words: np.zeros(len(words)))
    run = played()
    sums: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for site in run.sites.values():

        def spoil(delta: dict[str, Any], site: Site = site) -> dict[str, Any]:
            found = clipped(delta)
            if (site.name, site.hospital.trained[-1]) != ("site-4", 1):
                sums[site.hospital.trained[-1]].append(found)
            return found

        site.hospital.spoil = spoil
    run.run(meddle=lambda task, name, call, reply: None if (name, call.moment.round, task) == SILENT else reply)
    assert run.panics == []
    held, velocity = first_model(), None
    for round_ in (0, 1):
        assert len(sums[round_]) == 4 - round_
        total = {name: sum(one[name].astype(np.float64) for one in sums[round_]) / M for name in sums[0][0]}
        velocity = total if velocity is None else {name: MOMENTUM * velocity[name] + total[name] for name in total}
        held = held | {name: held[name] + LR * velocity[name] for name in total}
    for name, block in run.sites["site-1"].model().items():
        # Rounding to the codec's step, for each of at most 7 sums, dithered by no noise here.
        np.testing.assert_allclose(block, held[f"model:{name}"], atol=7 * PROMISE.step / M)


SILENT = ("site-4", 1, "prepare")


def test_a_budget_that_is_too_small_stops_the_run_before_anything_is_released(played: Any) -> None:
    run = played()
    for site in run.sites.values():
        (site.root / "local" / FILE).write_text('{"patient": {"epsilon": 1, "delta": 1e-5}}')
    run.run()
    assert run.record["outcome"] == "incomplete"
    for site in run.sites.values():
        assert site.hospital.trained == []
        assert charged(site) == 0
        assert not [row for row in site.receipts if row["task"] == "train"]


def test_a_sum_without_proof_stays(played: Any) -> None:
    run = played()
    # The note is of other bytes than those that are sent.
    for site in run.sites.values():
        site.hospital.spoil = lambda delta: {name: block + np.float32(1) for name, block in clipped(delta).items()}
    run.run()
    assert run.record["outcome"] == "incomplete"
    assert all(charged(site) == 0 for site in run.sites.values())


def test_a_hospital_that_insists_on_noise_for_itself_is_not_content_with_a_patients(played: Any) -> None:
    own = HospitalDP(1.0, 0.1, 16, 3, 0, False, 16)
    outbound: Outbound = played().sites["site-1"].outbound
    assert not HospitalRule(own, 1e-5)._as_strict(outbound)


def test_a_sum_without_masks_is_refused(played: Any) -> None:
    with pytest.raises(ConfigRefused, match="masks"):
        played("fixed")


def test_the_scope_patient_takes_noise_of_others_only_by_name(played: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outbound = played().sites["site-1"].outbound
    monkeypatch.setattr(policy_rules, "outbound_in_force", lambda fl_ctx: outbound)
    with pytest.raises(ReleaseRefused, match="most of them other hospitals'"):
        PatientRule()._require_private(FLContext())
    assert PatientRule(shared_noise=True)._require_private(FLContext()) is outbound
    with pytest.raises(ConfigRefused, match="shared_noise"):
        PatientRule(shared_noise="yes")  # type: ignore[arg-type]
