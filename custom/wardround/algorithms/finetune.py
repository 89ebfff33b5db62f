"""Fine-tuning: k plain SGD steps on a site's own patients, the adaptation that every method is offered alike.

Source: the k-step adaptation of MAML, Finn et al. 2017, arXiv:1703.03400, section 2.2.
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from torch import Tensor

from wardround.algorithms.base import Objective, Steps, descend, plain
from wardround.core.errors import ConfigRefused


def fine_tune(w: Tensor, objective: Objective, ks: Sequence[int], steps: Steps) -> dict[int, Tensor]:
    """Return copies of the weights after each k of ks steps, by rising k; w is not changed.

    All k lie on ONE walk of max(ks) gradient evaluations: a snapshot does not depend on the other k asked for.
    k = 0: w | steps.work: not used, ks decide | no ks, or one below 0: ConfigRefused
    """
    if not ks or min(ks) < 0:
        raise ConfigRefused(
            "fine-tuning steps", found=f"{list(ks)}", expected="one or more, each >= 0", fix="correct them"
        )
    snapshots: dict[int, Tensor] = {}
    raw, done = plain(objective), count()

    def watched(at: Tensor) -> tuple[float, Tensor]:
        k = next(done)
        if k in ks:
            snapshots[k] = at.clone()
        return raw(at)

    snapshots[max(ks)], _ = descend(w, watched, max(ks), steps)
    return snapshots
