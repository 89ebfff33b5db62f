"""Joint steps on phantoms: one sum per round over all patients, K patches each, and what a job must have for it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_round
from wardround.algorithms.patient_steps import PatientSteps
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import EVERYTHING, Roles
from wardround.algorithms.train_only import TrainOnly
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.dp import noise_proof
from wardround.dp.joint_dp import JointDP
from wardround.dp.joint_release import JointRelease
from wardround.dp.joint_steps import JointObjective, patient_sum
from wardround.dp.patient_dp import PatientDP
from wardround.models.nets import UNet3d
from wardround.models.roles import block_roles
from wardround.training.dp_training import DPSite, PatientPatches
from wardround.training.global_model import GlobalModel
from wardround.training.joint_training import require_joint
from wardround.training.segmentation import SegmentationSite

Site = Callable[..., SegmentationSite]
AFFINE = TrainOnly(("affine",))


def promise(**changed: Any) -> JointDP:
    usual = {
        "max_grad_norm": 1.0,
        "normalised": True,
        "noise_multiplier": 3.0,
        "sites": 8,
        "min_clients": 3,
        "colluders": 0,
        "max_patients": 64,
        "reference_patients": 20,
        "bits": 16,
    }
    return JointDP(**{**usual, **changed})


@pytest.fixture
def home(site: Site) -> DPSite:
    return DPSite(site(augment=True), promise())


def test_a_patients_gradient_is_the_mean_over_its_patches(home: DPSite) -> None:
    w = home.site.model.vector.clone()
    source = PatientPatches(home, "train", 0, patches=3)
    batches = source.sample(source.patients)
    rows = torch.cat(list(source.gradients(w, batches)))
    assert rows.shape[0] == len(source.patients)
    assert len(batches) == 3 * len(rows)
    for number, row in enumerate(rows):
        mine = batches[3 * number : 3 * number + 3]
        assert {one.patients for one in mine} == {(source.patients[number],)}
        images, losses = home.site.joined(mine)
        alone = home.per_sample.gradients(w, images, losses, 3)[1].mean(0)
        assert float((row - alone).norm() / alone.norm()) < 1e-3
    assert not torch.equal(batches[0].images, batches[1].images)


def test_nobody_moves_the_sum_by_more_than_the_clip(home: DPSite) -> None:
    w, p = home.site.model.vector.clone(), promise()
    source = PatientPatches(home, "train", 0, patches=2)
    everybody, size = source.patients, w.numel()

    def total(chosen: tuple[str, ...]) -> list[float]:
        own = PatientPatches(home, "train", 0, patches=2)
        return patient_sum(own.gradients(w, own.sample(chosen)), p, size).tolist()  # type: ignore[no-any-return]

    whole = total(everybody)
    for who in everybody[:3]:
        without = total(tuple(one for one in everybody if one != who))
        moved = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(whole, without, strict=True))
        assert Fraction(9, 10) < moved <= 1


def test_a_site_gives_one_sum_over_all_its_patients_on_trained_values_alone(home: DPSite) -> None:
    objective = home.objective(1, "train", 0, sharing=AFFINE, patches=2)
    assert isinstance(objective, JointObjective)
    (batch,) = objective.sample(1)
    assert len(batch) == 2 * home.site.train_patients
    _, found = objective.value_and_grad(home.site.model.vector, batch)
    there = found.reshape(-1) != 0
    assert 0 < int(there.sum()) < found.numel() / 20


def test_every_round_has_patches_of_its_own(home: DPSite) -> None:
    first, second = (home.objective(1, "train", round_, sharing=AFFINE, patches=1).sample(1)[0] for round_ in (0, 1))
    assert not torch.equal(first[0].images, second[0].images)


def release(**changed: Any) -> JointRelease:
    return JointRelease(promise(**changed), 10, 1e-5, accept_vacuous=False)


class Spec:
    """A network as a job names it: drawn from the seed, or from a file of weights."""

    def __init__(self, module: torch.nn.Module, weights: object = "a file") -> None:
        self.module = module
        self.weights = weights

    def build(self, seed: int) -> torch.nn.Module:
        return self.module


WITH_NORM = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.GroupNorm(1, 2), torch.nn.Conv3d(2, 1, 1))
WITHOUT = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1, bias=False), torch.nn.Conv3d(2, 1, 1, bias=False))


def test_a_job_with_all_of_it_is_accepted_and_other_jobs_are_left_alone() -> None:
    require_joint(PatientSteps(2), AFFINE, Spec(WITH_NORM), release())
    require_joint(FedAvg(), EVERYTHING, Spec(WITHOUT, None), None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"charged": None}, "without the one noise|would be opened"),
        ({"algorithm": FedAvg()}, "trains at the hospital before"),
        ({"sharing": Roles(("norm",))}, "keeps trained blocks at the hospital"),
        ({"model": Spec(WITH_NORM, None)}, "a public warm start"),
        ({"model": Spec(WITHOUT)}, "without any such block"),
        ({"charged": release(max_patients=100_000, bits=16, noise_multiplier=3000.0)}, "smaller dp.max_patients"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, Any], words: str) -> None:
    usual = {"algorithm": PatientSteps(2), "sharing": AFFINE, "model": Spec(WITH_NORM), "charged": release()}
    with pytest.raises(ConfigRefused, match=words):
        require_joint(**{**usual, **given})


def test_patient_level_noise_of_a_hospital_alone_is_confined_too(site: Site) -> None:
    """brats_dp_patient with affine parts: clip and noise see nothing but what is trained."""
    alone = DPSite(site(augment=True), PatientDP(0.5, 1e-3, 1.0, 6))
    objective = alone.objective(1, "train", sharing=AFFINE)
    _, found = objective.value_and_grad(alone.site.model.vector, objective.sample(1)[0])
    shared = found != 0
    assert 0 < int(shared.sum()) < found.numel() / 20
    # Nearly no noise, and every patient drawn: the clipped gradients of the trained values alone.
    source = PatientPatches(alone, "train")
    rows = torch.cat(list(source.gradients(alone.site.model.vector, source.sample(source.patients))))[:, shared]
    mean = (rows * (0.5 / rows.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0) / 6
    assert float((found[shared] - mean).norm() / mean.norm()) < 0.05


def test_the_server_of_a_plaintext_job_awaits_exactly_what_is_trained(tmp_path: Path) -> None:
    """brats_dp_patient with affine parts: what a round sends is what the model of the server lets in."""
    spec = UNet3d(channels=(4, 8))
    module = spec.build(0)
    layout = Layout.of({name: block.detach().numpy() for name, block in module.named_parameters()})
    received = {"model": torch.zeros(layout.total)}
    update, _, _ = local_round(FedAvg(), AFFINE, received, {}, layout, block_roles(module), Line(), Steps(1, 0.1))
    held = GlobalModel.open(tmp_path, spec, Mean(1.0), ["model"], 0, {})
    assert held.travelling(AFFINE.home_roles) == set(update)
    held.require_fits("site-1", held.facts["fingerprint"], update, held.travelling(AFFINE.home_roles))


class Line:
    """A gradient of ones."""

    def sample(self, count: int) -> tuple[None, ...]:
        return (None,) * count

    def value_and_grad(self, w: torch.Tensor, batch: Any) -> tuple[float, torch.Tensor]:
        return 0.0, torch.ones_like(w)


def test_a_hospital_sends_its_sum_with_proof_and_reports_the_warm_start_beside_the_models(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    hospital = opened(private=promise(), algorithm=PatientSteps(2), sharing=AFFINE)
    weights = {f"model:{n}": b for n, b in hospital.site.layout.unflatten(hospital.initial.numpy().copy()).items()}
    delta, loss = hospital.train(weights, 0)
    assert loss is None
    assert hospital.weight == 1.0
    assert noise_proof.take(delta) == noise_proof.Proof(promise(), 1)
    fine = promise().fine_step(sum(block.size for block in delta.values()))
    assert all(np.array_equal(block / fine, np.rint(block / fine)) for block in delta.values())
    moved = {**weights, **{name: weights[name] + block / 100 for name, block in delta.items()}}
    found = hospital.evaluate(moved, 1)
    assert set(found.numbers["candidates"]) == {"local", "fedavg", "fedavg_finetuned", "warm_start"}
    assert torch.equal(found.weights["warm_start"], hospital.initial)
    hospital.keep(found, tmp_path / "out", "brats_dp_joint")
    assert "warm start, nothing private released" in (tmp_path / "out" / "site_report.html").read_text()


def test_more_patients_than_the_job_has_room_for_stop_the_hospital(opened: Callable[..., Any]) -> None:
    hospital = opened(private=promise(max_patients=1), algorithm=PatientSteps(2), sharing=AFFINE)
    weights = {f"model:{n}": b for n, b in hospital.site.layout.unflatten(hospital.initial.numpy().copy()).items()}
    with pytest.raises(ConfigRefused, match=r"more than dp\.max_patients"):
        hospital.train(weights, 0)
