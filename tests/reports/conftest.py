import copy
from collections.abc import Callable
from typing import Any

import pytest

from wardround.reports.html import html
from wardround.reports.page import values
from wardround.reports.schema import build

INTERVAL = {"value": 0.6, "low": 0.5, "high": 0.7, "cases": 4}
SITES = ("site-1", "site-2")


def candidate(k: int, val: float, test: float, gain: float | None) -> dict[str, Any]:
    dice = {"value": test, "low": test - 0.1, "high": test + 0.1, "cases": 4}
    metrics = {
        "dice_mean": dice,
        "dice_ET": dict(INTERVAL),
        "dice_WT": dict(INTERVAL),
        "hd95_mm_WT": {**INTERVAL, "value": 7.5},
    }
    gained = None if gain is None else {"value": gain, "low": gain - 0.02, "high": gain + 0.02, "cases": 4}
    return {"k": k, "val": val, "test": metrics, "gain": gained}


@pytest.fixture
def run() -> dict[str, Any]:
    """A complete run of two sites and two rounds: `personalised` wins at site-1, `local` at site-2."""
    first = {
        "local": candidate(0, 0.50, 0.50, None),
        "fedavg": candidate(0, 0.52, 0.54, 0.04),
        "fedavg_finetuned": candidate(5, 0.53, 0.56, 0.06),
        "personalised": candidate(20, 0.70, 0.60, 0.10),
    }
    second = {"local": candidate(0, 0.80, 0.81, None), "fedavg": candidate(0, 0.60, 0.61, -0.20)}
    site = {
        "label": "north",
        "cases": {"train": 9, "val": 3, "test": 4},
        "modalities": {"t1": 16, "t1ce": 16, "t2": 0, "flair": 16},
        "label_kind": "brats",
        "device": "cpu",
    }
    rounds = [
        {
            "round": r,
            "seconds": 12.5,
            "configured": list(SITES),
            "trained": list(SITES),
            "aggregated": list(SITES),
            "bytes_down": 1_000_000,
            "bytes_up": 2_000_000,
            "sites": {name: {"loss": 1.1 - 0.2 * r, "val_score": 0.3 + 0.1 * r, "seconds": 3.25} for name in SITES},
        }
        for r in range(2)
    ]
    return {
        "job": "brats_perfedavg",
        "version": "0.1.0",
        "algorithm": "Per-FedAvg (FO)",
        "started": "2025-11-21T08:00:00+00:00",
        "finished": "2025-11-21T08:04:03+00:00",
        "simulator": True,
        "phantoms": True,
        "settings": {"num_rounds": 2, "work": 40, "lr": 0.05, "seed": 0},
        "model": {"name": "UNet3d", "parameters": 143685, "fingerprint": "ab12cd34"},
        "sites": {"site-1": site, "site-2": {**copy.deepcopy(site), "label": "south"}},
        "rounds": rounds,
        "best": {"round": 1, "val_score": 0.4},
        "final": {
            "site-1": {"candidates": first, "deploy": "personalised"},
            "site-2": {"candidates": second, "deploy": "local"},
        },
        "outcome": "complete",
        "problems": [],
    }


@pytest.fixture
def shown() -> Callable[[dict[str, Any], str], str]:
    """One block of the federation's page, of a run."""
    return lambda run, block: html("report.html", values(build(run)), block)
