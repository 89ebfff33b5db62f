"""Blocks as a small network has them."""

import numpy as np
import pytest

from wardround.core.arrays import Layout
from wardround.core.rng import stream

SHAPES = {"model:z.weight": (24, 8, 3, 3), "model:a.bias": (24,), "model:m.weight": (40, 30)}


@pytest.fixture
def blocks() -> Layout:
    return Layout(tuple(SHAPES), tuple(SHAPES.values()))


@pytest.fixture
def updates():
    """Return five updates of unequal size, block by block."""
    rng = stream(3, "updates")
    scale = {"model:z.weight": 1e-2, "model:a.bias": 1.0, "model:m.weight": 1e-5}
    return [
        {name: (rng.normal(size=shape) * scale[name]).astype(np.float32) for name, shape in SHAPES.items()}
        for _ in range(5)
    ]
