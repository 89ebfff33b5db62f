"""What is left under secure aggregation, where no rule can read an update: three checks at every site.

1. The site's own clip: every site shortens its update to `max_norm` before it is coded.
2. A bound on the revealed sum: the mean of updates that are no longer than `max_norm` is no longer
   either, whatever their weights. A longer one proves that some site did not clip, and is not
   applied. It does not say which site. All sites see the same sum, so all of them refuse it.
3. Validation before the step: a site scores the model with and without the step on its own
   validation patients, both times with its own blocks, and refuses a step that ruins its score.

A refusal is the site's own: it ends the part of this site in this job, for good, and the model
without the step stays. The server reads one word (`round`). The other sites go on while at least
min_clients are left; so `sites - min_clients` sites can leave, or lie, and stop nothing. There is no
vote: a vote would be one more message about patients, and the model would wait for the slowest.

What it costs: one more evaluation of the validation patients in every round. The score of the model
with the step is the one that the next round reports anyway.

What this does not stop: one hostile update within the clip, such as a flipped sign or a step that
costs every site less than `margin`; many small harms, each below the margin, one round after the
other; a backdoor, which no clean validation patient triggers; harm to patients of a kind that only
another site treats. What it costs an honest hospital: one whose patients differ from the others' may
see a step that is good for all others ruin its own score, and refuses it.

A refusal says one bit about a site's validation patients, and nobody counts it: no epsilon covers
it. Under differential privacy, of a patient or of a hospital, the check is refused (`traits`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from wardround.core.arrays import Array, Arrays, norm
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.traits import UNPROMISED, WHOLE, Traits

_WHY = {
    UNPROMISED: "no such promise: a refusal is a function of the site's patients, and no noise hides it",
    # What a site owes of earlier updates leaves beside this round's, and both together may be longer than either.
    WHOLE: "whole updates, whose norm a site has bounded; or --set validation.max_norm=0",
}


@final
@dataclass(frozen=True)
class StepCheck:
    """When a site refuses a step: it ruins the site's validation score, or it is longer than any honest mean.

    A step ruins a score that falls by more than `margin` to below `floor`. Both are needed: early
    scores are low and jump, and late ones fall a little without harm.

    margin: in the units of the score (Dice: 0 to 1); 0: no score is compared
    floor: a score from which on no step is refused
    max_norm: the longest update of a site, over all blocks that leave it; 0: no clip and no bound
    numbers that make no sense, or a check of nothing: ConfigRefused
    """

    margin: float
    floor: float
    max_norm: float

    name: ClassVar[str] = "a check of every step at every site"

    def __post_init__(self) -> None:
        numbers = (self.margin, self.floor, self.max_norm)
        known = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        if not (known and 0 <= self.margin < 1 and 0 < self.floor <= 1 and 0 <= self.max_norm < math.inf):
            raise self._refused("0 <= margin < 1, 0 < floor <= 1, in the units of the score, and max_norm 0 or more")
        if self.margin == self.max_norm == 0:
            raise self._refused("a margin or a max_norm above 0: with neither of them nothing is checked")

    @property
    def traits(self) -> Traits:
        """Return what the check needs of an update; a bound on the norm needs whole ones as well."""
        return Traits(needs=frozenset({UNPROMISED, WHOLE} if self.max_norm > 0 else {UNPROMISED}), why=_WHY)

    @property
    def compares(self) -> bool:
        """Return whether the site scores the model with and without a step."""
        return self.margin > 0

    def ruins(self, before: float, after: float) -> bool:
        """Return whether the step is to be refused.

        It is, if the score after it is not a number. A score before it that is not a
        number compares with nothing, and then the floor alone decides.
        """
        if math.isnan(after):
            return True
        fell = math.isnan(before) or before - after > self.margin
        return fell and after < self.floor

    def shortened(self, update: Arrays) -> dict[str, Array]:
        """Return the update at a norm of at most max_norm; one that is short enough, or not finite, as it is."""
        length = norm(update)
        if not (0 < self.max_norm < length < math.inf):
            return dict(update)
        factor = np.float32(self.max_norm / length)
        return {name: block * factor for name, block in update.items()}

    def require_within(self, mean: Arrays, coding: float) -> None:
        """Raise RoundRefused where a revealed mean is longer than those of sites that clip, or not a number.

        coding: what coding all updates of the sum can add to the norm of their mean, at most
        """
        # A norm in float32 is exact to a few parts in a million.
        length, bound = norm(mean), self.max_norm * (1 + 1e-5) + coding
        if self.max_norm > 0 and not length <= bound:
            raise RoundRefused(
                "the revealed sum",
                found=f"a mean change with a norm of {length:.6g}",
                expected=f"at most {bound:.6g}: validation.max_norm of the job, and what coding can add",
                fix="ask the lead to run the job with fewer hospitals, to find the one that does not clip its update; "
                "the model of the round before is kept",
            )

    def require_unharmed(self, before: float, after: float) -> None:
        """Raise RoundRefused where a step ruins this site's validation score; the text stays at the site."""
        if self.compares and self.ruins(before, after):
            raise RoundRefused(
                "the step of this round",
                found=f"a validation score of {after:.4g} with it and of {before:.4g} without it, at this site",
                expected=f"a score of at least {self.floor:g}, or one that falls by at most {self.margin:g}",
                fix="the model of the round before is kept. Ask the lead to run the job again without one hospital at a "
                "time, until the score is mended; or, where this hospital's patients differ from the others', with a "
                "larger validation.margin or with sharing=norms_at_home",
            )

    def _refused(self, expected: str) -> ConfigRefused:
        return ConfigRefused(
            self.name,
            found=f"margin {self.margin}, floor {self.floor}, max_norm {self.max_norm}",
            expected=expected,
            fix="for example `--set validation=own_patients --set validation.margin=0.1`",
        )
