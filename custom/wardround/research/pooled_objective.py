"""What are the gradients over several hospitals' patients in one place?

They are for the centralised baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.training.patient_sampler import PatientSampler
from wardround.training.task import TaskSite


class PooledObjective:
    """Stochastic gradients over the union of all sites' training patients.

    It is an `Objective` of algorithms/base.py. Every patient of the union is equally
    likely, so a large hospital counts for more, as in one large hospital. Each patient
    is cut, augmented and labelled as at its own site (the site's label kind says which
    regions are known). Gradients are computed by the first site's network on its
    device; the size of a batch is the first site's. ConfigRefused is raised without a
    site, and if one has another architecture or patch size.
    """

    def __init__(self, sites: Sequence[TaskSite], *purpose: str | int) -> None:
        alike = {(site.layout, tuple(site.sampling.patch)) for site in sites}
        if len(alike) != 1:
            raise ConfigRefused(
                "pooled training",
                found=f"{len(sites)} sites with {len(alike)} different networks or patch sizes",
                expected="one network and one patch size at one site or more",
                fix="build every site from the same job",
            )
        self._home = sites[0]
        self._objectives = [site.objective("pooled", *purpose) for site in sites]
        union = [(index, who) for index, one in enumerate(self._objectives) for who in one.patients]
        self._sampler = PatientSampler(
            union,
            stream(self._home.seed, "pooled batches", *purpose),
        )

    def sample(self, count: int) -> tuple[Any, ...]:
        """Return `count` batches.

        No patient comes twice while the union has count * batch patients.
        """
        return tuple(self._batch(chosen) for chosen in self._sampler.sample(count, self._home.sampling.batch))

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        """Return (loss, gradient) at w.

        Dropout is the same whenever the same batch is used.
        """
        return self._objectives[0].value_and_grad(w, batch)

    def _batch(self, chosen: Sequence[tuple[int, str]]) -> Any:
        members = [(one, tuple(who for index, who in chosen if index == at)) for at, one in enumerate(self._objectives)]
        return self._home.pooled([one.batch(mine) for one, mine in members if mine])
