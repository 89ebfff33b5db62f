"""Mixtures cost no training and choose on validation: closed forms on probabilities, and models that are trained once."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import learners
import mixtures
from learners import Models, Setting, Trained
from wardround.tasks.brain_tumours import DESCRIPTION
from wardround.tasks.task import task_from_json

SHAPE = (3, 4, 4, 4)
TASK = task_from_json(DESCRIPTION, "a test")


class Site:
    """A hospital with one validation and one test patient: all voxels of one half are tumour, core and enhancing."""

    def __init__(self, *, test_is_readable: bool = True) -> None:
        self.task = TASK
        self.split = SimpleNamespace(val=("v",), test=("t",))
        self.cohort = SimpleNamespace(label_kind="brats", patients={"v": "pv", "t": "pt"})
        self.test_is_readable = test_is_readable

    def volume(self, case: str) -> Any:
        assert case != "t" or self.test_is_readable, "a test patient was read to choose"
        return SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0))

    def labels(self, case: str) -> Any:
        labels = np.zeros(SHAPE[1:], np.uint8)
        labels[:2] = 3
        return labels


NAMES = {"pv": "0", "pt": "1"}


def saying(site: Any, first: float, second: float) -> mixtures.Answers:
    """Probabilities: `first` in the half that is tumour, `second` in the other."""
    p = np.full(SHAPE, second)
    p[:, :2] = first
    return mixtures.Answers(site, NAMES, {"v": p, "t": p})


def test_a_mixture_is_the_weighted_mean_of_probabilities() -> None:
    site = Site()
    mixed = saying(site, 0.9, 0.1).mixed(saying(site, 0.1, 0.5), 0.25)
    assert mixed.by_case["v"][0, 0, 0, 0] == pytest.approx(0.25 * 0.9 + 0.75 * 0.1)
    mean = mixtures.mean_of([saying(site, 0.9, 0.3), saying(site, 0.3, 0.3), saying(site, 0.6, 0.0)])
    assert mean.by_case["t"][0, 0, 0, 0] == pytest.approx(0.6)
    assert mean.dice(("v", "t")) == {"0": 1.0, "1": 1.0}


def test_the_blend_is_chosen_on_validation_patients_alone() -> None:
    """Own: .4 | .1 (finds nothing). Shared: .9 | .7 (finds everything). Only a = .5 is right: .65 | .4."""
    site = Site(test_is_readable=False)
    own = saying(site, 0.4, 0.1)
    found, how = mixtures.blend(
        site, own, {"fedavg": saying(site, 0.9, 0.7), "fedavg_finetuned": saying(site, 0.1, 0.1)}
    )
    assert how == {"share": 0.5, "of": "fedavg"}
    assert found.dice(("v",)) == {"0": 1.0}


def test_the_verdict_chooses_on_validation_and_the_part_keeps_every_candidate() -> None:
    """On validation FedAvg is right and local finds nothing; on test it is the reverse, and changes nothing."""
    site = Site()
    good, bad = np.full(SHAPE, 0.1), np.full(SHAPE, 0.1)
    good[:, :2] = 0.9
    candidates = {
        "local": mixtures.Answers(site, NAMES, {"v": bad, "t": good}),
        "fedavg": mixtures.Answers(site, NAMES, {"v": good, "t": bad}),
    }
    found = mixtures.deployed(site, candidates, {"share": 0.5, "of": "fedavg"})
    assert found["how"] == {"deploy": "fedavg", "blend": {"share": 0.5, "of": "fedavg"}}
    assert found["val"] == {"0": 1.0}
    assert found["test"] == {"1": 0.0}
    assert found["candidates"]["local"] == {"val": {"0": 0.0}, "test": {"1": 1.0}}


def test_models_that_another_part_needs_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def train(setting: Setting) -> Trained:
        calls.append("trained")
        return Trained({"north": torch.arange(3.0)}, None)

    monkeypatch.setattr(learners, "learners", lambda: {"local": train})
    monkeypatch.setattr(learners, "_code", lambda: "one state of the code")
    models, setting = Models(tmp_path / "models"), Setting({}, None, torch.zeros(1))  # type: ignore[arg-type]
    for _ in range(2):
        found = models.trained({"seed": 0}, {"rounds": 2}, setting, "local", keep=True)
        assert torch.equal(found.models["north"], torch.arange(3.0))
        assert found.shared is None
    assert len(calls) == 1
    models.trained({"seed": 1}, {"rounds": 2}, setting, "local", keep=True)
    models.trained({"seed": 0}, {"rounds": 3}, setting, "local", keep=True)
    assert len(calls) == 3
    monkeypatch.setattr(learners, "_code", lambda: "another state of the code")
    models.trained({"seed": 0}, {"rounds": 2}, setting, "local", keep=False)
    assert len(calls) == 4
    monkeypatch.setattr(learners, "_code", lambda: None)
    models.trained({"seed": 0}, {"rounds": 2}, setting, "local", keep=True)
    assert len(calls) == 5
    assert len(list((tmp_path / "models").iterdir())) == 3


def test_patients_with_several_cases_count_once() -> None:
    site = SimpleNamespace(cohort=SimpleNamespace(patients={"a1": "a", "a2": "a", "b1": "b"}))
    found = learners.by_patient(site, ("a1", "a2", "b1"), (0.2, 0.4, 0.9), {"a": "5", "b": "7"})
    assert found == {"5": pytest.approx(0.3), "7": 0.9}
