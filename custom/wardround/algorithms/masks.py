"""Which blocks of a model become personal, given a score for each?

These are pure functions of numbers, one for each way to choose, without data or
network.

    A_b <- rho A_b + (1 - rho) KL_b / sum KL    attention to block b (sums to 1)
    shared -> personal  if A_b >= enter / G and the block's own version is better
                        on held-out patients
    personal -> shared  if A_b < leave / G      (leave < enter: no flicker)

At most `most` of all parameters are personal. Blocks with more attention come first,
and those that are personal already come before others.

Source: The idea of dynamic masks is that of MM-PFL-ADP (Scientific Reports 2026, doi
10.1038/s41598-026-49896-z). Its formulas are not available in the published text: this
reconstruction, with its thresholds, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

Choice = Literal["kl", "random", "norms", "head", "none"]
CHOICES: tuple[Choice, ...] = ("kl", "random", "norms", "head", "none")


def attention(
    before: Mapping[str, float] | None,
    divergences: Mapping[str, float],
    rho: float,
) -> dict[str, float]:
    """Return the attention A_b to each block.

    before: The attention of the last choice; None the first time, when A_b is the share
        itself. Without any divergence the shares are equal.
    """
    total = sum(divergences.values())
    shares = {b: value / total if total > 0 else 1 / len(divergences) for b, value in divergences.items()}
    if before is None:
        return shares
    return {b: rho * before[b] + (1 - rho) * share for b, share in shares.items()}


def chosen(
    scores: Mapping[str, float],
    personal: Sequence[str],
    sizes: Mapping[str, int],
    better: Callable[[str], bool],
    thresholds: tuple[float, float, float],
) -> tuple[str, ...]:
    """Return the personal blocks, in the order of `scores`.

    scores: The attention A_b.
    personal: The blocks that are personal already.
    sizes: The number of values of each block.
    better: Whether a block's own version wins on held-out patients. It is asked only
        for blocks that would enter, because each answer costs forward passes.
    thresholds: (enter, leave, most); the first two in units of 1 / G.
    """
    enter, leave, most = thresholds
    count, room = len(scores), most * sum(sizes.values())
    # Ties keep the order of the blocks, so the choice is the same on every machine.
    ranked = sorted(scores, key=lambda b: -scores[b])
    staying = [b for b in ranked if b in personal and scores[b] >= leave / count]
    entering = [b for b in ranked if b not in personal and scores[b] >= enter / count]
    found: list[str] = []
    for b in [*staying, *entering]:
        # A block that does not fit is passed over: a smaller one with less attention
        # may fit.
        fits = sum(sizes[one] for one in [*found, b]) <= room
        if fits and (b in staying or better(b)):
            found.append(b)
    return tuple(b for b in scores if b in found)


def drawn(sizes: Mapping[str, int], most: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Return random blocks that fill at most `most` of all parameters.

    This is the control for "any blocks would do".
    """
    room, found = most * sum(sizes.values()), list[str]()
    for index in rng.permutation(len(sizes)):
        b = list(sizes)[int(index)]
        if sum(sizes[one] for one in [*found, b]) <= room:
            found.append(b)
    return tuple(b for b in sizes if b in found)
