"""Which blocks of a model become personal: pure rules on numbers, one for each way to choose. No data, no network here.

    A_b <- rho A_b + (1 - rho) KL_b / sum KL        attention to block b (adds up to 1)
    shared -> personal  A_b >= enter / G, and its own version is better on held-out patients
    personal -> shared  A_b <  leave / G            (leave < enter: no flicker)
    at most `most` of all parameters are personal; those with the most attention first, those that are personal before
    others
Source: the idea of dynamic masks is that of MM-PFL-ADP (Scientific Reports 2026, doi 10.1038/s41598-026-49896-z). Its
formulas are not available in the published text: this reconstruction, thresholds and all, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

Choice = Literal["kl", "random", "norms", "head", "none"]
CHOICES: tuple[Choice, ...] = ("kl", "random", "norms", "head", "none")


def attention(before: Mapping[str, float] | None, divergences: Mapping[str, float], rho: float) -> dict[str, float]:
    """Return A_b. before: None the first time, then A_b is the share itself | no divergence anywhere: equal shares."""
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

    scores: A_b | personal: those of before | better(b): whether the own version wins on held-out patients, asked only for
    blocks that would enter | thresholds: enter, leave (both in units of 1 / G), most
    """
    enter, leave, most = thresholds
    count, room = len(scores), most * sum(sizes.values())
    ranked = sorted(scores, key=lambda b: -scores[b])
    staying = [b for b in ranked if b in personal and scores[b] >= leave / count]
    entering = [b for b in ranked if b not in personal and scores[b] >= enter / count]
    found: list[str] = []
    for b in [*staying, *entering]:
        fits = sum(sizes[one] for one in [*found, b]) <= room
        if fits and (b in staying or better(b)):
            found.append(b)
    return tuple(b for b in scores if b in found)


def drawn(sizes: Mapping[str, int], most: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Return random blocks that fill at most `most` of all parameters: the control for "any blocks would do"."""
    room, found = most * sum(sizes.values()), list[str]()
    for index in rng.permutation(len(sizes)):
        b = list(sizes)[int(index)]
        if sum(sizes[one] for one in [*found, b]) <= room:
            found.append(b)
    return tuple(b for b in sizes if b in found)
