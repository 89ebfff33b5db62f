"""The few parameters of a ViT that belong to no ordinary layer, each in a layer of its own.

A layer of its own has a formula for the gradients of single samples (layer_gradients.py), which a bare parameter has not
where one patient is several rows (modalities, slices).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn


@final
class AddVector(nn.Module):
    """x [B, ...] + vector [1, ...], which is broadcast over the axes where it has length 1 (positions, modalities)."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector = nn.Parameter(vector.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.vector


@final
class Prepend(nn.Module):
    """tokens [1, P, D] before x [B, N, D] (class token, registers, fusion token): [B, P + N, D]."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)


@final
class Scale(nn.Module):
    """x [..., D] * gamma [D], timm's LayerScale."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
