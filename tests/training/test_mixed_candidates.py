"""Blend and interpolation: chosen on validation alone, without a network too many; the deployed blend predicts as evaluated."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hospital_fixtures import SPEC

from wardround.algorithms.base import Steps
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.schedule import Schedule
from wardround.core.errors import ConfigRefused
from wardround.flare import few_patients
from wardround.training.evaluation import ModelSelection, candidates_on_validation, evaluate, shared_only
from wardround.training.mixture import Mixture
from wardround.training.pages import deployed, keep_models
from wardround.training.prediction import Segmenter, cases_in, read_weights, ready, regions_of

SCHEDULE = Schedule(2, 3, 0.05, 0.9, True, 0.0, 10.0, "cosine")
PLAIN = ModelSelection([0, 1, 3], 0.02)
SHARES = (0.25, 0.5, 0.75)
MIXED = replace(PLAIN, blend=SHARES, interpolate=SHARES)


def arms_of(site):
    """A shifted start stands for FedAvg, another for the personalised model."""
    noise = torch.randn(site.layout.total, generator=torch.Generator().manual_seed(5))
    initial = site.model.vector.clone()
    return initial, {"personalised": initial + 0.05 * noise, "fedavg": initial - 0.05 * noise}


@pytest.fixture
def judged(site):
    one = site()
    initial, arms = arms_of(one)
    return one, arms, evaluate(one, arms, initial, SCHEDULE, MIXED)


def test_the_other_candidates_are_what_they_were(judged, site):
    _, _, with_ = judged
    one = site()
    initial, arms = arms_of(one)
    without = evaluate(one, arms, initial, SCHEDULE, PLAIN)
    assert set(with_.numbers["candidates"]) - set(without.numbers["candidates"]) == {"interpolated", "blend"}
    for name, candidate in without.numbers["candidates"].items():
        assert with_.numbers["candidates"][name] == candidate
        assert torch.equal(with_.weights[name], without.weights[name])
    assert without.mixed == {}


def test_they_follow_the_arms(site):
    one = site()
    initial, arms = arms_of(one)
    for arm, shared in (("fedavg", {"fedavg", "fedavg_finetuned"}), ("personalised", {"personalised"})):
        found = evaluate(one, {arm: arms[arm]}, initial, SCHEDULE, MIXED)
        assert set(found.numbers["candidates"]) == {"local", *shared, "interpolated", "blend"}
        assert found.mixed["blend"]["of"] in shared
        assert found.mixed["interpolated"]["of"] == arm
    alone = evaluate(one, {}, initial, SCHEDULE, MIXED)
    assert set(alone.numbers["candidates"]) == {"local"}


def test_the_blend_is_the_best_mean_of_probabilities_on_validation(judged):
    """The oracle's answer: both networks on every validation case, probabilities in float64, Dice by hand."""
    one, _, found = judged
    candidates, mixed = found.numbers["candidates"], found.mixed["blend"]
    trained = {name: candidates[name]["val"] for name in ("personalised", "fedavg", "fedavg_finetuned")}
    assert mixed["of"] == max(trained, key=lambda name: trained[name])
    assert candidates["blend"]["k"] == mixed["k"] == candidates[mixed["of"]]["k"]
    own, shared = found.weights["blend"].members
    assert torch.equal(own, found.weights["local"])
    assert torch.equal(shared, found.weights[mixed["of"]])
    values = {}
    for share in SHARES:
        dice = []
        for case in one.split.val:
            p, q = (1 / (1 + np.exp(-one.logits(w, case).astype(np.float64))) for w in (own, shared))
            regions = one.task.outputs.nested(share * p + (1 - share) * q > 0.5)
            truth = one.task.outputs.targets(one.labels(case), one.cohort.label_kind).astype(bool)
            both = [(2 * (a & b).sum(), a.sum() + b.sum()) for a, b in zip(regions, truth, strict=True)]
            dice.append(np.mean([top / bottom if bottom else 1.0 for top, bottom in both]))
        values[share] = float(np.mean(dice))
    best = max(values.values())
    assert candidates["blend"]["val"] == pytest.approx(best, abs=1e-3)
    assert values[mixed["share"]] == pytest.approx(best, abs=1e-3)


def test_interpolated_weights_lie_between_the_shared_and_the_fine_tuned_ones(judged):
    one, arms, found = judged
    mixed = found.mixed["interpolated"]
    start = arms[mixed["of"]]
    end = fine_tune(start, one.objective("fine-tune"), [0, 1, 3], Steps(3, 0.02))[mixed["k"]]
    assert mixed["k"] > 0
    wanted = start + mixed["share"] * (end - start)
    torch.testing.assert_close(found.weights["interpolated"], wanted, rtol=1e-5, atol=1e-6)
    values = [one.score((1 - share) * start + share * end, one.split.val) for share in SHARES]
    assert found.numbers["candidates"]["interpolated"]["val"] == pytest.approx(max(values))


def test_no_choice_reads_a_test_patient(judged, site):
    """The test cases do not exist: whoever opens one before everything is chosen fails."""
    _, _, whole = judged
    one = site()
    initial, arms = arms_of(one)
    one.split = replace(one.split, test=("no such case",))
    with pytest.raises(Exception, match="no such case"):
        one.rows(initial, one.split.test)
    found = candidates_on_validation(one, arms, initial, SCHEDULE, MIXED)
    for name, candidate in found.items():
        assert (candidate.k, candidate.val) == tuple(whole.numbers["candidates"][name][key] for key in ("k", "val"))
    assert {name: one.share for name, one in found.items() if one.share} == {
        name: row["share"] for name, row in whole.mixed.items()
    }


def test_no_network_runs_more_often_than_it_must(site, monkeypatch):
    """On validation a blend of any number of shares costs one pass of each member; on test it costs nothing."""
    one = site()
    initial, arms = arms_of(one)
    ran = {"val": 0, "test": 0}
    logits = one.logits

    def counted(w, case):
        ran["val" if case in one.split.val else "test"] += 1
        return logits(w, case)

    monkeypatch.setattr(one, "logits", counted)
    evaluate(one, {"fedavg": arms["fedavg"]}, initial, SCHEDULE, PLAIN)
    before = dict(ran)
    ran |= {"val": 0, "test": 0}
    evaluate(one, {"fedavg": arms["fedavg"]}, initial, SCHEDULE, replace(PLAIN, blend=SHARES))
    assert ran["val"] - before["val"] == 2 * len(one.split.val)
    assert ran["test"] == before["test"] == 3 * len(one.split.test)


def test_what_leaves_has_the_same_shape_and_tells_no_share(judged):
    _, _, found = judged
    for candidate in found.numbers["candidates"].values():
        assert set(candidate) == {"k", "val", "test", "gain"}
    assert "share" not in json.dumps(found.numbers)


def test_few_patients_and_privacy_withhold_the_new_candidates_too(judged):
    _, _, found = judged
    few = few_patients.scores({**found.numbers, "val_score": 0.5}, few_patients.Patients(4, 1, 1))
    assert few["candidates"]["blend"] == few["candidates"]["interpolated"] == {}
    assert set(shared_only(found.numbers)["candidates"]) == {"fedavg"}
    assert shared_only(found.numbers)["deploy"] is None


@pytest.mark.parametrize("name", ["blend", "interpolate"])
@pytest.mark.parametrize("shares", [[0], [1.0], [0.5, 1.5], ["0.5"], "0.5", [True], [None]])
def test_other_shares_are_refused(name, shares):
    with pytest.raises(ConfigRefused, match=f"model_selection.{name}"):
        replace(PLAIN, **{name: shares})


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigRefused, match="one_standard_error, best"):
        replace(PLAIN, rule="worst")


@pytest.mark.parametrize("name", ["blend", "interpolated"])
def test_the_deployed_model_predicts_as_it_was_evaluated(judged, cohorts, tmp_path, name):
    """From the site's evaluation through its file of weights to the mask of a case: every voxel, bit for bit."""
    one, _, found = judged
    chosen = replace(found, numbers={**found.numbers, "deploy": name})
    facts = {"phantoms": True, "label": "north"}
    path = keep_models(chosen, one, SPEC, facts, tmp_path)
    weights = read_weights(path)
    assert weights.meta["mixed"] == found.mixed[name]
    model = ready(weights, "cpu")
    for case in one.split.test:
        wanted = one.predict(found.weights[name], case)
        np.testing.assert_array_equal(regions_of(one.volume(case), weights, model), wanted)
    assert wanted.any()
    (files,) = cases_in(cohorts[0], one.split.test[0])
    done = Segmenter(weights, "brats", 4, model).predict(files, tmp_path / "mask.nii.gz")
    assert done.mask.is_file()


def test_a_mean_of_three_models_is_not_deployed(judged):
    one, _, found = judged
    local = found.weights["local"]
    with pytest.raises(ConfigRefused, match="a mixture of 3 models"):
        deployed(Mixture((local, local, local), (0.5, 0.25, 0.25)), SPEC, one)
