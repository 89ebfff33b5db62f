"""Floor 2: instance norms as GroupNorm: why, see nets.py."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["instance", "group"]
MAX_GROUPS = 8
AFFINE_INSTANCE = ("instance", {"affine": True})


def with_group_norms(network: nn.Module, norm: Norm) -> nn.Module:
    """Return the network, in which every InstanceNorm3d has become a GroupNorm with its scale and shift, in place.

    instance: one group per channel | group: as many groups as divide the channels, MAX_GROUPS at most
    no InstanceNorm3d in it: nothing happens
    """
    for name, child in network.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            width = child.num_features
            largest = max(groups for groups in range(1, MAX_GROUPS + 1) if width % groups == 0)
            made = nn.GroupNorm(width if norm == "instance" else largest, width, eps=child.eps)
            made.load_state_dict(child.state_dict())
            setattr(network, name, made)
        else:
            with_group_norms(child, norm)
    return network
