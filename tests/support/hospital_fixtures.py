"""Tiny hospitals: phantoms with 16 x 16 x 16 voxels, a network of two levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING
from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.models.nets import UNet3d
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort
from wardround.training.client import Hospital
from wardround.training.evaluation import ModelSelection
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling, SegmentationSite

SPEC = UNet3d(channels=(4, 8), residual_units=1, norm="instance", dropout=0.0)
NORTH, WEST = 0, 3


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARDROUND_STATE", "WARDROUND_SITES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """profile number -> folder with eight patients of that hospital (WEST lacks T2)"""
    root = tmp_path_factory.mktemp("cohorts")
    for index in (NORTH, WEST):
        write_cohort(root / str(index), hospital(index), 0, (16, 16, 16), 8)
    return {index: root / str(index) for index in (NORTH, WEST)}


@pytest.fixture
def site(cohorts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SegmentationSite]:
    """site(profile=NORTH, only=None, **changed sampling) -> SegmentationSite"""

    def make(profile: int = NORTH, only: Sequence[str] | None = None, **changed: Any) -> SegmentationSite:
        config = SiteConfig(data=cohorts[profile], cases=None if only is None else tuple(only))
        cohort = open_cohort(config, cohorts[profile].parent / f"cache-{profile}")
        given = {"patch": (8, 8, 8), "batch": 2, "tumour_probability": 0.5, "augment": False} | changed
        return SegmentationSite("site-1", cohort, split_patients(cohort.patients), SPEC, Sampling(**given), 0, "cpu")

    return make


@pytest.fixture
def settings() -> Callable[..., SimpleNamespace]:
    """settings(**changed) -> a job's settings, as the executor holds them"""

    def make(**changed: Any) -> SimpleNamespace:
        given = {
            "algorithm": FedAvg(),
            "sharing": EVERYTHING,
            "fedavg_baseline": None,
            "private": None,
            "model": SPEC,
            "schedule": Schedule(3, 3, 0.05, 0.9, True, 0.0, 10.0, "cosine"),
            "sampling": Sampling((8, 8, 8), 2, 0.5, True),
            "model_selection": ModelSelection([0, 2], 0.01),
            "phantoms": Phantoms([16, 16, 16], 6),
            "seed": 0,
        }
        return SimpleNamespace(**given | changed)

    return make


@pytest.fixture
def opened(settings: Callable[..., SimpleNamespace], tmp_path: Path) -> Callable[..., Hospital]:
    """opened(folder="states", **changed settings) -> a simulated site-4 (west), as a fresh process opens it"""

    def make(folder: str = "states", **changed: Any) -> Hospital:
        states = tmp_path / folder
        states.mkdir(exist_ok=True)
        return Hospital.open(
            "site-4", tmp_path, states, simulator=True, settings=settings(**changed), say=lambda text: None
        )

    return make
