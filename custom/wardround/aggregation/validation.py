"""What can be checked under secure aggregation, where no rule can read an update?

1. Every site clips its own update (dp/, or the codec of the sum). A hostile site may
not.

2. The revealed sum is no longer than the clips allow: |sum p_i x_i| <= sum p_i C_i. A
longer one proves that some site did not clip, and the step is not applied. It does not
say which site.

3. Before a step is applied, every site scores the model with and without it on its own
validation patients, and refuses a step that ruins the score. The step falls when more
than f sites refuse it: f liars alone can stop nothing.

This does not stop one hostile update within its clip, such as a flipped sign or a step
that costs every site less than `margin`; many small harms, each below the margin, one
round after the other; a backdoor, which no clean validation patient triggers; harm to
patients of a kind that only f sites or fewer treat; and a hostile site that stays
silent. Up to f honest sites that a step ruins are overruled: such a site keeps its own
model. A vote reveals one bit about a site's patients in every round, which no epsilon
counts: a job under differential privacy must not use it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from wardround.core.errors import ConfigRefused, RoundRefused


@final
@dataclass(frozen=True)
class StepCheck:
    """When a step ruins a site's score: a fall by over `margin`, to below `floor`.

    Both are needed: early scores are low and jump, and late ones fall a little without
    harm.

    margin: in the units of the score (Dice: 0 to 1), above 0.
    floor: from this score on no step is refused.
    """

    margin: float
    floor: float

    def __post_init__(self) -> None:
        if not (0 < self.margin < 1 and 0 < self.floor <= 1):
            raise ConfigRefused(
                "the check of a step",
                found=f"margin {self.margin}, floor {self.floor}",
                expected="0 < margin < 1 and 0 < floor <= 1, in the units of the score",
                fix="set both under the check in the job, for example margin 0.1 and floor 0.5",
            )

    def ruins(self, before: float, after: float) -> bool:
        """Return whether the step is to be refused.

        It is, if the score after it is not a number. A score before it that is not a
        number compares with nothing, and then the floor alone decides.
        """
        if math.isnan(after):
            return True
        fell = math.isnan(before) or before - after > self.margin
        return fell and after < self.floor


def require_accepted(refusing: Collection[str], sites: Collection[str], f: int) -> None:
    """Raise RoundRefused where more than f of the asked sites refuse a step.

    refusing: the sites that refused. Names that were not asked do not count.
    """
    against = sorted(set(refusing) & set(sites))
    if len(against) > f:
        raise RoundRefused(
            "the step of this round",
            found=f"{len(against)} of {len(set(sites))} sites that refuse it: {', '.join(against)}",
            expected=f"at most {f} (f in the job)",
            fix="look at the sites that took part in this round, and run the job again without the "
            "one whose removal mends the score",
        )


def largest_sum(
    clips: Mapping[str, float],
    weights: Mapping[str, float],
    rounding: float = 0.0,
) -> float:
    """Return the longest sum of weighted updates that the sites' clips allow.

    clips: for each site, the public bound on the norm of its update.
    weights: for each of the same sites, the factor of its update in the sum.
    rounding: what coding all updates of the sum can add to its norm, at most.
    """
    sound = clips.keys() == weights.keys() and bool(clips)
    numbers = (*clips.values(), *weights.values())
    if not (sound and all(0 < one < math.inf for one in numbers) and 0 <= rounding < math.inf):
        raise ConfigRefused(
            "the bound on a sum",
            found=f"{len(clips)} clips and {len(weights)} weights, or one that is not finite or 0",
            expected="a clip and a weight for each site of the sum",
            fix="state max_grad_norm in the job, and take clips and weights of the same roster",
        )
    return math.fsum(clips[site] * weights[site] for site in clips) + rounding


def require_sum_within(length: float, bound: float) -> None:
    """Raise RoundRefused where a sum is longer than the clips of its sites allow.

    A length that is not a number is refused too.
    """
    if not length <= bound:
        raise RoundRefused(
            "the revealed sum",
            found=f"a norm of {length:.6g}",
            expected=f"at most {bound:.6g}, which the clips of its sites add up to",
            fix="do not apply it; run the job with fewer sites to find the one that does not clip",
        )
