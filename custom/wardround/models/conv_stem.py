"""How does an image become tokens by a few small convolutions, not by one large one?

A patch of p = 2^k pixels is read by k convolutions of 3 x 3 with stride 2, each with a
GroupNorm and a ReLU behind it. The channels double from layer to layer and end at the
width of the transformer, where one convolution of 1 x 1 makes the tokens. There are as
many tokens as with one convolution of p x p, and they lie in the same order. Where the
large convolution must learn edges from few patients, the small ones share them over the
image, and plain SGD reaches the end of its training (Xiao et al., section 5).

A GroupNorm uses one image alone, so a row of a batch does not depend on the others:
hospitals with the same weights compute the same, and gradients of single patients
exist.

Sources: Xiao et al. 2021, arXiv:2106.14881 (the convolutional stem).
Deviations: 1. GroupNorm in place of BatchNorm, whose statistics differ between
hospitals. 2. No block of the transformer is left out in exchange; `depth` is a setting.
3. Every layer has stride 2; the paper has one or two with stride 1 for some widths.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from wardround.models.norms import new_group_norm


def halvings(patch: int) -> int | None:
    """Return k for a patch of 2^k pixels, k at least 1; None for any other patch."""
    power = patch.bit_length() - 1
    return power if power >= 1 and patch == 1 << power else None


def stem_widths(width: int, layers: int) -> tuple[int, ...]:
    """Return the channels of every layer; the last has `width`, the one before half of it.

    A layer has at least one channel.
    """
    return tuple(max(width >> (layers - 1 - layer), 1) for layer in range(layers))


@final
class ConvStem(nn.Module):
    """Images [R, 1, H, W] to tokens [R, H/p * W/p, width], the rows of the image slowest.

    width: The width of the transformer.
    layers: k, so that a patch has p = 2^k pixels; p divides H and W.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        before = 1
        for channels in stem_widths(width, layers):
            # No bias: the norm behind it would take it away again.
            steps.append(nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False))
            steps.append(new_group_norm(channels, "group"))
            steps.append(nn.ReLU())
            before = channels
        self.layers = nn.Sequential(*steps)
        self.proj = nn.Conv2d(before, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.proj(self.layers(images)).flatten(2).transpose(1, 2)
        return tokens
