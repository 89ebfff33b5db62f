"""How does one hospital train under patient-level DP, and what does a job spend?

A patient's gradient depends on the weights, the patient and the number of the draw
alone. The case, the place of the patch and the augmentation come from a stream of the
patient's own, and on a CPU the row has the same bits whoever else is drawn. On a GPU
the last bits may differ. Rarely, where they tip an activation over its kink, a row
changes by about 0.4 %; the guarantee does not cover that.

Who is drawn comes from secret entropy (dp/dp_sgd.py). If the job's seed could repeat
the draws, whoever knows the seed would know who took part, and sampling would protect
nobody.

What touches training patients is counted (`private_plan`): every gradient evaluation of
the federation, of the FedAvg baseline, of the local baseline and of fine-tuning. Not
counted are validation and test (other patients, whom this guarantee does NOT protect),
decoding and caching (nothing leaves), and momentum, weight decay, proximal terms and
aggregation, which are post-processing.

A DP job must not send training losses (always 0 here), nor the exact number of training
patients.
"""

from __future__ import annotations

import logging
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
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING, Sharing
from wardround.algorithms.train_only import trained
from wardround.core.errors import ConfigRefused
from wardround.dp.dp_sgd import PrivateObjective
from wardround.dp.joint_dp import JointDP
from wardround.dp.joint_steps import JointObjective
from wardround.dp.patient_dp import PatientDP
from wardround.models.opacus_rows import GradSamples, patient_rows, slow_reason
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.training.evaluation import ModelSelection
from wardround.training.task import TaskSite

_log = logging.getLogger(__name__)
# Private gradients per step. An algorithm that is missing here is refused: an uncounted
# gradient would void the guarantee.
_RELEASES: dict[type, int] = {
    FedAvg: 1,
    FedProx: 1,
    Alternating: 1,
    Scaffold: 1,
    MRMTL: 1,
    Ditto: 2,
}


def releases_per_step(algorithm: Algorithm) -> int:
    """Return how many private gradients one step of the algorithm spends.

    All of them are charged. Per-FedAvg (FO) spends 2, the inner and the outer gradient
    on draws of their own; Ditto spends 2, for the shared and the personal model.
    ConfigRefused is raised for Per-FedAvg (HF) and for an algorithm that is not listed
    here.
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
    """How many releases of the subsampled Gaussian mechanism a job makes at one site.

    Each field counts what is spent on one purpose.
    """

    federation: int
    fedavg_baseline: int
    local: int
    fine_tuning: int

    @property
    def total(self) -> int:
        """Return the number of all releases."""
        return self.federation + self.fedavg_baseline + self.local + self.fine_tuning


def private_plan(
    algorithm: Algorithm,
    fedavg_baseline: Algorithm | None,
    schedule: Schedule,
    model_selection: ModelSelection | None,
) -> PrivatePlan:
    """Return what a job spends, known before it starts.

    The ledger reserves `total`, and again whatever a restart repeats. `schedule.work`
    counts gradient evaluations, whatever their number per step, so a round releases
    exactly `work`.
    model_selection: The local baseline, and max(steps) of fine-tuning for every arm, as
        training/evaluation.py runs them; all go through private objectives. None if
        nothing is evaluated, or only models that are not trained any further.

    ConfigRefused is raised when `work` is not a whole number of steps.
    """
    for each in (algorithm, fedavg_baseline):
        if each is not None and schedule.work % (cost := releases_per_step(each)):
            raise ConfigRefused(
                f"the work of {each.name}",
                found=f"{schedule.work} gradients in steps of {cost}",
                expected=f"a multiple of {cost}",
                fix=f"--set work={max(cost, schedule.work - schedule.work % cost)}",
            )
    whole = schedule.num_rounds * schedule.work
    arms = 1 if fedavg_baseline is None else 2
    tuning = 0 if model_selection is None else arms * max(model_selection.steps)
    return PrivatePlan(
        whole,
        0 if fedavg_baseline is None else whole,
        0 if model_selection is None else whole,
        tuning,
    )


@final
class DPSite:
    """A TaskSite whose training gradients are private.

    The network is checked once, on made-up images, when the value is built. Dropout,
    and networks that mix patients, are refused (ConfigRefused). A layer without a
    formula for per-sample gradients sends the whole network over a slower road
    (models/opacus_rows.py), which the log says; it is refused where that is not exact.
    at_once: Patients per pass through the network. It is rounded up to a multiple of
        the CPU's threads, and passes are filled up to it. On a machine with many cores,
        start the site with OMP_NUM_THREADS no larger than the patients expected per
        step.
    """

    def __init__(self, site: TaskSite, promise: PatientDP | JointDP, *, at_once: int = 8) -> None:
        self.site, self.promise = site, promise
        # Five is no multiple of any usual number of threads, so padding is exercised
        # too.
        images = site.made_up(5)
        pad_multiple = torch.get_num_threads() if site.device.type == "cpu" else 1
        if images.dim() != 5:  # transformers: the same bits only in passes that all have the same number of rows
            pad_multiple = at_once
        if slow := slow_reason(site.model):
            _log.warning(
                "gradients of single patients go the slow road, by Opacus: there is no formula for %s",
                slow,
            )
            pad_multiple = at_once
        self._pad_multiple = pad_multiple
        self._roads: dict[tuple[str, ...], PerSample | GradSamples] = {}
        self.per_sample = patient_rows(site.model, pad_multiple)
        self.at_once = -(-at_once // pad_multiple) * pad_multiple
        self.per_sample.require_exact(images)
        if site.device.type == "cpu":
            self.per_sample.pick_pace(images)
        # Two seeds of dropout must give the same gradients.
        first, second = (
            self.per_sample.gradients(
                site.model.vector,
                images,
                lambda out: out.square().flatten(1).mean(1),
                len(images),
                dropout_seed=seed,
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

    def road(self, blocks: tuple[str, ...] | None) -> PerSample | GradSamples:
        """Return what computes gradients of single patients for these blocks; None: all.

        For a part of the network nothing is computed for the rest (models/per_sample.py).
        """
        if blocks is None:
            return self.per_sample
        if blocks not in self._roads:
            images = self.site.made_up(5)
            found = patient_rows(self.site.model, self._pad_multiple, blocks)
            found.require_exact(images)
            if self.site.device.type == "cpu":
                found.pick_pace(images)
            self._roads[blocks] = found
        return self._roads[blocks]

    def _blocks(self, mask: Tensor | None) -> tuple[str, ...] | None:
        if mask is None:
            return None
        layout = self.site.layout
        parts = zip(layout.names, torch.split(mask, list(layout.sizes)), strict=True)
        return tuple(name for name, part in parts if bool(part.any()))

    def objective(
        self, allowed: int, *purpose: str | int, sharing: Sharing = EVERYTHING, patches: int = 1
    ) -> PrivateObjective | JointObjective:
        """Return private gradients on this site's training patients, at most `allowed`.

        Under one noise of all hospitals it is one sum over all patients instead.
        sharing: Says which blocks are trained (algorithms/train_only.py).
        patches: How many augmented patches or images of a patient are averaged.
        """
        mask = trained(sharing, self.site.layout, self.site.roles)
        source = PatientPatches(self, *purpose, patches=patches, blocks=self._blocks(mask))
        mask = None if mask is None else mask.to(self.site.device)
        if isinstance(self.promise, JointDP):
            return JointObjective(source, self.promise, mask)
        return PrivateObjective(source, self.promise, allowed, mask)


@final
class PatientPatches:
    """The `PatientGradients` of dp/dp_sgd.py: `patches` patches or images per patient.

    A patient's gradient is the mean over them.
    blocks: the names of those that are trained; a row has their columns alone. None: all.
    """

    def __init__(
        self,
        home: DPSite,
        *purpose: str | int,
        patches: int = 1,
        blocks: tuple[str, ...] | None = None,
    ) -> None:
        self._home = home
        self._per_sample = home.road(blocks)
        self._purpose = purpose
        self._patches = patches
        self._draws = 0
        self._cases: dict[str, list[str]] = {}
        for case in home.site.split.train:
            self._cases.setdefault(home.site.cohort.patients[case], []).append(case)

    @property
    def patients(self) -> tuple[str, ...]:
        """Return the training patients, sorted."""
        return tuple(sorted(self._cases))

    def sample(self, chosen: tuple[str, ...]) -> tuple[Any, ...]:
        """Return `patches` batches for each chosen patient, one patient after the other.

        A batch is a function of seed, site, purpose, number of the draw, patient and
        number of the patch alone.
        """
        # The count goes up even when nobody is chosen, so that a draw's number never
        # depends on who was in an earlier one.
        self._draws += 1
        label = ("patient-dp", *self._purpose, self._draws)
        # The first patch has the label that it had when there was only one.
        places = [(label if patch == 0 else (*label, patch)) for patch in range(self._patches)]
        return tuple(
            self._home.site.drawn(self._cases[who], *place, who).batch((who,)) for who in chosen for place in places
        )

    def gradients(self, w: Tensor, batch: tuple[Any, ...]) -> Iterator[Tensor]:
        """Yield one gradient per patient, in passes of at most at_once rows (or of one
        patient, where those are more).
        """
        rows = self._patches * max(1, self._home.at_once // self._patches)
        for start in range(0, len(batch), rows):
            part = batch[start : start + rows]
            images, losses = self._home.site.joined(part)
            yield self._per_sample.gradients(w, images, losses, len(part) // self._patches)[1]
