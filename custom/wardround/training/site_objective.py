"""What do all tasks share at a site?

They share whose turn it is among the patients, and the network with its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.models.blocks import blocks_of
from wardround.models.flat import FlatModel
from wardround.models.nets import Network
from wardround.models.perturbed_outputs import PerturbedOutputs
from wardround.models.roles import block_roles
from wardround.training.patient_sampler import PatientSampler
from wardround.training.task import TaskSite


class SiteBatch(Protocol):
    """One mini-batch of any task.

    inputs: What the network is given.
    seed: The seed of everything random in the network.
    """

    @property
    def inputs(self) -> Tensor: ...

    @property
    def seed(self) -> int: ...


B = TypeVar("B", bound=SiteBatch)


class Work(Protocol[B]):
    """What a task adds: how a batch is made, and what its loss is."""

    def batch(
        self,
        patients: tuple[str, ...],
        case_of: Callable[[str], str],
        rng: np.random.Generator,
    ) -> B:
        """Return one batch of these patients; `case_of` draws one of a patient's cases."""

    def loss(self, out: Tensor, batch: B) -> Tensor:
        """Return the mean loss of the network's outputs."""

    def divergence(self, p: Tensor, q: Tensor, batch: B) -> float:
        """Return the mean KL(p || q) of two outputs."""


@final
class SiteObjective(Generic[B]):
    """Stochastic gradients over the given cases.

    It is the `Objective` of algorithms/base.py, and the `Probe` of KL masks.
    """

    def __init__(
        self,
        site: TaskSite,
        work: Callable[..., Work[B]],
        cases: Sequence[str],
        *purpose: str | int,
    ) -> None:
        """Draw from `cases`; without any case ConfigRefused is raised.

        work: The task's own part, a function of site and purpose.
        purpose: What the gradients are for. The same purpose gives the same batches.
        """
        if not cases:
            raise ConfigRefused(
                "training cases",
                found="none",
                expected="at least one",
                fix="check this site's data",
            )
        self._site = site
        self._make = work
        self._work = work(site, *purpose)
        # Named after seed, site and purpose: training, calibration and fine-tuning
        # never share draws.
        self._rng = stream(site.seed, site.name, "batches", *purpose)
        self._cases: dict[str, list[str]] = {}
        for case in cases:
            self._cases.setdefault(site.cohort.patients[case], []).append(case)
        self._sampler = PatientSampler(self.patients, self._rng)

    @property
    def patients(self) -> tuple[str, ...]:
        """Return the patients that batches are drawn from, sorted."""
        return tuple(sorted(self._cases))

    def sample(self, count: int) -> tuple[B, ...]:
        """Return `count` batches.

        No patient comes twice while the site has count * batch patients.
        """
        return tuple(self.batch(patients) for patients in self._sampler.sample(count, self._site.sampling.batch))

    def batch(self, patients: tuple[str, ...]) -> B:
        """Return one batch with one case of each of these patients."""
        return self._work.batch(patients, self._case_of, self._rng)

    def value_and_grad(self, w: Tensor, batch: B) -> tuple[float, Tensor]:
        """Return (loss, gradient) at w.

        Dropout is the same whenever the same batch is used.
        """
        return self._site.model.value_and_grad(
            w,
            batch.inputs,
            lambda out: self._work.loss(out, batch),
            dropout_seed=batch.seed,
        )

    @property
    def label(self) -> str:
        """Return the site's name."""
        return self._site.name

    @property
    def blocks(self) -> Mapping[str, str]:
        """Return the block of each parameter."""
        return self._site.blocks

    def calibration(self, count: int) -> tuple[B, ...]:
        """Return the same `count` batches of training patients each time."""
        return SiteObjective(
            self._site,
            self._make,
            self._site.split.train,
            "calibration",
        ).sample(count)

    def held_out(self, count: int) -> tuple[B, ...]:
        """Return the same `count` batches of validation patients each time."""
        return SiteObjective(
            self._site,
            self._make,
            self._site.split.val,
            "held-out",
        ).sample(count)

    def near(self, w: Tensor, other: Tensor, batch: B) -> PerturbedOutputs:
        """Return the network's outputs in evaluation mode, as a function of names.

        The named parameters are those of `other`, all others those of `w`.
        """
        return PerturbedOutputs(self._site.model, w, other, batch.inputs)

    def divergence(self, p: Tensor, q: Tensor, batch: B) -> float:
        """Return the mean KL(p || q) of two outputs on this batch."""
        return self._work.divergence(p, q, batch)

    def loss(self, p: Tensor, batch: B) -> float:
        """Return the mean loss of outputs p on this batch."""
        return float(self._work.loss(p, batch))

    def _case_of(self, patient: str) -> str:
        cases = self._cases[patient]
        return cases[int(self._rng.integers(len(cases)))]


def network_on(
    spec: Network,
    seed: int,
    device: torch.device,
) -> tuple[FlatModel, Mapping[str, str], Mapping[str, str]]:
    """Return (network on the device, block of each parameter, role of each parameter)."""
    module = spec.build(seed)
    blocks, roles = blocks_of(module), block_roles(module)
    return FlatModel(module, device, half=True), blocks, roles


def patient_count(patients: Mapping[str, str], cases: Sequence[str]) -> int:
    """Return how many patients these cases belong to.

    patients: The patient of each case.
    """
    return len({patients[case] for case in cases})
