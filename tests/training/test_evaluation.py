import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.federation import local_only
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.schedule import Schedule
from wardround.core.errors import ConfigRefused
from wardround.reports.verdict import choose
from wardround.training.evaluation import ModelSelection, evaluate, shared_only
from wardround.training.segmentation import by_patient

SCHEDULE = Schedule(2, 3, 0.05, 0.9, True, 0.0, 10.0, "cosine")
JUDGING = ModelSelection([0, 1, 3], 0.02)


@pytest.fixture
def judged(site):
    """A tiny site with two arms: a shifted start stands for FedAvg, another for the personalised model."""
    one = site()
    initial = one.model.vector.clone()
    arms = {"personalised": initial + 0.01, "fedavg": initial - 0.01}
    return one, initial, arms, evaluate(one, arms, initial, SCHEDULE, JUDGING)


def test_all_four_candidates(judged):
    _, _, _, evaluation = judged
    assert set(evaluation.numbers["candidates"]) == {"local", "fedavg", "fedavg_finetuned", "personalised"}


def test_candidates_follow_the_arms(site):
    one = site()
    initial = one.model.vector.clone()
    only = evaluate(one, {"fedavg": initial}, initial, SCHEDULE, JUDGING).numbers["candidates"]
    assert set(only) == {"local", "fedavg", "fedavg_finetuned"}
    own = evaluate(one, {"personalised": initial}, initial, SCHEDULE, JUDGING).numbers["candidates"]
    assert set(own) == {"local", "personalised"}


def test_the_warm_start_is_scored_as_it_is_and_never_deployed(site):
    """Even where it is by far the best model: nothing was learnt from anybody for it."""
    one = site()
    initial = one.model.vector.clone()
    ruined = torch.full_like(initial, 1e3)
    found = evaluate(one, {"fedavg": ruined, "warm_start": initial}, initial, SCHEDULE, JUDGING)
    row = found.numbers["candidates"]["warm_start"]
    assert (row["k"], row["val"]) == (0, pytest.approx(one.score(initial, one.split.val)))
    assert set(found.numbers["candidates"]) == {"local", "fedavg", "fedavg_finetuned", "warm_start"}
    assert found.numbers["deploy"] != "warm_start"
    assert set(shared_only(found.numbers)["candidates"]) == {"fedavg"}


def test_the_local_model_did_the_same_work_alone(judged):
    one, initial, _, evaluation = judged
    expected = local_only(one.objective("local"), SCHEDULE, initial)
    assert torch.equal(evaluation.weights["local"], expected)
    assert evaluation.numbers["candidates"]["local"]["k"] == 0


def test_fine_tuning_is_chosen_on_validation(judged):
    """The oracle's answer: walk once, score every k on validation, take the first best."""
    one, _, arms, evaluation = judged
    for arm, name, ks in (("fedavg", "fedavg_finetuned", (1, 3)), ("personalised", "personalised", (0, 1, 3))):
        walk = fine_tune(arms[arm], one.objective("fine-tune"), [0, 1, 3], Steps(3, 0.02))
        val = {k: one.score(walk[k], one.split.val) for k in ks}
        best = max(ks, key=lambda k: val[k])
        found = evaluation.numbers["candidates"][name]
        assert (found["k"], found["val"]) == (best, pytest.approx(val[best]))
        assert torch.equal(evaluation.weights[name], walk[best])
    assert evaluation.numbers["candidates"]["fedavg"]["k"] == 0
    assert torch.equal(evaluation.weights["fedavg"], arms["fedavg"])


def test_the_choice_looks_at_validation_only(judged):
    one, _, _, evaluation = judged
    val = {name: candidate["val"] for name, candidate in evaluation.numbers["candidates"].items()}
    assert evaluation.numbers["deploy"] == choose(val, len(one.split.val))


def test_test_means_are_those_of_the_rows(judged):
    one, _, _, evaluation = judged
    for name, candidate in evaluation.numbers["candidates"].items():
        rows = evaluation.rows[name]
        assert len(rows) == len(one.split.test)
        for key, interval in candidate["test"].items():
            if key.startswith("surface_mm"):
                continue
            assert interval["value"] == pytest.approx(sum(row[key] for row in rows) / len(rows))
            assert interval["cases"] == len(rows)


def test_a_model_as_good_as_local_gains_exactly_nothing(site):
    one = site()
    initial = one.model.vector.clone()
    local = local_only(one.objective("local"), SCHEDULE, initial)
    found = evaluate(one, {"fedavg": local}, initial, SCHEDULE, JUDGING).numbers["candidates"]
    assert found["fedavg"]["gain"]["value"] == 0.0
    assert found["fedavg"]["test"] == found["local"]["test"]
    assert found["local"]["gain"] is None


def test_what_may_leave_names_nobody(judged):
    one, _, _, evaluation = judged
    text = json.dumps(evaluation.numbers)
    assert not any(case in text for case in one.cohort.cases)
    assert len(text) < 8000


def test_the_scans_of_a_patient_count_once():
    site = SimpleNamespace(cohort=SimpleNamespace(patients={"a1": "a", "b": "b", "a2": "a"}))
    rows = [{"dice_mean": 0.2}, {"dice_mean": 0.9}, {"dice_mean": 0.4}]
    assert by_patient(site, ["a1", "b", "a2"], rows) == [{"dice_mean": pytest.approx(0.3)}, {"dice_mean": 0.9}]


@pytest.mark.parametrize(
    ("steps", "lr"), [([1, 5], 0.1), ([0], 0.1), ([0, -1], 0.1), ([], 0.1), ([0, 1], 0.0), ([0, 1], 10)]
)
def test_senseless_choices_are_refused(steps, lr):
    with pytest.raises(ConfigRefused, match="fine-tuning"):
        ModelSelection(steps, lr)


@pytest.mark.parametrize(("least", "usable"), [(0.0, True), (0.99, False)])
def test_the_site_says_whether_its_choice_is_usable_and_the_floor_does_not_choose(judged, least, usable):
    one, initial, arms, before = judged
    after = evaluate(one, arms, initial, SCHEDULE, replace(JUDGING, least_dice=least))
    reached = min(row["dice_mean"] for row in after.rows[after.numbers["deploy"]]) > 0
    assert after.numbers["usable"] == (usable and reached)
    assert after.numbers["deploy"] == before.numbers["deploy"]
    assert "usable" not in shared_only(after.numbers)
