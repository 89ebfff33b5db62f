"""MONAI's residual 3D U-Net without MONAI's package.

Importing `monai` imports all of it: 4 to 6 s on a slow core, more than torch itself. The
simulator without `-t` starts a process for every task, so every round of every hospital
would pay for it. This is therefore the same network from torch's own layers: the same
names, the same first weights from the same seed, the same outputs, bit for bit. A test
compares it with `monai.networks.nets.UNet`, whose weights files and bundles it reads and
writes.

Sources: Cicek et al. 2016, arXiv:1606.06650; Kerfoot et al. 2018 (residual units).
MONAI's `UNet`, `ResidualUnit`, `Convolution` and `SkipConnection` (Apache License 2.0).
Deviations: three dimensions, kernels of 3, strides of 2, PReLU and affine instance norms
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

KERNEL = 3
STRIDE = 2


class Skip(nn.Module):
    """Return [x, submodule(x)], joined along the channels."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.submodule(x)], dim=1)


class ResidualUnit(nn.Module):
    """Return conv(x) + residual(x): a chain of convolutions beside a shortcut.

    The first convolution of the chain changes size and channels. The shortcut is a
    convolution where it must change them too, with a kernel of 1 where the size stays.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        units: int,
        dropout: float,
        *,
        last_bare: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        # Registered before it is known: the order of modules is MONAI's.
        self.residual: nn.Module = nn.Identity()
        for unit in range(units):
            first = unit == 0
            bare = last_bare and unit == units - 1
            part = convolution(inputs if first else outputs, outputs, stride if first else 1, dropout, bare=bare)
            self.conv.add_module(f"unit{unit}", part)
        # Drawn after the chain: the first weights depend on the order.
        if stride != 1:
            self.residual = nn.Conv3d(inputs, outputs, KERNEL, stride, KERNEL // 2)
        elif inputs != outputs:
            self.residual = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.residual(x)
        found: Tensor = self.conv(x)
        return found + shortcut


@final
class UNet(nn.Module):
    """A U-Net for [B, inputs, D, H, W], with [B, outputs, D, H, W] logits.

    channels: The width of each level, at least two of them. Sizes are halved between
        levels, so every side must be a multiple of 2 ** (levels - 1).
    residual_units: Convolutions of a residual unit; 0 for plain convolutions.

    Its class name and its parts' names are MONAI's, because fingerprints and weights
    files hold them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: Sequence[int],
        residual_units: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self._units = residual_units
        self._dropout = dropout
        self.model = self._level(inputs, outputs, channels, top=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found

    def _level(self, inputs: int, outputs: int, channels: Sequence[int], *, top: bool) -> nn.Sequential:
        """Return one level with all below it. The lowest is drawn first, as by MONAI."""
        width, deeper = channels[0], channels[1]
        below: nn.Module
        if len(channels) > 2:
            below, joined = self._level(width, width, channels[1:], top=False), 2 * width
        else:
            below, joined = self._down(width, deeper, 1), width + deeper
        down = self._down(inputs, width, STRIDE)
        up = self._up(joined, outputs, top=top)
        return nn.Sequential(down, Skip(below), up)

    def _down(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        if self._units:
            return ResidualUnit(inputs, outputs, stride, self._units, self._dropout)
        return convolution(inputs, outputs, stride, self._dropout)

    def _up(self, inputs: int, outputs: int, *, top: bool) -> nn.Module:
        """Return the way up. The last layer of the network is a bare convolution."""
        bare = top and not self._units
        larger = convolution(inputs, outputs, STRIDE, self._dropout, bare=bare, transposed=True)
        if not self._units:
            return larger
        return nn.Sequential(larger, ResidualUnit(outputs, outputs, 1, 1, self._dropout, last_bare=top))


def convolution(
    inputs: int,
    outputs: int,
    stride: int,
    dropout: float,
    *,
    bare: bool = False,
    transposed: bool = False,
) -> nn.Sequential:
    """Return a convolution (`conv`), followed by norm, dropout and PReLU (`adn`).

    bare: Without what follows it.
    transposed: Sizes are multiplied by the stride instead of divided.
    """
    made = nn.Sequential()
    if transposed:
        padding, more = KERNEL // 2, stride - 1
        made.add_module("conv", nn.ConvTranspose3d(inputs, outputs, KERNEL, stride, padding, more))
    else:
        made.add_module("conv", nn.Conv3d(inputs, outputs, KERNEL, stride, KERNEL // 2))
    if bare:
        return made
    after = nn.Sequential()
    after.add_module("N", nn.InstanceNorm3d(outputs, affine=True))
    after.add_module("D", nn.Dropout(dropout))
    after.add_module("A", nn.PReLU())
    made.add_module("adn", after)
    return made
