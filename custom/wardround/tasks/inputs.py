"""Floor 2: what a network is shown: four images, four constant channels that tell which of them exist, and the record.

A record of F numbers is 2 F more constant channels: values, then known flags (models/film.py reads them at one voxel).
They are put beside a patch or window after it was cut, padded and augmented, so nothing of that reaches them.
"""

from __future__ import annotations

import torch
from torch import Tensor

IMAGES = 8


def network_input(images: Tensor, present: Tensor, record: Tensor | None = None) -> Tensor:
    """Return [B, 8 + 2 F, D, H, W] in channels_last_3d: images [B, 4, D, H, W], 1 or 0 from present [B, 4] or [4], then
    the record [B, 2 F] or [2 F]; None: no such channels.
    """
    columns = 0 if record is None else record.shape[-1]
    result = torch.empty(
        (len(images), IMAGES + columns, *images.shape[2:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last_3d,
    )
    result[:, :4] = images
    result[:, 4:IMAGES] = present.to(images)[..., None, None, None]
    if record is not None:
        result[:, IMAGES:] = record.to(images)[..., None, None, None]
    return result
