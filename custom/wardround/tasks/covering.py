"""How does a network see a volume that is larger than its window?

The result is that of MONAI's `sliding_window_inference` with Gaussian weights, bit for
bit (a test compares them). It is computed here because importing `monai` imports all of
it: 4 to 6 s, in every process of every task (models/monai_unet.py).

Source: MONAI, `inferers/utils.py` (Apache License 2.0).
Deviations: one volume of three dimensions, an output of the window's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

Window = tuple[slice, slice, slice]
# The standard deviation of the weights, as a share of the window's side.
SIGMA = 0.125
# No weight below this: the corners of a window still count.
LEAST_WEIGHT = 1e-3


def slide(
    volume: Tensor,
    window: Sequence[int],
    overlap: float,
    batch: int,
    forward: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the outputs of `forward`, [1, R, H, W, D], for a volume [1, C, H, W, D].

    window: The sides of a window. Where the volume is smaller, it is padded with zeros
        on both sides, and the padding is cut off again.
    overlap: The share of a window that the next one covers too, from 0 to below 1.
    batch: The number of windows at a time.
    forward: Returns [B, R, *window] for windows [B, C, *window].

    Overlapping outputs are averaged with Gaussian weights.
    """
    sides = volume.shape[2:]
    short = [max(wide - side, 0) for wide, side in zip(window, sides, strict=True)]
    before = [lack // 2 for lack in short]
    if any(short):
        # torch counts axes from the last one.
        pad = [n for lack, half in zip(reversed(short), reversed(before), strict=True) for n in (half, lack - half)]
        volume = functional.pad(volume, pad)
    places = windows_of(volume.shape[2:], window, overlap)
    weight = gaussian(window, volume)
    # As large as the network's outputs, which the first windows show.
    total = volume.new_zeros(0)
    for first in range(0, len(places), batch):
        here = places[first : first + batch]
        found = forward(torch.cat([volume[(slice(None), slice(None), *place)] for place in here]))
        found *= weight
        if first == 0:
            total = volume.new_zeros((1, found.shape[1], *volume.shape[2:]))
        for place, one in zip(here, found, strict=True):
            total[(0, slice(None), *place)] += one
    weights = volume.new_zeros((1, 1, *volume.shape[2:]))
    for place in places:
        weights[(slice(None), slice(None), *place)] += weight
    total /= weights
    return total[(slice(None), slice(None), *(slice(n, n + side) for n, side in zip(before, sides, strict=True)))]


def windows_of(sides: Sequence[int], window: Sequence[int], overlap: float) -> list[Window]:
    """Return the windows that cover a volume, the last axis changing fastest.

    The last window of an axis ends where the volume ends.
    """
    starts = []
    for side, wide in zip(sides, window, strict=True):
        step = wide if side == wide else max(int(wide * (1 - overlap)), 1)
        count = -(-max(side - wide, 0) // step) + 1
        starts.append([min(i * step, side - wide) for i in range(count)])
    x, y, z = window
    return [(slice(a, a + x), slice(b, b + y), slice(c, c + z)) for a, b, c in product(*starts)]


def gaussian(window: Sequence[int], like: Tensor) -> Tensor:
    """Return the weights of a window, [1, 1, *window], largest in its centre.

    like: A tensor of the weights' type and device.
    """
    lines = []
    for wide in window:
        x = torch.arange(-(wide - 1) / 2.0, (wide - 1) / 2.0 + 1, dtype=torch.float, device=like.device)
        lines.append(torch.exp(x**2 / (-2 * (wide * SIGMA) ** 2)))
    a, b, c = lines
    weight = (a[:, None] * b)[..., None] * c
    least = max(float(weight.min()), LEAST_WEIGHT)
    return weight.clamp(min=least).to(like.dtype)[None, None]
