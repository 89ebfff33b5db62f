"""Floor 2: what a network is shown: four images and four constant channels that tell which of them exist."""

from __future__ import annotations

import torch
from torch import Tensor


def network_input(images: Tensor, present: Tensor) -> Tensor:
    """Return [B, 8, D, H, W] in channels_last_3d: images [B, 4, D, H, W], then 1 or 0 from present [B, 4] or [4]."""
    result = torch.empty(
        (len(images), 8, *images.shape[2:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last_3d,
    )
    result[:, :4] = images
    result[:, 4:] = present.to(images)[..., None, None, None]
    return result
