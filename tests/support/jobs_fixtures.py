import json
from pathlib import Path
from typing import Any

import pytest
import torch

TINY = (
    *("--set", "model.channels=[4,8]", "--set", "sampling.patch=[16,16,16]", "--set", "sampling.batch=2"),
    *("--set", "work=4", "--set", "num_rounds=1", "--set", "model_selection.steps=[0,1]"),
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARDROUND_SITES", raising=False)
    monkeypatch.delenv("WARDROUND_STATE", raising=False)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Settings that make every job small enough for a test."""
    return TINY


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantom hospitals of five patients with 20 x 20 x 20 voxels: a folder with site-1, site-2 and sites.json."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    root = tmp_path_factory.mktemp("hospitals")
    for number in (1, 2):
        write_cohort(root / f"site-{number}", hospital(number - 1), 0, (20, 20, 20), 5)
    (root / "sites.json").write_text(json.dumps({f"site-{n}": {"data": f"site-{n}"} for n in (1, 2)}))
    return root


@pytest.fixture
def run() -> dict[str, Any]:
    """The record of a complete run: `personalised` wins at site-1, `local` at site-2."""
    dice = {"value": 0.7, "low": 0.6, "high": 0.8, "cases": 4}
    local = {"k": 0, "val": 0.5, "test": {"dice_mean": {**dice, "value": 0.6}}}
    better = {
        "k": 5,
        "val": 0.7,
        "test": {"dice_mean": dice},
        "gain": {"value": 0.1, "low": 0.05, "high": 0.15, "cases": 4},
    }
    return {
        "job": "brats_perfedavg",
        "simulator": True,
        "phantoms": False,
        "sites": {"site-1": {"label": "north"}, "site-2": {}},
        "rounds": [{"round": 0, "configured": ["site-1", "site-2"], "aggregated": ["site-1", "site-2"]}],
        "final": {
            "site-1": {"candidates": {"local": local, "personalised": better}, "deploy": "personalised"},
            "site-2": {"candidates": {"local": local}, "deploy": "local"},
        },
        "outcome": "complete",
        "problems": [],
    }
