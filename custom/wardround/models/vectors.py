"""Where are a ViT's parameters that belong to no ordinary layer?

Each is in a layer of its own. Such a layer has a formula for the gradients of single
samples (layer_gradients.py), which a bare parameter has not if one patient is several
rows (modalities, slices).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn


@final
class AddVector(nn.Module):
    """Returns x [B, ...] + vector [1, ...].

    The vector is broadcast over the axes where it has length 1 (positions, modalities).
    """

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector = nn.Parameter(vector.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.vector


@final
class Prepend(nn.Module):
    """Returns [B, P + N, D]: tokens [1, P, D] before x [B, N, D].

    The tokens are a class token, registers or a fusion token.
    """

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)


@final
class Scale(nn.Module):
    """Returns x [..., D] * gamma [D], timm's LayerScale."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
