"""One run of a sweep is what its parts are: local training, the federation, fine-tuning chosen on validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import EVERYTHING
from wardround.data.site_config import SiteConfig
from wardround.data.splits import PARTS
from wardround.models.flat import first_weights
from wardround.models.nets import UNet3d
from wardround.research import baselines
from wardround.research.sweep_run import Setup, one_run
from wardround.research.sweep_sites import Cell, MaskedPhantoms
from wardround.training.evaluation import ModelSelection, evaluate
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling

SPEC, SAMPLING = UNet3d(channels=(4, 8)), Sampling((8, 8, 8), 2, 0.5, True)
SETUP = Setup(
    FedAvg(),
    EVERYTHING,
    Mean(1.0),
    Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine"),
    SPEC,
    SAMPLING,
    ModelSelection((0, 2), 0.01),
)
SOURCE, CELL = MaskedPhantoms(Phantoms([14, 14, 14], 0), 5, 0), Cell(2, None, (), False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[str]]:
    lines: list[str] = []
    return one_run(SETUP, SOURCE, CELL, 0, tmp_path_factory.mktemp("run"), lines.append), lines


def test_its_local_models_are_those_of_the_job(run: tuple[dict, list[str]], tmp_path: Path) -> None:
    found, _ = run
    configs = {name: SiteConfig(data=one.data) for name, one in SOURCE.write(CELL, 0, tmp_path).configs.items()}
    sites = baselines.open_sites(configs, SPEC, SAMPLING, 0, tmp_path / "cache", lambda text: None, patient_dp=False)
    for name, site in sites.items():
        judged = evaluate(site, {}, first_weights(SPEC, 0), SETUP.schedule, SETUP.model_selection).numbers[
            "candidates"
        ]["local"]
        row = found["sites"][name]
        assert row["val"]["local"] == judged["val"]
        assert row["test"]["local"] == judged["test"]["dice_mean"]
        assert row["patients"] == {part: len(getattr(site.split, part)) for part in PARTS}


def test_it_says_what_was_run_and_is_valid_json(run: tuple[dict, list[str]]) -> None:
    found, lines = run
    assert found["cell"] == {"sites": 2, "alpha": None, "missing": {}, "scanner": False}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [line for line in lines if "round 2/2" in line]
    for row in found["sites"].values():
        assert row["classes"] is None
        assert row["k"] in (0, 2)
        assert row["val"]["tuned"] >= row["val"]["federated"]
        gap = row["test"]["tuned"]["value"] - row["test"]["local"]["value"]
        assert row["gain"]["tuned"]["value"] == pytest.approx(gap)
        if row["k"] == 0:
            assert row["test"]["tuned"] == row["test"]["federated"]
