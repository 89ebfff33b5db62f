"""The check of a revealed sum at a site, before the site applies it (aggregation/validation.py)."""

from __future__ import annotations

from dataclasses import dataclass

from nvflare.apis.fl_context import FLContext

from wardround.aggregation.validation import StepCheck
from wardround.core.arrays import Arrays, norm
from wardround.flare.trainer import Trainer
from wardround.training.global_model import GlobalModel


@dataclass(frozen=True)
class Step:
    """A step that the global model is about to take.

    mean: the revealed mean change
    participation: the share of the sites that are in it
    since: whose state this site would score it from, that after the last round whose sum it is in
    coding: what coding the updates can add to the norm of the mean, at most
    """

    mean: Arrays
    participation: float
    since: int
    coding: float


def require_accepted(
    validation: StepCheck,
    step: Step,
    held: GlobalModel,
    trainer: Trainer,
    fl_ctx: FLContext,
) -> None:
    """Raise RoundRefused where this site refuses a step; nothing is applied, and both scores stay at the site.

    The length is compared first: it is the same at every site and costs nothing. Both scores start
    from the same state of this site, so that only the step differs.
    """
    validation.require_within(step.mean, step.coding)
    if validation.compares:
        with_it = held.after(step.mean, step.participation)
        before = trainer.score(held.wire(), step.since, fl_ctx)
        # Last, so that it is the one that the trainer remembers for its report of the next round.
        after = trainer.score(with_it, step.since, fl_ctx)
        validation.require_unharmed(before, after)
    trainer.say(f"the step of round {held.round + 1} is {norm(step.mean):.4g} long and was accepted", fl_ctx)
