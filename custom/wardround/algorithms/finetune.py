"""How is a model adapted to one hospital? By k plain SGD steps on its own patients.

Every method is offered this adaptation alike.

Source: the k-step adaptation of MAML, Finn et al. 2017, arXiv:1703.03400, section 2.2.
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from torch import Tensor

from wardround.algorithms.base import Objective, Steps, descend, plain
from wardround.core.errors import ConfigRefused


def fine_tune(
    w: Tensor,
    objective: Objective,
    ks: Sequence[int],
    steps: Steps,
) -> dict[int, Tensor]:
    """Return copies of the weights after each k of ks steps; w is not changed.

    All k lie on ONE path of max(ks) gradient evaluations, so a snapshot does not depend
    on the other k asked for. The weights after k = 0 are w. steps.work is not used,
    because ks decide. ConfigRefused is raised for no ks, and for one below 0.
    """
    if not ks or min(ks) < 0:
        raise ConfigRefused(
            "fine-tuning steps",
            found=f"{list(ks)}",
            expected="one or more, each >= 0",
            fix="--set model_selection.steps=[0,1,5,20], or other numbers of 0 or more",
        )
    snapshots: dict[int, Tensor] = {}
    raw, done = plain(objective), count()

    def watched(at: Tensor) -> tuple[float, Tensor]:
        k = next(done)
        if k in ks:
            snapshots[k] = at.clone()
        return raw(at)

    # The last snapshot is the end of the path; `watched` sees only the starts of steps.
    snapshots[max(ks)], _ = descend(w, watched, max(ks), steps)
    return snapshots
