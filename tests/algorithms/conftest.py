from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wardround.algorithms.base import LocalStart
from wardround.core.arrays import Layout

LAYOUT = Layout(("conv.weight", "conv.norm", "out.weight"), ((2, 2), (2,), (2,)))
ROLES = {"conv.weight": "body", "conv.norm": "norm", "out.weight": "head"}


class Quadratics:
    """An Objective that remembers: f_k(w) = 1/2 w'A_k w - b_k'w on mini-batch k = 0, 1, 2, ... (cyclic over those given).

    Like a real network it hands out ONE gradient buffer, which the next call overwrites.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = (a if a.dim() == 3 else a[None]), (b if b.dim() == 2 else b[None])
        self.draws: list[tuple[int, ...]] = []
        self.calls: list[tuple[int, Tensor]] = []
        self._fresh = count()
        self._buffer = torch.zeros_like(self.b[0])

    def sample(self, number: int) -> tuple[Any, ...]:
        self.draws.append(tuple(next(self._fresh) for _ in range(number)))
        return self.draws[-1]

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        self.calls.append((batch, w.clone()))
        a, b = self.a[batch % len(self.a)], self.b[batch % len(self.b)]
        self._buffer.copy_(a @ w - b)
        return float(0.5 * w @ a @ w - b @ w), self._buffer

    @property
    def path(self) -> Tensor:
        """Every point at which a gradient was asked for, [calls, n]."""
        return torch.stack([w for _, w in self.calls])


class Problem:
    """Random quadratics with eigenvalues in 0.5..2, and points, of the test layout's size."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        self._rng, self._dtype = np.random.default_rng(seed), dtype

    def matrix(self) -> Tensor:
        q, _ = np.linalg.qr(self._rng.normal(size=(LAYOUT.total, LAYOUT.total)))
        return torch.tensor(q @ np.diag(self._rng.uniform(0.5, 2, LAYOUT.total)) @ q.T, dtype=self._dtype)

    def point(self) -> Tensor:
        return torch.tensor(self._rng.normal(size=LAYOUT.total), dtype=self._dtype)

    def exact(self) -> Quadratics:
        """Return an oracle without noise."""
        return Quadratics(self.matrix(), self.point())

    def noisy(self, batches: int = 40) -> Quadratics:
        """Return an oracle whose mini-batches differ in A and in b."""
        return Quadratics(
            torch.stack([self.matrix() for _ in range(batches)]), torch.stack([self.point() for _ in range(batches)])
        )


def start_at(w: Tensor, memory: dict[str, Tensor] | None = None, **variables: Tensor) -> LocalStart:
    return LocalStart({"model": w, **variables}, memory or {}, LAYOUT, ROLES)


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def roles() -> dict[str, str]:
    return dict(ROLES)


@pytest.fixture
def start():
    """start(w, memory=None, **variables) -> LocalStart"""
    return start_at


@pytest.fixture
def quadratics():
    """quadratics(A, b) -> Objective; A [n,n] or [batches,n,n], b [n] or [batches,n]"""
    return Quadratics


@pytest.fixture
def problem():
    """problem(seed, dtype=float64) -> Problem"""
    return Problem
