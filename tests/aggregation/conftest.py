"""A round without NVFlare: a generator, its one Ask, and the replies of some sites."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from wardround.aggregation.collect import require_finite
from wardround.core.stages import Aggregate, Replies, Update
from wardround.errors import Refusal

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

SHAPES = {"conv": (2, 3), "bias": (2,)}


@dataclass
class Context:
    need: int | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    message: Any = "order"

    @staticmethod
    def read(site: str, reply: Any) -> Update:
        return require_finite(reply)


def _update(row: Iterable[float], weight: float = 1.0) -> Update:
    """Return an update of eight values in two blocks."""
    values = np.asarray(row, np.float32)
    return Update({"conv": values[:6].reshape(2, 3), "bias": values[6:]}, weight)


def _flat(aggregate: Aggregate) -> np.ndarray:
    """Return the eight values of an aggregate."""
    assert {name: block.shape for name, block in aggregate.params.items()} == SHAPES
    assert all(block.dtype == np.float32 for block in aggregate.params.values())
    return np.concatenate([aggregate.params["conv"].ravel(), aggregate.params["bias"]])


def _play(rule: Any, replies: Mapping[str, Update], context: Context | None = None) -> tuple[Aggregate, dict[str, str]]:
    """Run one round; return (the aggregate, site -> the first line of why it was refused)."""
    context = context or Context()
    generator = rule.round(context)
    ask = next(generator)
    assert (ask.task, ask.message, ask.to, ask.need) == ("train", context.message, None, context.need)
    missing = {}
    for site, reply in replies.items():
        try:
            ask.take(site, reply)
        except Refusal as refusal:
            missing[site] = refusal.found
    try:
        generator.send(Replies(tuple(site for site in replies if site not in missing), missing))
    except StopIteration as stop:
        return stop.value, missing
    raise AssertionError("a second Ask")


@pytest.fixture(scope="session")
def context():
    """context(need=None, memory={}) -> what a controller hands to a round"""
    return Context


@pytest.fixture(scope="session")
def update():
    """update(eight values, weight=1.0) -> Update of two blocks"""
    return _update


@pytest.fixture(scope="session")
def flat():
    """flat(aggregate) -> its eight values"""
    return _flat


@pytest.fixture(scope="session")
def play():
    """play(rule, site -> update, context) -> (aggregate, site -> why its update was refused)"""
    return _play


@pytest.fixture(scope="session")
def byzfl() -> ModuleType:
    """The oracle. It imports torchvision, whose operators a CPU build of torch may lack."""
    from wardround.models.torchvision_door import open_torchvision

    open_torchvision()
    return pytest.importorskip("byzfl")
