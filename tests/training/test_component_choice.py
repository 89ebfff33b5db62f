"""The largest part of a region: chosen on validation alone, model by model, and deployed with the model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hospital_fixtures import SPEC

from wardround.algorithms.schedule import Schedule
from wardround.models.fingerprint import fingerprint
from wardround.tasks.brain_tumours import BRAIN_TUMOURS
from wardround.tasks.components import RegionFilter
from wardround.training.component_choice import best_limit, postprocessed
from wardround.training.evaluation import ModelSelection, candidates_on_validation, evaluate
from wardround.training.mixture import Mixture, Postprocessed
from wardround.training.pages import keep_models
from wardround.training.prediction import read_weights, ready, regions_of

SHAPE = (6, 6, 12)
SCHEDULE = Schedule(2, 3, 0.05, 0.9, True, 0.0, 10.0, "cosine")
LARGEST = {"largest": True, "least_volume": False}
FILTERED = ModelSelection([0, 1, 3], 0.02, largest_component=True)


class Played:
    """A site whose models predict what is written here: model -> case -> labels; and the experts' labels."""

    def __init__(self, predicted, truth):
        self.predicted, self.truth = predicted, truth
        self.task, self.asked = BRAIN_TUMOURS, set()
        self.cohort = SimpleNamespace(label_kind="brats", patients={case: case[0] for case in truth})

    def labels(self, case):
        self.asked.add(case)
        return self.truth[case]

    def volume(self, case):
        return SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0))

    def logits(self, w, case):
        labels = self.predicted[int(w[0])][case]
        return np.where(self.task.outputs.targets(labels, "brats") > 0, 1.0, -1.0).astype(np.float32)


def labels(*boxes):
    """Return a volume of labels: 2 (oedema) in a box of four voxels at each place given."""
    found = np.zeros(SHAPE, np.uint8)
    for place, size in boxes:
        found[2, 2, place : place + size] = 2
    return found


def test_a_model_with_specks_is_filtered_and_one_that_finds_two_lesions_is_not():
    """One lesion of 4 voxels with a speck of 1 has Dice 8/9, without it 1; of two lesions (4 and 2) the filter loses one."""
    one, speck, two = labels((0, 4)), labels((0, 4), (8, 1)), labels((0, 4), (8, 2))
    site = Played({0: {"a": speck, "b": one}, 1: {"a": one, "b": two}}, {"a": one, "b": one, "test": one})
    models = {"specks": torch.tensor([0.0]), "two": torch.tensor([1.0])}
    found = postprocessed(site, models, ["a", "b"], **LARGEST)
    assert set(found) == {"specks", "two"}
    model, score = found["specks"]
    assert model == Postprocessed(models["specks"], RegionFilter(("WT",)))
    assert (score.value, score.patients) == (pytest.approx(1.0), pytest.approx((1.0, 1.0)))
    assert site.asked == {"a", "b"}, "no test patient is looked at"
    site.truth = {"a": one, "b": two}
    assert set(postprocessed(site, models, ["a", "b"], **LARGEST)) == {"specks"}
    assert postprocessed(site, models, ["b"], **LARGEST) == {}, "nothing gets better: nothing is filtered"


def test_a_blend_is_filtered_as_one_model():
    one, speck = labels((0, 4)), labels((0, 4), (8, 1))
    site = Played({0: {"a": speck}, 1: {"a": speck}}, {"a": one})
    pair = Mixture((torch.tensor([0.0]), torch.tensor([1.0])), (0.25, 0.75))
    ((model, _),) = postprocessed(site, {"blend": pair}, ["a"], **LARGEST).values()
    assert model.model is pair


def test_a_limit_is_half_the_smallest_drawn_unless_validation_loses_by_it():
    volumes, empty, dice = np.array([0.0, 5.0, 40.0]), np.array([True, True, False]), np.array([1.0, 0.0, 0.8])
    assert best_limit(volumes, empty, dice, 10.0) == 10.0, "the speck of 5 is dropped"
    assert best_limit(volumes, empty, dice, 3.0) == pytest.approx(np.sqrt(5 * 40)), (
        "3 leaves it: another limit is better"
    )
    assert best_limit(volumes, empty, dice, 41.0) == pytest.approx(np.sqrt(5 * 40)), "41 drops the tumour"
    assert best_limit(volumes, empty, dice, None) == pytest.approx(np.sqrt(5 * 40))
    assert best_limit(volumes[2:], empty[2:], dice[2:], 10.0) == 10.0, "where nobody lacks the region it does no harm"
    assert best_limit(volumes[2:], empty[2:], dice[2:], 41.0) is None
    assert best_limit(volumes[2:], empty[2:], dice[2:], None) is None


def test_a_region_that_a_patient_does_not_have_is_dropped_where_the_model_finds_specks_of_it():
    """Patient b has no tumour, and the model finds 1 voxel; the smallest that was drawn has 4: dropped below 2."""
    one, none, speck = labels((0, 4)), labels(), labels((8, 1))
    site = Played({0: {"a": one, "b": speck}}, {"a": one, "b": none, "train": one, "test": one})
    site.split = SimpleNamespace(train=["train"], val=["a", "b"])
    models = {"specks": torch.tensor([0.0])}
    ((model, score),) = postprocessed(site, models, ["a", "b"], largest=False, least_volume=True).values()
    assert model.region_filter.largest == ()
    assert model.region_filter.least_mm3["WT"] == 2.0
    assert score.patients == pytest.approx((1.0, 1.0))
    assert "test" not in site.asked, "no test patient is looked at"
    assert postprocessed(site, models, ["a", "b"], largest=True, least_volume=False) == {}


def arms_of(site):
    noise = torch.randn(site.layout.total, generator=torch.Generator().manual_seed(5))
    initial = site.model.vector.clone()
    return initial, {"fedavg": initial - 0.05 * noise}


@pytest.mark.parametrize("blend", [(), (0.5,)], ids=["plain", "with a blend"])
def test_a_hospital_evaluates_and_deploys_a_model_with_its_filter(site, tmp_path, blend):
    one = site()
    initial, arms = arms_of(one)
    selection = replace(FILTERED, blend=blend)
    before = candidates_on_validation(one, arms, initial, SCHEDULE, replace(selection, largest_component=False))
    found = evaluate(one, arms, initial, SCHEDULE, selection)
    filtered = {name: model for name, model in found.weights.items() if isinstance(model, Postprocessed)}
    assert filtered, "the models of this test predict specks"
    for name, candidate in found.numbers["candidates"].items():
        assert (candidate["val"] > before[name].val) == (name in filtered)
        score = one.validation_scores({"": found.weights[name]}, one.split.val)[""]
        assert candidate["val"] == pytest.approx(score.value)
        assert found.rows[name] == one.rows_of({"": found.weights[name]}, one.split.test)[""]
    facts = {"phantoms": True, "label": "x", "cases": {}, "modalities": {}, "label_kind": "brats"}
    name = max(filtered, key=lambda key: key == "blend")
    numbers = {**found.numbers, "deploy": name}
    weights = read_weights(keep_models(replace(found, numbers=numbers), one, SPEC, facts, tmp_path))
    assert weights.region_filter == filtered[name].region_filter
    if name != "blend":
        assert fingerprint(weights.spec) == fingerprint(SPEC)
    for case in one.split.test:
        again = regions_of(one.volume(case), weights, ready(weights, "cpu"))
        assert np.array_equal(again, one.predict(found.weights[name], case))
        assert again.sum() < one.predict(filtered[name].model, case).sum()


def test_without_the_setting_nothing_is_filtered(site):
    one = site()
    initial, arms = arms_of(one)
    found = evaluate(one, arms, initial, SCHEDULE, replace(FILTERED, largest_component=False))
    assert not any(isinstance(model, Postprocessed) for model in found.weights.values())
