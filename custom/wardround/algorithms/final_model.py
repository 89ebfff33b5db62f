"""Which model does a run end with: the last one, or the mean of the last third or half?

Near the end of a run SGD walks around a good model; the mean of the models of the last
rounds lies nearer to its middle. The mean is formed from models that are there anyway,
so nothing more travels, and under differential privacy it is post-processing, which
costs nothing. It is taken once, after the last round: no round starts from it.

Source: Izmailov et al. 2018, arXiv:1803.05407, Algorithm 1 (stochastic weight
averaging), of global models.
Deviations: 1. The learning rate follows the job's schedule while models are averaged.
2. No statistics of batches are computed again, because no network here has any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from wardround.core.arrays import Array, Arrays
from wardround.core.errors import ConfigRefused

Kind = Literal["last", "mean_of_last_third", "mean_of_last_half"]
KINDS = ("last", "mean_of_last_third", "mean_of_last_half")
# The share of the run whose models are averaged, as what num_rounds is divided by.
_PARTS = {"mean_of_last_third": 3, "mean_of_last_half": 2}


@final
@dataclass(frozen=True)
class FinalModel:
    """The final model of a run of `num_rounds` rounds.

    kind: "last" is the model after the last round. "mean_of_last_third" is the
        unweighted mean of the models after the last num_rounds // 3 rounds; in runs of
        fewer than 6 rounds that is one model at most, and so the last one.
        "mean_of_last_half" is that of the last num_rounds // 2 rounds.

    Another kind, and fewer rounds than 1, raise ConfigRefused.
    """

    kind: Kind
    num_rounds: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.num_rounds < 1:
            raise ConfigRefused(
                "the final model",
                found=f"{self.kind!r} of {self.num_rounds} rounds",
                expected=f"one of {', '.join(KINDS)}, of 1 round or more",
                fix="--set final_model=last, or print the job again with `wardround jobs write`",
            )

    @property
    def models(self) -> int:
        """Return how many models the final one is the mean of."""
        return max(1, self.num_rounds // _PARTS[self.kind]) if self.kind in _PARTS else 1

    def number(self, done: int) -> int:
        """Return which of these models the one after `done` rounds is.

        The first is 1; a model that is not among them, and the only one, are 0: then
        there is nothing to average.
        """
        return 0 if self.models == 1 else max(0, done - self.num_rounds + self.models)

    def followed(self, mean: Arrays, model: Arrays, done: int) -> dict[str, Array]:
        """Return the mean of the models so far, with the one after `done` rounds.

        mean: What this function returned a round before; {} at first.
        model: The blocks of the model, of all variables.

        Before the first of these models it is {}. Every value is rounded to float32 in every
        round: so it is written to disk, and a run that is resumed ends with the same
        bits as one that was not. Every site of a secure sum computes the same bits too.
        """
        count = self.number(done)
        if count == 0:
            return {}
        if count == 1:
            return dict(model)
        return {name: _next_mean(mean[name], block, count) for name, block in model.items()}

    def chosen(self, mean: Mapping[str, Array], last: Arrays, done: int) -> Arrays:
        """Return the final model after `done` rounds: the mean where it is complete.

        mean, last: What `followed` returned, and the model after these rounds.
        """
        return mean if self.number(done) == self.models else last


def _next_mean(mean: Array, block: Array, count: int) -> Array:
    """Return the mean of `count` arrays, given that of those before the last one."""
    # In float64, and rounded once: additions and one division, which all machines
    # round alike.
    total = mean.astype(np.float64) * (count - 1) + block
    found: Array = (total / count).astype(np.float32)
    return found
