"""How are several networks one? By the mean of their probabilities.

A blend of networks n with shares a_n (above 0, sum 1) has the probabilities
p = sum of a_n p_n. For regions p is a sigmoid for each voxel and region; for classes a
softmax over classes. Here p is written as a logit again, so that whoever thresholds at
0, or takes a softmax, needs not know that it is a blend:

    regions   logit p = log sum a_n s(x_n) - log sum a_n s(-x_n), s the sigmoid
    classes   log p

Both are computed from logarithms, so nothing over- or underflows. The mean of
probabilities, not of logits: it is the linear opinion pool (Stone 1961, Ann. Math.
Statist. 32), whose log loss is never above the mean log loss of its members.

A volume goes through in windows, whose logits are averaged for each member first; only
then is the mean of the members taken (tasks/inference.py). `Blended.forward` takes it
for the window it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.core.errors import ConfigRefused

# How far the sum of shares may be from 1: shares from a file are decimal numbers.
ROUNDING = 1e-6
# The names of the members, as they stand before the names of their parameters.
PARTS = ("own", "shared")


def mixed_regions(logits: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the logit of the mean probability of each voxel and region.

    logits: One tensor for each member, all of one shape.
    shares: Their shares, as `require_shares` wants them.

    ConfigRefused is raised for members of different shapes, and for other shares.
    """
    _require_alike(logits, shares)
    inside, outside = (
        torch.stack(
            [functional.logsigmoid(sign * one) + math.log(share) for one, share in zip(logits, shares, strict=True)],
        ).logsumexp(0)
        for sign in (1, -1)
    )
    return inside - outside


def mixed_classes(logits: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the logarithm of the mean class probabilities [B, C].

    Its softmax is that mean. Arguments and refusals are those of `mixed_regions`.
    """
    _require_alike(logits, shares)
    return torch.stack(
        [functional.log_softmax(one, 1) + math.log(share) for one, share in zip(logits, shares, strict=True)],
    ).logsumexp(0)


def require_shares(shares: Sequence[float], members: int) -> None:
    """Raise ConfigRefused unless there is one share above 0 for each member, and their
    sum is 1.
    """
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in shares)
    if not (
        numbers
        and len(shares) == members >= 2
        and all(0 < one < 1 for one in shares)
        and abs(sum(shares) - 1) <= ROUNDING
    ):
        raise ConfigRefused(
            "the shares of a blend",
            found=f"{list(shares)} for {members} networks",
            expected="two networks or more, and for each a share above 0, with the sum 1",
            fix="for example shares 0.25 and 0.75 for two networks",
        )


def _require_alike(logits: Sequence[Tensor], shares: Sequence[float]) -> None:
    require_shares(shares, len(logits))
    shapes = {tuple(one.shape) for one in logits}
    if len(shapes) != 1:
        raise ConfigRefused(
            "the members of a blend",
            found=f"outputs of shapes {', '.join(map(str, sorted(shapes)))}",
            expected="outputs of one shape: the same cases, regions and classes",
            fix="blend networks of one architecture and one task, on the same cases",
        )


class Blended(nn.Module):
    """Two networks of one architecture as one network.

    Its parameters are `own.NAME` and `shared.NAME`.
    share: The share of `own`, above 0 and below 1; `shared` has the rest.
    exclusive: Whether outputs are classes (softmax) instead of regions (sigmoid).
    """

    def __init__(self, own: nn.Module, shared: nn.Module, share: float, exclusive: bool = False) -> None:
        super().__init__()
        require_shares((share, 1 - share), 2)
        self.own = own
        self.shared = shared
        self.share = float(share)
        self.exclusive = exclusive
        # The share changes the function and shows in no shape, so it belongs to the
        # fingerprint; so do the signatures of what is inside.
        inside = getattr(own, "signature", "")
        self.signature = f"own {self.share:.6g}, {'classes' if exclusive else 'regions'}; {inside}"

    @property
    def members(self) -> tuple[nn.Module, nn.Module]:
        return self.own, self.shared

    @property
    def shares(self) -> tuple[float, float]:
        return self.share, 1 - self.share

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the mean probabilities, of the shape of one member's."""
        mixed = mixed_classes if self.exclusive else mixed_regions
        return mixed([member(images) for member in self.members], self.shares)


@final
@dataclass(frozen=True)
class Blend:
    """Settings of a blend: the architecture of both members, and the share of `own`.

    network: The settings of one member.
    share: Above 0 and below 1; otherwise ConfigRefused is raised.
    exclusive: As in Blended.
    """

    network: Any
    share: float
    exclusive: bool = False

    def __post_init__(self) -> None:
        require_shares((self.share, 1 - self.share) if _is_number(self.share) else (), 2)

    @property
    def divisor(self) -> int:
        """The number of which every spatial size of an input must be a multiple."""
        return int(getattr(self.network, "divisor", 1))

    @property
    def ehr_columns(self) -> int:
        """How many numbers of a record each member reads."""
        return int(getattr(self.network, "ehr_columns", 0))

    @property
    def norm(self) -> str:
        """The norms of each member."""
        return str(getattr(self.network, "norm", "as built"))

    def build(self, seed: int) -> Blended:
        """Return both members, built from the same seed, as one network."""
        return Blended(self.network.build(seed), self.network.build(seed), self.share, self.exclusive)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
