"""What is a network given? Images, flags of which exist, and the record.

C images come with C constant channels of flags. A record of F numbers is 2 F more
constant channels: values, then known flags (models/film.py reads them at one voxel).
They are put beside a patch or window after it was cut, padded and augmented, so that
none of this changes them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def network_input(images: Tensor, present: Tensor, record: Tensor | None = None) -> Tensor:
    """Return the network's input, [B, 2 C + 2 F, D, H, W] in channels_last_3d.

    images: The images [B, C, D, H, W].
    present: 1 or 0 for each image, [B, C] or [C].
    record: The record, [B, 2 F] or [2 F]; None adds no channels.
    """
    many = images.shape[1]
    columns = 0 if record is None else record.shape[-1]
    result = torch.empty(
        (len(images), 2 * many + columns, *images.shape[2:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last_3d,
    )
    result[:, :many] = images
    result[:, many : 2 * many] = present.to(images)[..., None, None, None]
    if record is not None:
        result[:, 2 * many :] = record.to(images)[..., None, None, None]
    return result
