"""What a report says of a job's settings."""

from __future__ import annotations

import pytest

from wardround.flare.reported_settings import plain, settings_of
from wardround.jobs import folder, recipes


def test_what_is_learnt_is_a_group_whose_values_can_be_compared_one_by_one() -> None:
    executor = folder.client_config(recipes.job("brats_perfedavg", []))["executors"][0]["executor"]["args"]
    found = settings_of(executor)
    assert "task" not in found["sampling"]
    assert found["task"]["normalisation"] == "head_z_scores"
    assert found["task"]["inputs"] == "t1; t1ce; t2; flair"
    assert found["task"]["outputs"] == "brats (ET 3; TC 1, 3; WT 1, 2, 3); whole_tumour (WT 1)"
    assert found["fedavg_baseline"] is True


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.5, 0.5),
        ([1, 2], [1, 2]),
        ({}, ""),
        ({"low": 1, "high": 374.0}, "low 1; high 374"),
        ({"a": {"b": [1, 2], "c": []}}, "a (b 1, 2; c)"),
        ({"a": [[1, 2], [3]]}, "a [1, 2], [3]"),
        ({"path": "x.Y", "args": {"z": 1}}, "x.Y (z 1)"),
    ],
)
def test_nested_values_are_text_without_brackets_of_python(value: object, words: object) -> None:
    assert plain(value) == words
