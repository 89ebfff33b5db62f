"""Patient-level DP on phantoms: a row per patient that nobody else moves, releases counted, plans known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Algorithm, LocalStart, Steps
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.train_only import TrainOnly
from wardround.core.errors import ConfigRefused, ModelRefused, ReleaseRefused
from wardround.data.splits import split_patients
from wardround.dp import dp_sgd
from wardround.dp.dp_sgd import PatientDP, PrivateObjective, clipped_sum
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.opacus_rows import GradSamples
from wardround.models.roles import shared_layout
from wardround.tasks.loss import dice_bce
from wardround.training.dp_training import DPSite, PatientPatches, PrivatePlan, private_plan, releases_per_step
from wardround.training.evaluation import ModelSelection
from wardround.training.segmentation import Sampling, SegmentationSite

Site = Callable[..., SegmentationSite]
PROMISE = PatientDP(max_grad_norm=0.5, noise_multiplier=1.0, sample_rate=0.5, reference_patients=6)
KNOWN = [FedAvg(), FedProx(0.1), Alternating(0.5), Scaffold(), Ditto(0.1), PerFedAvg(0.01, "FO", 0.1)]


@pytest.fixture
def home(site: Site) -> DPSite:
    return DPSite(site(augment=True), PROMISE)


def rows_of(source: PatientPatches, w: Tensor, chosen: tuple[str, ...]) -> Tensor:
    return torch.cat(list(source.gradients(w, source.sample(chosen))))


def weights(site: SegmentationSite) -> Tensor:
    return site.model.vector.clone()


def test_a_row_is_the_gradient_of_the_patients_own_loss(home: DPSite) -> None:
    source, w = PatientPatches(home, "train"), weights(home.site)
    batches = source.sample(source.patients)
    rows = torch.cat(list(source.gradients(w, batches)))
    errors = []
    for batch, row in zip(batches, rows, strict=True):
        _, alone = home.site.model.value_and_grad(w, batch.images, lambda o, b=batch: dice_bce(o, b.targets, b.known))
        errors.append(float((row - alone).norm() / alone.norm()))
    assert np.median(errors) < 1e-4
    assert max(errors) < 0.05


def test_nobody_moves_the_row_of_another_patient(home: DPSite) -> None:
    """The same bits for every company: place, augmentation and arithmetic do not depend on it."""
    w, everybody = weights(home.site), PatientPatches(home, 0).patients
    alone = {who: rows_of(PatientPatches(home, 0), w, (who,))[0] for who in everybody}
    for chosen in (everybody, everybody[::-1], everybody[1:], everybody[::2], everybody[:3]):
        for who, row in zip(chosen, rows_of(PatientPatches(home, 0), w, chosen), strict=True):
            assert torch.equal(row, alone[who])


def test_adding_or_removing_a_patient_moves_the_sum_by_at_most_the_clip(home: DPSite) -> None:
    w, everybody = weights(home.site), PatientPatches(home, 0).patients
    size, limit = w.numel(), (Fraction(PROMISE.max_grad_norm) / Fraction(PROMISE.step(w.numel()))) ** 2

    def total(chosen: tuple[str, ...]) -> Tensor:
        return clipped_sum([rows_of(PatientPatches(home, 0), w, chosen)], PROMISE, size)

    whole = total(everybody)
    for who in everybody:
        moved = whole - total(tuple(other for other in everybody if other != who))
        norm2 = sum(int(n) ** 2 for n in moved.tolist())
        assert 0 < norm2 <= limit
        assert torch.equal(moved, total((who,)))


def test_everything_but_draw_and_noise_repeats(home: DPSite) -> None:
    w = weights(home.site)
    first, second = PatientPatches(home, "train", 3), PatientPatches(home, "train", 3)
    for chosen in (first.patients, (), first.patients[:2]):
        a, b = first.sample(chosen), second.sample(chosen)
        assert len(a) == len(chosen)
        for x, y in zip(first.gradients(w, a), second.gradients(w, b), strict=True):
            assert torch.equal(x, y)


def test_an_empty_draw_counts_as_a_draw(home: DPSite) -> None:
    """Otherwise one patient, the only one drawn, would move the patches of all later steps."""
    w = weights(home.site)
    with_, without = PatientPatches(home, 0), PatientPatches(home, 0)
    with_.sample(with_.patients[:1])
    without.sample(())
    chosen = with_.patients[1:3]
    assert torch.equal(rows_of(with_, w, chosen), rows_of(without, w, chosen))


def test_purposes_and_steps_give_fresh_patches(home: DPSite) -> None:
    a, b = PatientPatches(home, "train", 0), PatientPatches(home, "train", 1)
    who = a.patients[:1]
    first, second, other = a.sample(who), a.sample(who), b.sample(who)
    assert not torch.equal(first[0].images, second[0].images)
    assert not torch.equal(first[0].images, other[0].images)


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_passes_do_not_change_the_sum(site: Site, at_once: int) -> None:
    one = site()
    home = DPSite(one, PROMISE, at_once=at_once)
    source, w = PatientPatches(home, 0), weights(one)
    matrices = list(source.gradients(w, source.sample(source.patients)))
    assert all(len(matrix) <= home.at_once for matrix in matrices)
    home.at_once = 100
    expected = clipped_sum([rows_of(PatientPatches(home, 0), w, source.patients)], PROMISE, w.numel())
    assert torch.equal(clipped_sum(matrices, PROMISE, w.numel()), expected)


def test_only_train_patients_are_drawn(home: DPSite) -> None:
    site = home.site
    assert set(PatientPatches(home).patients) == {site.cohort.patients[case] for case in site.split.train}


def start(site: SegmentationSite) -> LocalStart:
    w = weights(site)
    return LocalStart({"model": w, "control": torch.zeros_like(w)}, {}, site.layout, site.roles, home_roles=("head",))


@pytest.mark.parametrize("algorithm", KNOWN, ids=lambda a: a.name)
def test_known_algorithms_run_unchanged_and_spend_exactly_their_work(home: DPSite, algorithm: Algorithm) -> None:
    work = 4
    objective = home.objective(work, "train", 0)
    end = algorithm.train(start(home.site), objective, Steps(work, 0.01, momentum=0.9, weight_decay=1e-3))
    assert objective.released == work
    assert work % releases_per_step(algorithm) == 0
    assert bool(torch.isfinite(end.variables["model"]).all())
    assert set(end.losses) == {0.0}
    with pytest.raises(ReleaseRefused):
        algorithm.train(start(home.site), objective, Steps(work, 0.01))


def test_fine_tuning_spends_its_longest_walk(home: DPSite) -> None:
    objective = home.objective(3, "fine-tune")
    fine_tune(weights(home.site), objective, [0, 1, 3], Steps(3, 0.01))
    assert objective.released == 3


def test_fedprox_with_mu_0_is_fedavg(home: DPSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp_sgd, "whole_noise", lambda n, s: np.zeros(n))
    monkeypatch.setattr(dp_sgd, "secret_words", lambda n: np.zeros(n, np.uint64))
    begin = start(home.site)
    found = [
        algorithm.train(begin, home.objective(2, "train", 0), Steps(2, 0.1)).variables["model"]
        for algorithm in (FedAvg(), FedProx(0.0))
    ]
    assert torch.equal(*found)


def test_without_noise_and_clip_it_is_training(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noised mean of everybody is the mean gradient where nothing is clipped and nothing added."""
    monkeypatch.setattr(dp_sgd, "whole_noise", lambda n, s: np.zeros(n))
    one = site()
    home = DPSite(one, PatientDP(1000.0, 1.0, 1.0, one.train_patients))
    objective, w = home.objective(1, 0), weights(one)
    _, found = objective.value_and_grad(w, objective.sample(1)[0])
    expected = rows_of(PatientPatches(home, 0), w, PatientPatches(home, 0).patients).mean(0)
    assert float((found - expected).norm()) < 1000.0 * 2**-12


@pytest.mark.parametrize(
    ("algorithm", "cost"), [(FedAvg(), 1), (FedProx(1.0), 1), (Ditto(1.0), 2), (PerFedAvg(0.1, "FO", 0.1), 2)]
)
def test_releases_per_step(algorithm: Algorithm, cost: int) -> None:
    assert releases_per_step(algorithm) == cost


def test_hf_is_refused_with_its_reason(home: DPSite) -> None:
    hf = PerFedAvg(0.01, "HF", 0.1)
    with pytest.raises(ConfigRefused, match="two gradients on one draw"):
        releases_per_step(hf)
    with pytest.raises(ReleaseRefused, match="used before"):
        hf.train(start(home.site), home.objective(4, 0), Steps(4, 0.01))


def test_unknown_algorithms_are_refused() -> None:
    class Own:
        name = "own"

    with pytest.raises(ConfigRefused, match="own"):
        releases_per_step(Own())


def schedule(num_rounds: int = 5, work: int = 6) -> Schedule:
    return Schedule(num_rounds, work, 0.05, 0.9, True, 0.0, 0.0, "cosine")


@pytest.mark.parametrize(
    ("algorithm", "fedavg_baseline", "model_selection", "expected"),
    [
        (FedAvg(), None, None, PrivatePlan(30, 0, 0, 0)),
        (PerFedAvg(0.1, "FO", 0.1), None, None, PrivatePlan(30, 0, 0, 0)),
        (FedProx(0.1), FedAvg(), None, PrivatePlan(30, 30, 0, 0)),
        (FedAvg(), None, ModelSelection([0, 1, 20], 0.01), PrivatePlan(30, 0, 30, 20)),
        (Ditto(0.1), FedAvg(), ModelSelection([0, 5], 0.01), PrivatePlan(30, 30, 30, 10)),
    ],
)
def test_the_plan(algorithm: Algorithm, fedavg_baseline: Any, model_selection: Any, expected: PrivatePlan) -> None:
    found = private_plan(algorithm, fedavg_baseline, schedule(), model_selection)
    assert found == expected
    assert found.total == sum(vars(expected).values())


def test_the_plan_refuses_work_that_does_not_divide_and_unknown_algorithms() -> None:
    with pytest.raises(ConfigRefused, match="multiple of 2"):
        private_plan(Ditto(0.1), None, schedule(work=5), None)
    with pytest.raises(ConfigRefused, match="HF"):
        private_plan(PerFedAvg(0.1, "HF", 0.1), None, schedule(work=8), None)


def other_site(home: DPSite, spec: Any) -> SegmentationSite:
    data = home.site.cohort
    return SegmentationSite(
        "site-1", data, split_patients(data.patients), spec, Sampling((8, 8, 8), 2, 0.5, False), 0, "cpu"
    )


def test_dropout_is_refused(home: DPSite) -> None:
    with pytest.raises(ConfigRefused, match="dropout"):
        DPSite(other_site(home, UNet3d(channels=(4, 8), dropout=0.2)), PROMISE)


def test_segresnet_is_accepted(home: DPSite) -> None:
    DPSite(other_site(home, SegResNet3d(filters=4)), PROMISE)


class Replicating(nn.Module):
    """A network of the user's own: its borders are replicated, and no formula covers that."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(8, 4, 3, padding=1, padding_mode="replicate")
        self.norm, self.last = nn.GroupNorm(2, 4), nn.Conv3d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


class Own:
    def build(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Replicating()


def test_a_network_without_formulas_goes_the_slow_road_and_the_log_says_so(
    home: DPSite, caplog: pytest.LogCaptureFixture
) -> None:
    slow = DPSite(other_site(home, Own()), PROMISE, at_once=4)
    assert isinstance(slow.per_sample, GradSamples)
    assert [record.message for record in caplog.records] == [
        "gradients of single patients go the slow road, by Opacus: there is no formula for Conv3d at 'first' (weight)"
    ]
    source, w = PatientPatches(slow, "train"), weights(slow.site)
    batches = source.sample(source.patients)
    rows = torch.cat(list(source.gradients(w, batches)))
    for batch, row in zip(batches, rows, strict=True):
        _, alone = slow.site.model.value_and_grad(w, batch.images, lambda o, b=batch: dice_bce(o, b.targets, b.known))
        assert float((row - alone).norm() / alone.norm()) < 1e-4
    caplog.clear()
    DPSite(home.site, PROMISE)
    assert not caplog.records


def test_a_network_that_mixes_patients_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = site()
    inner = one.model.module.forward
    monkeypatch.setattr(one.model.module, "forward", lambda x: inner(x - x.mean(0, keepdim=True)))
    with pytest.raises(ModelRefused, match="differ from autograd"):
        DPSite(one, PROMISE)


def test_the_oracle_is_private(home: DPSite) -> None:
    assert isinstance(home.objective(1, "train"), PrivateObjective)


def test_cohorts_with_several_scans_of_a_patient_count_once(home: DPSite) -> None:
    site = home.site
    site.cohort.patients.update({case: "the same" for case in site.split.train})
    source = PatientPatches(home, 0)
    assert source.patients == ("the same",)
    assert len(rows_of(source, weights(site), source.patients)) == 1


def test_what_is_not_trained_is_not_computed(home: DPSite) -> None:
    """The road of a part gives the columns that the whole has, and an objective takes them as they are."""
    w, site = weights(home.site), home.site
    names = shared_layout(site.model.module, TrainOnly(("affine",)).home_roles).names
    whole, part = PatientPatches(home, "train", patches=2), PatientPatches(home, "train", patches=2, blocks=names)
    columns = torch.from_numpy(site.layout.mask(names))
    found, wanted = (rows_of(source, w, source.patients) for source in (part, whole))
    assert found.shape == (len(whole.patients), int(columns.sum()))
    torch.testing.assert_close(found, wanted[:, columns], rtol=1e-3, atol=1e-5)
    assert home.road(names) is home.road(names)
    private = home.objective(1, "train", sharing=TrainOnly(("affine",)))
    _, g = private.value_and_grad(w, private.sample(1)[0])
    assert not g[~columns].any()
    assert g[columns].all()
