"""How are models of one hospital scored together, so that no network runs twice?

A mixture is the mean of the probabilities of several weights of one network
(models/blend.py). All mixtures of the same weights share their outputs: whoever scores a
model, a second one and three blends of the two runs two networks on every case, not
eight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.models.blend import require_shares
from wardround.tasks.components import RegionFilter

Output = TypeVar("Output")


@dataclass(frozen=True)
class Mixture:
    """Several weights of one network, and the share of each.

    ConfigRefused is raised for weights of different lengths, and for shares that are
    not above 0 with the sum 1.
    """

    members: tuple[Tensor, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        require_shares(self.shares, len(self.members))
        lengths = {tuple(w.shape) for w in self.members}
        if len(lengths) != 1:
            raise ConfigRefused(
                "a mixture of models",
                found=f"weights of {len(lengths)} shapes",
                expected="weights of one network",
                fix="mix models of one job",
            )


@dataclass(frozen=True)
class Postprocessed:
    """A model, and what is dropped from the regions that it finds."""

    model: Tensor | Mixture
    region_filter: RegionFilter


Model = Tensor | Mixture | Postprocessed


@dataclass(frozen=True)
class ValidationScore:
    """The score by which a model is selected.

    value: The score, from 0 to 1, higher for better models.
    patients: One number per patient, in the order of their first cases; their mean is
        the value. Two models on the same patients are compared in pairs.
    """

    value: float
    patients: tuple[float, ...]


def outputs(
    models: Mapping[str, Model],
    compute: Callable[[Tensor], Output],
    mix: Callable[[Sequence[Output], Sequence[float]], Output],
) -> Iterator[tuple[str, Output]]:
    """Yield (name, output) of every model on the same cases.

    compute: Returns the output of one set of weights. It is called once for each set,
        however many models share it. Only an output that is needed again is kept.
    mix: Returns the output of a mixture from those of its members and their shares.
    """
    left = Counter(id(w) for model in models.values() for w in members(model))
    kept: dict[int, Output] = {}

    def output(w: Tensor) -> Output:
        found = kept.pop(id(w)) if id(w) in kept else compute(w)
        left[id(w)] -= 1
        if left[id(w)]:
            kept[id(w)] = found
        return found

    for name, model in models.items():
        found, plain = [output(w) for w in members(model)], bare(model)
        yield name, mix(found, plain.shares) if isinstance(plain, Mixture) else found[0]


def members(model: Model) -> tuple[Tensor, ...]:
    """Return the weights that a model needs."""
    plain = bare(model)
    return plain.members if isinstance(plain, Mixture) else (plain,)


def bare(model: Model) -> Tensor | Mixture:
    """Return a model without its filter of regions."""
    return model.model if isinstance(model, Postprocessed) else model


def filter_of(model: Model) -> RegionFilter:
    """Return what is dropped from the regions that a model finds."""
    return model.region_filter if isinstance(model, Postprocessed) else RegionFilter()


def score_of_cases(values: Sequence[float], patients: Sequence[str]) -> ValidationScore:
    """Return the mean of one number per case.

    patients: The patient of each case. The number of a patient with several cases is
        weighted by how many they are, so that the mean over patients is the value.
    """
    totals: dict[str, float] = {}
    for value, patient in zip(values, patients, strict=True):
        totals[patient] = totals.get(patient, 0.0) + value
    each = len(totals) / len(values)
    return ValidationScore(float(np.mean(values)), tuple(total * each for total in totals.values()))
