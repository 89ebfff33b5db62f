"""One hospital's training under patient-level DP: gradients per patient, and what a job spends before it starts.

A patient's row depends on the weights, the patient and the number of the draw alone: case, place of the patch and
augmentation come from a stream of its own, and on a CPU it is the same bits whoever else is drawn. (On a GPU the last
bits may differ, and rarely, where they tip an activation over its kink, a row by some 0.4 %: that is not covered.)
Who is drawn comes from secret entropy (dp/dp_sgd.py): with draws that the job's seed could repeat, whoever knows
the seed would know who took part, and sampling would protect nobody.

What touches training patients, and is counted: every gradient evaluation of the federation, of a rival beside it, of the
local baseline and of fine-tuning (`private_plan`). What does not count: validation and test (other patients, whom this
promise does NOT protect), decoding and caching (nothing leaves), momentum, weight decay, proximal terms, aggregation.
What a DP job must not send: training losses (always 0 here), and the exact number of training patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Algorithm
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.core.errors import ConfigRefused
from wardround.dp.dp_sgd import PrivateObjective
from wardround.dp.patient_dp import PatientDP
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.training.evaluation import ModelSelection
from wardround.training.task import TaskSite

_RELEASES: dict[type, int] = {FedAvg: 1, FedProx: 1, Alternating: 1, Scaffold: 1, Ditto: 2}


def releases_per_step(algorithm: Algorithm) -> int:
    """Return how many private gradients one step of the algorithm spends; all are charged.

    Per-FedAvg: 2 (FO: the inner and the outer gradient, on draws of their own); HF: ConfigRefused
    Ditto: 2 (the shared and the personal model) | an algorithm that is not known here: ConfigRefused
    """
    if isinstance(algorithm, PerFedAvg) and algorithm.hessian == "FO":
        return 2
    if isinstance(algorithm, PerFedAvg):
        raise ConfigRefused(
            "Per-FedAvg (HF) under patient-level DP",
            found="two gradients on one draw, subtracted and divided by a short distance",
            expected="gradients on fresh draws, whose noise is not blown up by alpha / (2 d)",
            fix='set hessian to "FO"',
        )
    if type(algorithm) not in _RELEASES:
        raise ConfigRefused(
            "an algorithm under patient-level DP",
            found=algorithm.name,
            expected=f"one of {sorted(kind.__name__ for kind in _RELEASES)} or PerFedAvg (FO)",
            fix="count its private gradients in training/dp_training.py first",
        )
    return _RELEASES[type(algorithm)]


@final
@dataclass(frozen=True)
class PrivatePlan:
    """Releases of the subsampled Gaussian mechanism that a job makes at one site, by what they are spent on."""

    federation: int
    fedavg_baseline: int
    local: int
    fine_tuning: int

    @property
    def total(self) -> int:
        return self.federation + self.fedavg_baseline + self.local + self.fine_tuning


def private_plan(
    algorithm: Algorithm, fedavg_baseline: Algorithm | None, schedule: Schedule, model_selection: ModelSelection | None
) -> PrivatePlan:
    """Return what a job spends, known before it starts: reserve `total`, and again whatever a restart repeats.

    `schedule.work` counts gradient evaluations, whatever their number per step: a round releases exactly `work`.
    judging: the local baseline and max(steps) of fine-tuning for every arm, as training.evaluation runs them, all through
    private objectives; None: nothing is judged, or only by models that are not trained any further
    """
    for each in (algorithm, fedavg_baseline):
        if each is not None and schedule.work % (cost := releases_per_step(each)):
            raise ConfigRefused(
                f"the work of {each.name}",
                found=f"{schedule.work} gradients in steps of {cost}",
                expected=f"a multiple of {cost}",
                fix="change `work` in the job",
            )
    whole = schedule.num_rounds * schedule.work
    arms = 1 if fedavg_baseline is None else 2
    tuning = 0 if model_selection is None else arms * max(model_selection.steps)
    return PrivatePlan(whole, 0 if fedavg_baseline is None else whole, 0 if model_selection is None else whole, tuning)


@final
class DPSite:
    """A TaskSite whose training gradients are private. Checked once, on made-up images, when it is built.

    at_once: patients per pass through the network, rounded up to a multiple of the threads of a CPU, to which passes are
    filled up; with many cores, start the site with OMP_NUM_THREADS no larger than the patients expected per step
    dropout, layers without a formula, a network that mixes patients: refused
    """

    def __init__(self, site: TaskSite, promise: PatientDP, *, at_once: int = 8) -> None:
        self.site, self.promise = site, promise
        images = site.made_up(5)
        pad_multiple = torch.get_num_threads() if site.device.type == "cpu" else 1
        if images.dim() != 5:  # transformers: the same bits only in passes that all have the same number of rows
            pad_multiple = at_once
        self.per_sample = PerSample(site.model, pad_multiple)
        self.at_once = -(-at_once // pad_multiple) * pad_multiple
        self.per_sample.require_exact(images)
        if site.device.type == "cpu":
            self.per_sample.pick_pace(images)
        first, second = (
            self.per_sample.gradients(
                site.model.vector, images, lambda out: out.square().flatten(1).mean(1), len(images), dropout_seed=seed
            )[1]
            for seed in (0, 1)
        )
        if (first - second).norm() > TOLERANCE * first.norm():
            raise ConfigRefused(
                "a network under patient-level DP",
                found="gradients that are random (dropout)",
                expected="none: a mask depends on a patient's place in the batch, so on who else is there",
                fix="set the network's dropout to 0",
            )

    def objective(self, allowed: int, *purpose: str | int) -> PrivateObjective:
        """Return private gradients on this site's TRAIN patients, `allowed` of them."""
        return PrivateObjective(PatientPatches(self, *purpose), self.promise, allowed)


@final
class PatientPatches:
    """The `PatientGradients` of dp.dp_sgd: one augmented patch (or image) of every patient drawn."""

    def __init__(self, home: DPSite, *purpose: str | int) -> None:
        self._home, self._purpose, self._draws = home, purpose, 0
        self._cases: dict[str, list[str]] = {}
        for case in home.site.split.train:
            self._cases.setdefault(home.site.cohort.patients[case], []).append(case)

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(sorted(self._cases))

    def sample(self, chosen: tuple[str, ...]) -> tuple[Any, ...]:
        """Return one batch for each patient, a function of seed, site, purpose, number of the draw and patient alone."""
        self._draws += 1
        label = ("patient-dp", *self._purpose, self._draws)
        return tuple(self._home.site.drawn(self._cases[who], *label, who).batch((who,)) for who in chosen)

    def gradients(self, w: Tensor, batch: tuple[Any, ...]) -> Iterator[Tensor]:
        """Yield one row per patient, in passes of at most at_once patients."""
        for start in range(0, len(batch), self._home.at_once):
            part = batch[start : start + self._home.at_once]
            images, losses = self._home.site.joined(part)
            yield self._home.per_sample.gradients(w, images, losses, len(part))[1]
