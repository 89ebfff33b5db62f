"""How does every convolution get a low-rank adapter, which a federation can share?

An adapter is a small trainable correction inside a convolution. The layer computes with
W + up down instead of W, which is conv(x) + up(down(x)): `down` [rank, in, kernel] is a
convolution to `rank` channels, public and fixed; `up` [out, rank] is a parameter and
starts at zero. What is trained is linear in the correction, so noise on it is not
multiplied by noise, and an average of corrections is the correction of the average. W
and its bias keep their names: weights of the same network without adapters fit.

`down` is drawn from the layer's place in the network, whatever the job's seed. It
consists of numbers of PCG64, which numpy promises not to change, multiplied and rounded
as IEEE 754 says, so every machine has the same bits. They are part of the fingerprint,
and `is_as_drawn` distinguishes them from a buffer that has drifted.

Every Conv3d and ConvTranspose3d has an adapter, the head's too (transposed: fan-in is
what one voxel of the output sees). A grouped convolution, or a class of its own, stays
as it is. A rank above a layer's channels is allowed, and wasted there.

Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Sun et al. 2024, arXiv:2403.12313
(FFA-LoRA: `down` is not trained).
Deviations: 1. The layers are convolutions, and the correction is added to the kernel (a
step of the U-Net takes about 1.04 times the time). 2. `down` is uniform with variance 1
/ fan-in, the same in every job. 3. There is no factor alpha / rank: it is part of the
learning rate. 4. The other weights may be trained too: algorithms choose by role
(roles.py).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.core.arrays import Array
from wardround.core.rng import stream

# Fixed for ever: another seed would change every adapter, and the fingerprint of every
# network that has one.
SEED = 0


class AdaptedConv3d(nn.Conv3d):
    """A Conv3d with an adapter; `adapt` makes it of a plain one."""

    up: nn.Parameter
    down: Tensor
    place: str

    @property
    def down_digest(self) -> str:
        return _digest(self.down)

    def forward(self, input: Tensor) -> Tensor:
        kernel = self.weight + correction(self)
        return self._conv_forward(input, kernel, self.bias)  # type: ignore[no-any-return]


class AdaptedConvTranspose3d(nn.ConvTranspose3d):
    """A ConvTranspose3d with an adapter, without output_size.

    `adapt` makes it of a plain one.
    """

    up: nn.Parameter
    down: Tensor
    place: str

    @property
    def down_digest(self) -> str:
        return _digest(self.down)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return functional.conv_transpose3d(
            input,
            self.weight + correction(self),
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )


Adapted = AdaptedConv3d | AdaptedConvTranspose3d
_KINDS: dict[type, type[Adapted]] = {
    nn.Conv3d: AdaptedConv3d,
    nn.ConvTranspose3d: AdaptedConvTranspose3d,
}


def adapt(module: nn.Module, rank: int) -> None:
    """Give every convolution an adapter, in place.

    What the network computes stays the same, bit for bit, because `up` is zero. With
    rank 0 nothing happens. Random states are not touched. Weights must be float32 on
    the CPU, as `build` makes them.
    """
    for place, part in module.named_modules():
        if rank and type(part) in _KINDS and part.groups == 1:
            part.__class__ = _KINDS[type(part)]  # in place, as torch's own parametrize does: names and order stay
            if isinstance(part, Adapted):
                part.place = place
                part.up = nn.Parameter(torch.zeros(part.out_channels, rank))
                part.register_buffer("down", torch.from_numpy(_draw(part)), persistent=False)


def correction(part: Adapted) -> Tensor:
    """Return up down in the shape of the weight, float32 inside autocast too."""
    with torch.autocast(part.up.device.type, enabled=False):
        kernel = (part.up @ part.down.flatten(1)).view(-1, *part.down.shape[1:])
    return kernel.transpose(0, 1) if isinstance(part, nn.ConvTranspose3d) else kernel


def up_gradients(part: Adapted, weight_gradients: Tensor) -> Tensor:
    """Return [S, *up.shape] from [S, *weight.shape], the kernel's gradients.

    It is computed by products and sums. A matrix product takes other steps for another
    S, so the bits of one sample would depend on the others.
    """
    swapped = isinstance(part, nn.ConvTranspose3d)
    kernels = (weight_gradients.transpose(1, 2) if swapped else weight_gradients).flatten(2)
    return torch.stack([(kernels * row).sum(2) for row in part.down.flatten(1)], 2)


def is_as_drawn(part: Adapted) -> bool:
    """Return whether `down` still holds, bit for bit, what the layer's place draws.

    If so, it has not been trained, cast or replaced.
    """
    drawn = torch.from_numpy(_draw(part))
    return part.down.dtype == drawn.dtype and torch.equal(part.down.detach().cpu(), drawn)


def _draw(part: Adapted) -> Array:
    shape = (part.up.shape[1], part.in_channels, *part.kernel_size)
    fan_in = math.prod(shape[1:]) / (math.prod(part.stride) if isinstance(part, nn.ConvTranspose3d) else 1)
    raw = stream(SEED, "adapter", part.place).bit_generator.random_raw(math.prod(shape))
    # 53 random bits become a float64 in [-1, 1), without a function of numpy's that may
    # change.
    unit = (np.asarray(raw) >> np.uint64(11)) * 2.0**-52 - 1.0
    return (unit * math.sqrt(3 / fan_in)).astype(np.float32).reshape(shape)


def _digest(down: Tensor) -> str:
    return hashlib.sha256(down.detach().cpu().numpy().astype("<f4").tobytes()).hexdigest()[:16]
