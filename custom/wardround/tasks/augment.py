"""How is a batch of normalised MRI patches augmented?

Everything happens on the device of the images, from one generator. Images are z-scores
inside the brain (background exactly 0). In this order, drawn per patient, or also per
modality:

    drop    a present modality becomes zeros and its flag false; at least one stays
    flip    each spatial axis, images and targets alike
    turn    a share `turned` of the patients is rotated and zoomed in the plane, images
            and targets alike (turning.py)
    curve   z <- z + a z^2 / (1 + |z|): monotone for |a| < 1; it bends contrast like a
            gamma curve without a power
    bias    the raw intensity is multiplied by a smooth field f; with a brain mean
            OFFSET standard deviations above black this is
            z <- f (z + OFFSET) - OFFSET; f = exp(sum of a Legendre polynomial of
            degree 1 and 2 per axis)
    scale   z <- (1 + s) z
    shift   z <- z + t
    noise   z <- z + sigma n, n standard normal, for a share `noisy` of the patients
            (normal numbers are the expensive part)

Intensities change only where the image is not 0: background and missing modalities stay
exactly 0.

Sources: Isensee et al. 2021 (nnU-Net's list); Sudre et al. 2017 (polynomial bias field
in exp).
Deviations: 1. There is a curve in place of gamma, because z-scores are negative too. 2.
Rotation and zoom are off unless a task asks for them.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.tasks.turning import turned

# The mean of a brain lies about two standard deviations above black in MRI.
OFFSET = 2.0


@dataclass(frozen=True)
class Augment:
    """Probabilities and largest strengths of the augmentation.

    flip, drop, noisy, turned: Probabilities, from 0 to 1; drop is below 1.
    curve, scale, shift, bias, noise: The largest strength, from 0 to below 1. A
        strength is drawn uniformly up to it.
    rotate: The largest angle in degrees, up to 180; drawn uniformly in both directions.
    zoom: The largest enlargement, from 0 to below 1. The factor is drawn between
        1 / (1 + zoom) and 1 + zoom, its logarithm uniformly.

    Values outside these ranges raise ConfigRefused.
    """

    flip: float = 0.5
    curve: float = 0.3
    scale: float = 0.1
    shift: float = 0.1
    bias: float = 0.1
    noise: float = 0.15
    noisy: float = 0.25
    drop: float = 0.1
    turned: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        limits = (1, 0.99, 0.99, 0.99, 0.99, 0.99, 1, 0.99, 1, 180, 0.99)
        if not all(0 <= value <= limit for value, limit in zip(astuple(self), limits, strict=True)):
            raise ConfigRefused(
                "the augmentation",
                found=str(self),
                expected="probabilities in [0, 1], strengths and drop in [0, 1), rotate in [0, 180]",
                fix="set these fields of `task.augmentation` in the job's sampling",
            )

    @classmethod
    def none(cls) -> Augment:
        """Return the augmentation that changes nothing."""
        return cls(*([0.0] * len(astuple(cls()))))

    def __call__(
        self,
        images: Tensor,
        present: Tensor,
        targets: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return new (images [B, C, D, H, W], present [B, C], targets [B, R, D, H, W]).

        The inputs are not changed. A patient without any modality stays without. The
        same state of the generator gives the same result. Augment.none() returns the
        inputs themselves and draws nothing.
        """
        if self == Augment.none():
            return images, present, targets
        draw = _Draw(generator, images)
        present = self._dropped(present, draw)
        images, targets = self._flipped(images, targets, draw)
        if self.turned:
            self._turn(images, targets, draw)
        return (
            self._intensities(images, draw) * present.to(images)[..., None, None, None],
            present,
            targets,
        )

    def _dropped(self, present: Tensor, draw: _Draw) -> Tensor:
        lost = draw.uniform(0, 1, *present.shape) < self.drop
        # The present modality with the largest number is kept whatever `lost` says.
        order = draw.uniform(0, 1, *present.shape).masked_fill(~present.bool(), -1)
        keeper = torch.zeros_like(lost).scatter_(1, order.argmax(1, keepdim=True), True)
        return present.bool() & (keeper | ~lost)

    def _flipped(self, images: Tensor, targets: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
        flips = (draw.uniform(0, 1, len(images), 3) < self.flip).tolist()
        axes = [[1 + axis for axis in range(3) if flip[axis]] for flip in flips]
        return (
            torch.stack([one.flip(dims) for one, dims in zip(images, axes, strict=True)]),
            torch.stack([one.flip(dims) for one, dims in zip(targets, axes, strict=True)]),
        )

    def _turn(self, images: Tensor, targets: Tensor, draw: _Draw) -> None:
        """Rotate and zoom some patches in place; the tensors must be nobody else's."""
        b = len(images)
        chosen = draw.uniform(0, 1, b) < self.turned
        angles = draw.uniform(-self.rotate, self.rotate, b) * (math.pi / 180)
        reach = math.log1p(self.zoom)
        zooms = torch.exp(draw.uniform(-reach, reach, b))
        if chosen.any():
            images[chosen], targets[chosen] = turned(images[chosen], targets[chosen], angles[chosen], zooms[chosen])

    def _intensities(self, z: Tensor, draw: _Draw) -> Tensor:
        """Return new images; z must be a tensor that nobody else holds."""
        b, c = z.shape[:2]
        inside = z != 0
        curve = draw.uniform(-self.curve, self.curve, b, c, 1, 1, 1)
        scale = 1 + draw.uniform(-self.scale, self.scale, b, c, 1, 1, 1)
        shift = draw.uniform(-self.shift, self.shift, b, c, 1, 1, 1)
        field = torch.ones((), device=z.device)
        for axis in range(3):
            x = torch.linspace(-1, 1, z.shape[2 + axis], device=z.device)
            basis = torch.stack([x, 1.5 * x * x - 0.5])
            weights = draw.uniform(-self.bias, self.bias, b, c, 2)
            lines = torch.exp(weights @ basis)
            field = field * lines.reshape(
                b,
                c,
                *(-1 if other == axis else 1 for other in range(3)),
            )
        if self.curve:
            z = z + curve * z * z / (1 + z.abs())
        gain = field * scale
        z = gain * z + (OFFSET * (gain - scale) + shift)
        if self.noise and self.noisy:
            for index in torch.nonzero(draw.uniform(0, 1, b) < self.noisy).flatten().tolist():
                z[index] += draw.normal(*z.shape[1:]) * draw.uniform(0, self.noise, c, 1, 1, 1)
        return z * inside


class _Draw:
    """Random numbers of one generator, on the device of the images.

    They are drawn on the generator's own device first.
    """

    def __init__(self, generator: torch.Generator, like: Tensor) -> None:
        self._generator, self._device = generator, like.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self._generator, device=self._generator.device)
        return (low + (high - low) * drawn).to(self._device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(
            shape,
            generator=self._generator,
            device=self._generator.device,
        ).to(self._device)
