"""What can hostile sites do to a federation? False updates and poisoned patients.

They are for measurements. No job names anything here, no allow-list holds it, and
nothing that a provisioned site or server imports leads here: attacks run in
`research.attacked`, in one process, on patients that do not exist or that the
researcher holds already.

An `Attack` may poison what a hostile site trains on (`batch`), and replace what it
sends (`forge`). A forger knows everything, the honest updates of the round included: it
is the strongest attacker that the papers consider, so an aggregation that survives it
survives weaker ones.

    sign flip           -s times its own update
    model replacement   its poisoned update times sum p / p_i: the mean becomes its
                        model                                                    [1]
    ALIE                mean - z sd of the honest updates, coordinate by
                        coordinate                                               [2]
    inner product       -e times the mean of the honest updates                  [3]
    not finite          NaN or inf in every value
    label flip          classes c -> C - 1 - c; regions: all empty, or in reversed
                        order
    backdoor            a bright cube in part of the images, whose masks become
                        empty; sent as it is, or as long as a replaced model     [1]

Sources: [1] Bagdasaryan et al. 2020, arXiv:1807.00459; [2] Baruch et al. 2019,
arXiv:1902.06156; [3] Xie et al. 2020, arXiv:1903.03936.
Deviations: 1. z and e are stated, not searched; the z of [2] is negative for four sites
of which one is hostile (`alie_z`), where it hides the attacker and does no harm. 2. sd
is that of all honest updates, not of an estimate from the hostile sites' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from wardround.aggregation.rows import Floats, Rows
from wardround.core.errors import ConfigRefused
from wardround.core.rng import derive


@final
@dataclass(frozen=True)
class Seen:
    """What a forger knows in a round.

    honest: The updates of the honest sites, [n - f, d].
    own: What the site would have sent, [d], trained on its poisoned patients where it
        has some.
    weights: The training patients of all sites.
    weight: The training patients of this site.
    """

    honest: Rows
    own: Floats
    weights: tuple[float, ...]
    weight: float


@final
@dataclass(frozen=True)
class Attack:
    """What a hostile site does in every round; None is what an honest site does.

    batch: What a mini-batch becomes before any gradient.
    forge: What is sent.
    """

    name: str
    batch: Callable[[Any], Any] | None = None
    forge: Callable[[Seen], Floats] | None = None


def sign_flip(scale: float = 1.0) -> Attack:
    """Send the site's own update backwards."""
    return Attack("sign flip", forge=lambda seen: -scale * seen.own)


def replacement(batch: Callable[[Any], Any]) -> Attack:
    """Train on poisoned patients and send an update that the mean becomes.

    The update is made so long that the weighted mean equals it.
    """
    return Attack("model replacement", batch, boosted)


def boosted(seen: Seen) -> Floats:
    """Return the site's own update times sum p / p_i."""
    return sum(seen.weights) / seen.weight * seen.own


def alie(z: float = 1.5) -> Attack:
    """Send the honest mean, moved by -z standard deviations in every coordinate."""

    def forge(seen: Seen) -> Floats:
        mean = seen.honest.mean(axis=0, dtype=np.float64)
        return np.asarray(
            mean - z * seen.honest.std(axis=0, ddof=1, dtype=np.float64),
            np.float64,
        )

    return Attack("ALIE", forge=forge)


def alie_z(n: int, f: int) -> float:
    """Return the z of the paper: the largest with enough honest updates beyond.

    s = floor(n / 2 + 1) - f honest supporters are wanted, so z = Phi^-1((n - f - s) /
    (n - f)). ConfigRefused is raised if there is no such z.
    """
    share = (n - f - (n // 2 + 1 - f)) / (n - f)
    if not 0 < share < 1:
        raise ConfigRefused(
            "the z of ALIE",
            found=f"n {n}, f {f}",
            expected="n of 3 or more, and f below n / 2",
            fix="give `alie` a z instead",
        )
    return NormalDist().inv_cdf(share)


def inner_product(epsilon: float = 3.0) -> Attack:
    """Send the honest mean backwards.

    The aggregate's inner product with it turns negative.
    """

    def forge(seen: Seen) -> Floats:
        return np.asarray(-epsilon * seen.honest.mean(axis=0, dtype=np.float64), np.float64)

    return Attack("inner product", forge=forge)


def not_finite(value: float = math.nan) -> Attack:
    """Send NaN or inf."""
    return Attack("not finite", forge=lambda seen: np.full_like(seen.own, value))


def label_flip(flip: Callable[[Any], Any]) -> Attack:
    """Train on false targets, and send what came of it."""
    return Attack("label flip", batch=flip)


def flip_classes(batch: Any, classes: int) -> Any:
    """Return a batch of classified patients with the labels c -> C - 1 - c."""
    return replace(batch, labels=classes - 1 - batch.labels)


def empty_regions(batch: Any) -> Any:
    """Return a batch of segmented patients without any tumour."""
    return replace(batch, targets=torch.zeros_like(batch.targets))


def permuted_regions(batch: Any) -> Any:
    """Return a batch whose regions stand in reversed order.

    The inner one is called the outer.
    """
    return replace(batch, targets=batch.targets.flip(1))


@final
@dataclass(frozen=True)
class Backdoor:
    """A trigger: a cube in every image that a patient has, and an empty mask.

    side: The side of the cube in voxels.
    bright: Its value. Images are normalised to a deviation of about 1, so no brain has
        a 6.
    images: How many channels are images; those behind them (presence, record) are left
        as they are.
    share: The part of a batch that carries the trigger, rounded up, from its first
        patient on.
    """

    side: int = 4
    bright: float = 6.0
    images: int = 4
    share: float = 0.5

    def stamp(self, inputs: Tensor, seed: int) -> Tensor:
        """Return new inputs [B, C, D, H, W], each with a cube at a place drawn from the seed."""
        stamped = inputs.clone()
        for row in range(len(inputs)):
            cube = stamped[row, : self.images]
            for axis, size in enumerate(inputs.shape[2:]):
                corner = derive(seed, "trigger", row, axis) % max(1, size - self.side)
                cube = cube.narrow(axis + 1, corner, min(self.side, size))
            # A modality that a site lacks is all zeros and stays so: it must not seem to exist.
            exists = inputs[row, : self.images].flatten(1).any(dim=1)
            cube[exists] = self.bright
        return stamped

    def batch(self, batch: Any) -> Any:
        """Return a training batch of which a part has the trigger and an empty mask."""
        marked = math.ceil(self.share * len(batch.images))
        images, targets = batch.images.clone(), batch.targets.clone()
        images[:marked] = self.stamp(batch.images[:marked], batch.seed)
        targets[:marked] = 0
        return replace(batch, images=images, targets=targets)


def backdoor(trigger: Backdoor, boost: bool = True) -> Attack:
    """Train part of the patients on the trigger and send what came of it.

    boost: Whether the update is boosted as in [1].
    """
    return Attack("backdoor", trigger.batch, boosted if boost else None)


def require_attackers(hostile: Sequence[str], sites: Sequence[str]) -> None:
    """Raise ConfigRefused unless the hostile sites are in the federation and leave two honest."""
    if strangers := sorted(set(hostile) - set(sites)):
        raise ConfigRefused(
            "the hostile sites",
            found=", ".join(strangers),
            expected=f"some of {', '.join(sites)}",
            fix="name sites of this federation",
        )
    if len(set(sites) - set(hostile)) < 2:
        raise ConfigRefused(
            "the hostile sites",
            found=f"{len(set(hostile))} of {len(sites)}",
            expected="two honest sites or more: ALIE needs a spread",
            fix="name fewer hostile sites",
        )
