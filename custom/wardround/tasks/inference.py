"""How does a whole volume go through a network?

1. The volume is cropped to the box of its voxels that are not 0 in all images; outside
    it logits are BACKGROUND.
2. The box is covered by windows of `patch` voxels with `overlap`, and logits are
    averaged with Gaussian weights. An axis shorter than the window is padded with zeros
    on both sides, and the padding is cut off again. With patch=None one window
    surrounds the box, with every axis padded to a multiple of MULTIPLE.
3. Where a task asks for it (`mirrored`), the box is predicted in several mirror images,
   and their logits, mirrored back, are averaged: 4 images over the first two axes, 8
   over all three.
4. A single small window on a CPU is computed beside a copy of itself, because PyTorch
    is slow at single small volumes.
5. In a blend (models/blend.py) every member goes through 1. to 4. by itself, and the
   mean of the probabilities is taken voxel by voxel afterwards.

A norm sees one window, so a patch and None give different numbers. None is 2 to 3 times
cheaper (no overlap), but its norm statistics are not those of training patches: compare
Dice on validation patients before choosing it. `batch` and the device change the speed,
not the result beyond rounding.

Source: Isensee et al. 2021 (nnU-Net's mirroring at test time).
Deviations: 1. Logits are averaged, not probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround.models.blend import Blended, mixed_regions
from wardround.tasks.boxes import bounding_box
from wardround.tasks.covering import slide
from wardround.tasks.inputs import network_input
from wardround.tasks.regions import Regions
from wardround.tasks.task import MIRRORED

# A logit of -20 is a probability of 2e-9: no threshold in use calls it foreground.
BACKGROUND = -20.0
# Fits every network that halves a side up to four times.
MULTIPLE = 16
# Voxels up to which computing a copy beside a window is faster than the window alone.
PAIRED_UP_TO = 64**3


def predict_logits(
    module: nn.Module,
    image: NDArray[np.float32],
    present: NDArray[np.bool_],
    patch: Sequence[int] | None,
    device: str | torch.device,
    regions: int,
    overlap: float = 0.25,
    batch: int = 4,
    record: NDArray[np.float32] | None = None,
    mirrored: int = 1,
) -> NDArray[np.float32]:
    """Return logits, float32 [R, H, W, D], with R = `regions`.

    image: The images [C, H, W, D] of any float type.
    present: Which images exist, bool [C].
    patch: The window size, multiples of the network's divisor, or None.
    batch: The number of windows at a time.
    record: The patient's record, float32 [2 F], the same in every window; None for a
        network without one.
    mirrored: How many mirror images are averaged, a key of MIRRORED; 1 is the case as
        it is alone.

    An image of zeros only gives BACKGROUND everywhere, and the network is not run. The
    module returns in the mode it was in.
    """
    if isinstance(module, Blended):
        given = (image, present, patch, device, regions, overlap, batch, record, mirrored)
        return mixed_logits([predict_logits(member, *given) for member in module.members], module.shares)
    logits = np.full((regions, *image.shape[1:]), BACKGROUND, np.float32)
    inside = np.any(image != 0, axis=0)
    if not inside.any():
        return logits
    box = bounding_box(inside)
    crop = torch.from_numpy(
        np.ascontiguousarray(image[(slice(None), *box)], np.float32),
    )[None].to(device)
    flags = torch.from_numpy(np.asarray(present, bool)).to(device)
    table = None if record is None else torch.from_numpy(record).to(device)
    window = patch if patch is not None else [-(-n // MULTIPLE) * MULTIPLE for n in crop.shape[2:]]
    # Restored one by one: a caller may have frozen single parts in evaluation mode.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.inference_mode():
            found = _averaged(
                lambda images: _slide(module, images, flags, table, window, overlap, batch), crop, mirrored
            )
    finally:
        for part, mode in modes.items():
            part.training = mode
    logits[(slice(None), *box)] = found[0].float().cpu().numpy()
    return logits


def predict_regions(
    module: nn.Module,
    image: NDArray[np.float32],
    present: NDArray[np.bool_],
    patch: Sequence[int] | None,
    device: str | torch.device,
    regions: Regions,
    overlap: float = 0.25,
    batch: int = 4,
    record: NDArray[np.float32] | None = None,
    mirrored: int = 1,
) -> NDArray[np.bool_]:
    """Return bool [R, H, W, D] in the order of the regions.

    A region is where the sigmoid is above 0.5; inner regions are then cut back to outer
    ones. Arguments and edge cases are those of predict_logits. If the masks of training
    told some regions only, only those mean something.
    """
    many = len(regions.names)
    logits = predict_logits(module, image, present, patch, device, many, overlap, batch, record, mirrored)
    return regions.nested(logits > 0)


def _averaged(predict: Callable[[Tensor], Tensor], crop: Tensor, mirrored: int) -> Tensor:
    """Return the mean of the logits of so many mirror images of a crop [1, C, H, W, D]."""
    found = predict(crop)
    axes = range(2, 2 + MIRRORED[mirrored])
    # Always in one order, on which the last bits of the sum depend.
    for flips in (flips for number in range(1, len(axes) + 1) for flips in combinations(axes, number)):
        found = found + predict(crop.flip(flips)).flip(flips)
    return found / mirrored if mirrored > 1 else found


def mixed_logits(logits: Sequence[NDArray[np.float32]], shares: Sequence[float]) -> NDArray[np.float32]:
    """Return the logits [R, H, W, D] of the mean probabilities of several networks.

    logits: What predict_logits returned for each network and the same case.
    shares: One for each, above 0, with the sum 1; otherwise ConfigRefused is raised, as
        for logits of different shapes.
    """
    found: NDArray[np.float32] = mixed_regions([torch.from_numpy(one) for one in logits], shares).numpy()
    return found


def _slide(
    module: nn.Module,
    crop: Tensor,
    flags: Tensor,
    table: Tensor | None,
    window: Sequence[int],
    overlap: float,
    batch: int,
) -> Tensor:
    def forward(windows: Tensor) -> Tensor:
        inputs = network_input(windows, flags, table)
        small = inputs[0, 0].numel() <= PAIRED_UP_TO
        if len(inputs) == 1 and small and inputs.device.type == "cpu":
            pair = torch.cat([inputs, inputs]).contiguous(memory_format=torch.channels_last_3d)
            return module(pair)[:1]  # type: ignore[no-any-return]
        return module(inputs)  # type: ignore[no-any-return]

    return slide(crop, window, overlap, batch, forward)
