"""How is a patch rotated and zoomed, its image and its targets alike?

Both happen in the plane of the first two spatial axes, which a patch of thick slices
and one of cubes have alike: one grid per patch serves all its slices, images and
regions. Images are interpolated linearly; a target is that of the nearest voxel, so it
stays 0 or 1, and inner regions stay inside outer ones. What lies beyond the patch is
the patch reflected at its border.

Source: Isensee et al. 2021 (nnU-Net's rotation and scaling, of a fifth of the patches).
Deviations: 1. Only in the plane, as nnU-Net does for thick slices. 2. Voxels are taken
to be square in this plane. 3. The patch is turned after it was cut out, which is why
something must stand beyond its border.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def in_plane(cos: Tensor, sin: Tensor, x: int, y: int) -> Tensor:
    """Return [B, 2, 3], as `affine_grid` takes it, that turns planes of x rows and y
    columns about their middle.

    cos, sin: [B], of the angle and divided by the zoom; a positive angle turns the
        first axis towards the second.
    """
    zero = torch.zeros_like(cos)
    # Where a pixel of the result comes from, in grid_sample's units: half a side is 1
    # on each axis, and the last axis stands first. So this turns pixels, not sides.
    rows = torch.stack([cos, -sin * x / y, zero]), torch.stack([sin * y / x, cos, zero])
    return torch.stack(rows).permute(2, 0, 1)


def turned(
    images: Tensor,
    targets: Tensor,
    angles: Tensor,
    zooms: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (images [B, C, X, Y, Z], targets [B, R, X, Y, Z]) about the patch's centre.

    angles: [B], in radians; a positive one turns the first axis towards the second.
    zooms: [B], above 0; 2 shows everything twice as large.

    The results are new tensors of the types given.
    """
    (b, c, x, y, z), regions = images.shape, targets.shape[1]
    cos, sin = torch.cos(angles) / zooms, torch.sin(angles) / zooms
    grid = affine_grid(in_plane(cos, sin, x, y), [b, 1, x, y], align_corners=False)

    def sampled(volumes: Tensor, channels: int, mode: str) -> Tensor:
        # The slices become channels: they all share the grid.
        flat = volumes.to(grid.dtype).permute(0, 1, 4, 2, 3).reshape(b, channels * z, x, y)
        found = grid_sample(flat, grid, mode=mode, padding_mode="reflection", align_corners=False)
        return found.reshape(b, channels, z, x, y).permute(0, 1, 3, 4, 2).to(volumes.dtype)

    return sampled(images, c, "bilinear"), sampled(targets, regions, "nearest")
