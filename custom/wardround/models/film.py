"""How does the U-Net read a patient's table columns? They scale and shift features.

The columns act at the lowest level of the U-Net (FiLM). They travel as 2 F constant
channels behind those of the images, values then known flags, and are read at one voxel:
a patch of a patient carries them whole. An unknown value counts as 0, whatever stands
there; if nothing is known at all, everybody gets the same scale and shift. The last
layer of the branch starts at zero, so the network starts as the U-Net without columns,
with the same weights under the same names.

Source: Perez et al. 2018, arXiv:1709.07871 (FiLM).
Deviations: 1. It acts at the lowest level only. 2. The scale is 1 + s.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

# Wide enough for the few columns of a record.
HIDDEN = 32


@final
class FilmUNet(nn.Module):
    """MONAI's UNet with columns, for [B, images + 2 columns, D, H, W].

    It takes over the UNet's `model`, so that parameters keep their names.
    """

    def __init__(self, unet: Any, levels: int, width: int, columns: int) -> None:
        super().__init__()
        self.model = unet.model
        last = nn.Linear(HIDDEN, 2 * width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.film = nn.Sequential(nn.Linear(2 * columns, HIDDEN), nn.GELU(), last)
        self.levels, self.columns = levels, columns

    def forward(self, x: Tensor) -> Tensor:
        images, table = x[:, : -2 * self.columns], x[:, -2 * self.columns :, 0, 0, 0]
        values, known = table.chunk(2, 1)
        # Not multiplied by the flag: NaN times 0 would stay NaN.
        has = known > 0
        scale, shift = self.film(
            torch.cat([torch.where(has, values, 0.0), has.to(x.dtype)], 1),
        ).chunk(2, 1)
        return self._level(
            self.model,
            images,
            1,
            1 + scale[..., None, None, None],
            shift[..., None, None, None],
        )

    def _level(self, part: Any, x: Tensor, level: int, scale: Tensor, shift: Tensor) -> Tensor:
        """Return the output of one level and all below it.

        The nesting is MONAI's: down, what is below beside a skip connection, up; the
        lowest level is one block.
        """
        if level == self.levels:
            return part(x) * scale + shift  # type: ignore[no-any-return]
        down, skip, up = part
        high = down(x)
        low = self._level(skip.submodule, high, level + 1, scale, shift)
        return up(torch.cat([high, low], 1))  # type: ignore[no-any-return]
