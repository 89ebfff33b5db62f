"""A round without NVFlare: a generator, its one Ask, and the replies of some sites."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from wardround.aggregation.collect import require_finite
from wardround.core.errors import Refusal
from wardround.core.stages import Aggregate, Replies, Update
from wardround.messages.identity import Authority, Identity
from wardround.secagg import encryption_key, simulated_kits

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from secagg_federation import Federation, Kits

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
    from wardround.models.torchvision_adapter import open_torchvision

    open_torchvision()
    return pytest.importorskip("byzfl")


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    """kits(site) -> (who it is, the root of its project, the seed of the project's sum key)"""
    root = tmp_path_factory.mktemp("kits")

    def kit(site: str) -> tuple[Identity, Authority, bytes]:
        simulated_kits.site_kit(root / "common", site, root / site)
        return Identity.load(root / site, site), Authority.load(root / site), encryption_key.read_site(root / site)

    return cache(kit)


@pytest.fixture
def federation(kits: Kits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Federation]:
    """federation(mode, names=four sites, **promises) -> Federation in a folder of its own; nothing waits for the disk"""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def make(mode: str, **changed: Any) -> Federation:
        number = len(list(tmp_path.glob("run*")))
        return Federation(tmp_path / f"run{number}", kits, mode, **changed)

    return make


@pytest.fixture(scope="session")
def other_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Identity]:
    """other_project(site) -> a site of this name in another project"""
    root = tmp_path_factory.mktemp("other")

    def identity(site: str) -> Identity:
        simulated_kits.site_kit(root / "common", site, root / site)
        return Identity.load(root / site, site)

    return cache(identity)
