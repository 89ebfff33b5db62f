"""What is learnt, as a value: the brain tumour task is the one of app_configs, others are a description away."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from wardround.core.errors import ConfigRefused
from wardround.data.source import BRAIN_MRI
from wardround.messages.allowed_names import BRAIN_TUMOURS as NAMES
from wardround.messages.allowed_names import allowed
from wardround.tasks.augment import Augment
from wardround.tasks.brain_tumours import BRAIN_TUMOURS, DESCRIPTION
from wardround.tasks.regions import Regions
from wardround.tasks.task import task_from_json

CT = {"inputs": {"ct": ["CT", "im-age"]}, "outputs": {"organs": {"liver": [1, 2], "lesion": [2], "spleen": [7]}}}


@pytest.mark.parametrize("page", ["brats", "brats_ehr"])
def test_the_recipes_say_the_brain_tumour_task(repository: Path, page: str) -> None:
    text = (repository / "app_configs" / "task" / f"{page}.yaml").read_text()
    assert yaml.safe_load(text)["sampling"]["args"]["task"] == DESCRIPTION


def test_the_brain_tumour_task_reads_files_as_ever_and_tells_the_shipped_names() -> None:
    assert BRAIN_TUMOURS.source == BRAIN_MRI
    assert BRAIN_TUMOURS.source.version == []
    assert BRAIN_TUMOURS.network_inputs == 8
    assert BRAIN_TUMOURS.augmentation == Augment()
    found = allowed(BRAIN_TUMOURS.allowed_names)
    assert (found.metrics, found.label_kinds) == (NAMES.metrics, NAMES.label_kinds)
    assert found.others == ("t1", "t1ce", "t2", "flair")


def test_another_task_needs_two_entries() -> None:
    task = task_from_json(CT, "here")
    assert (task.network_inputs, task.outputs.names) == (2, ("liver", "lesion", "spleen"))
    assert (task.source.kind, task.source.values) == ("organs", (1, 2, 7))
    assert [task.inputs.role_of(word) for word in ("ct", "IMAGE", "seg", "t1", "ctx")] == [
        "ct",
        "ct",
        "seg",
        None,
        None,
    ]
    assert "hd95_mm_lesion" in task.allowed_names
    whole = task_from_json({**CT, "outputs": {"organs": {"liver": [1.0], "spleen": [7.0]}}}, "here")
    assert whole.outputs.kinds == {"organs": {"liver": (1,), "spleen": (7,)}}


def test_labels_come_back_where_regions_lie_inside_and_beside_each_other() -> None:
    """Against a rule written out: a voxel is in every region that lists its value; inner regions never reach out."""
    regions = task_from_json(CT, "here").outputs
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 7], np.uint8), (4, 5, 6))
    targets = regions.targets(labels, "organs")
    for name, mask in zip(regions.names, targets, strict=True):
        np.testing.assert_array_equal(mask, np.isin(labels, regions.kinds["organs"][name]))
    np.testing.assert_array_equal(regions.labels(targets.astype(bool), "organs"), labels)
    outside = np.zeros((3, 1), bool)
    outside[1] = True
    assert not regions.nested(outside).any()


@pytest.mark.parametrize("mirrored", [1, 4, 8, 4.0])
def test_a_case_is_predicted_in_one_four_or_eight_mirror_images(mirrored: float) -> None:
    assert task_from_json(CT, "here").mirrored == 1
    assert task_from_json({**CT, "mirrored": mirrored}, "here").mirrored == int(mirrored)


@pytest.mark.parametrize(
    "change",
    [
        {"mirrored": 2},
        {"mirrored": 0},
        {"mirrored": True},
        {"mirrored": "4"},
        {"inputs": {}},
        {"inputs": {"ct": []}},
        {"inputs": {"seg": ["x"]}},
        {"inputs": {"c t": ["x"]}},
        {"inputs": {"dice": "x"}},
        {"inputs": ["ct"]},
        {"outputs": {}},
        {"outputs": {"organs": {}}},
        {"outputs": {"organs": {"mean": [1]}}},
        {"outputs": {"organs": {"of patient": [1]}}},
        {"outputs": {"organs": {"spleen": [0]}}},
        {"outputs": {"organs": {"spleen": [256]}}},
        {"outputs": {"organs": {"spleen": [True]}}},
        {"outputs": {"organs": {"spleen": [1, 1]}}},
        {"outputs": {"classes": {"spleen": [1]}}},
        {"outputs": {"organs": {"spleen": [1]}, "few": {"liver": [1]}}},
        {"masks": "mine"},
        {"normalisation": {"low": 1}},
        {"normalisation": {"low": 2, "high": 1}},
        {"normalisation": "z"},
        {"augmentation": {"wings": 1}},
        {"augmentation": {"flip": 2}},
        {"augmentation": {"flip": True}},
        {"metrics": ["hd95_mm"]},
        {"metrics": ["dice", "age"]},
        {"metrics": "dice"},
        {"missed_mm": 0},
        {"missed_mm": "far"},
        {"wings": 1},
    ],
)
def test_another_description_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused):
        task_from_json({**copy.deepcopy(CT), **change}, "here")


def test_a_name_that_could_be_mistaken_for_a_score_is_none() -> None:
    with pytest.raises(ConfigRefused, match="score"):
        task_from_json({**CT, "inputs": {"dice_mean": ["x"]}}, "here")
    with pytest.raises(ConfigRefused):
        Regions({"organs": {"a_b": (1,)}})
