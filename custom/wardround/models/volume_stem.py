"""How does a volume become tokens? As tubelets: some planes by some pixels.

All tokens of a volume go through one trunk. The patch embedding is a convolution over
depth, height and width whose stride is its kernel. A token's position is the sum of its
place in the plane, which is the 2D network's, and its depth: one vector each, so D
planes cost D / t vectors. With one plane and tubelets of one plane this is the 2D stem,
number for number.

Sources: Arnab et al. 2021, arXiv:2103.15691 (tubelet embedding; kernels of a 2D file
repeated over depth and divided by its length, as Carreira and Zisserman 2017,
arXiv:1705.07750).
Deviations: 1. Positions are factorised into plane and depth, not repeated for every
depth.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from wardround.models.vectors import AddVector


@final
class VolumeStem(nn.Module):
    """Volumes [R, 1, D, H, W] to tokens [R, D/t * H/p * W/p, width], depth slowest.

    flat: timm's patch embedding.
    tubelet: t, the planes of a patch.
    inflate: Whether kernels are those of `flat`, spread over depth (weights of a file);
        otherwise they are freshly drawn.
    """

    def __init__(self, flat: Any, tubelet: int, inflate: bool) -> None:
        super().__init__()
        size = (tubelet, *flat.patch_size)
        width, bias = flat.proj.out_channels, flat.proj.bias is not None
        self.proj = nn.Conv3d(1, width, size, size, bias=bias)
        self.norm = flat.norm
        if inflate:
            # Divided by the depth: a volume that is constant over it gives the 2D
            # stem's tokens.
            kernels = flat.proj.weight.detach()[:, :, None] / tubelet
            self.proj.weight.data.copy_(kernels.expand_as(self.proj.weight))
            if self.proj.bias is not None:
                self.proj.bias.data.copy_(flat.proj.bias.detach())

    def forward(self, volumes: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(volumes).flatten(2).transpose(1, 2))
        return tokens


@final
class VolumePositions(nn.Module):
    """Returns tokens [R, T * N, D] plus positions in the plane and in depth.

    plane: [1, 1, N, D].
    depth: [1, T, 1, D]; with T = 1 there is no depth.
    """

    def __init__(self, plane: Tensor, depth: Tensor) -> None:
        super().__init__()
        self.plane = AddVector(plane[:, None])
        self.depth = AddVector(depth) if depth.shape[1] > 1 else nn.Identity()
        self.layers = depth.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        placed: Tensor = self.depth(
            self.plane(tokens.reshape(len(tokens), self.layers, -1, tokens.shape[-1])),
        )
        return placed.flatten(1, 2)
