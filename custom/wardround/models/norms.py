"""How do other norms become GroupNorm? The reason is in nets.py."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["instance", "group"]
# The usual number of groups in MONAI's SegResNet.
MAX_GROUPS = 8
AFFINE_INSTANCE = ("instance", {"affine": True})


def with_group_norms(network: nn.Module, norm: Norm) -> nn.Module:
    """Return the network, in which every InstanceNorm3d has become a GroupNorm.

    It is changed in place, and scales and shifts are kept. "instance" takes one group
    per channel; "group" takes as many groups as divide the channels, MAX_GROUPS at
    most. Without an InstanceNorm3d nothing happens.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            made = new_group_norm(child.num_features, norm, child.eps)
            made.load_state_dict(child.state_dict())
            setattr(network, name, made)
        else:
            with_group_norms(child, norm)
    return network


def without_batch_norms(network: nn.Module, norm: Norm) -> nn.Module:
    """Return the network, in which every BatchNorm has become a fresh GroupNorm.

    It is changed in place. Every number of dimensions is covered.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, new_group_norm(child.num_features, norm, child.eps))
        else:
            without_batch_norms(child, norm)
    return network


def new_group_norm(width: int, norm: Norm, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a GroupNorm for so many channels, in as many groups as `norm` says."""
    largest = max(groups for groups in range(1, MAX_GROUPS + 1) if width % groups == 0)
    return nn.GroupNorm(width if norm == "instance" else largest, width, eps=eps)
