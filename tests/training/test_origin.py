"""A model's file says what it began from, beside what it was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from wardround.data.volumes import NOTICE_ROOM
from wardround.training import origin

TRAINED = {"trained_on": origin.of_sites([False])}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"shipped": "randomised_phantoms", "sha256": "ab"}, "trained on synthetic patients only"),
        ({"file": "/data/w", "sha256": "ab"}, "a file of the job"),
    ],
)
def test_what_a_model_began_from_is_said(weights: dict[str, str], words: str) -> None:
    meta = {**TRAINED, "model": {"path": "UNet3d", "args": {"weights": weights}}}
    said = origin.words(meta)
    assert said.startswith("trained on patients of 1 hospital; it began from the weights of ")
    assert words in said
    # First weights of phantoms do not make a model of patients one of phantoms.
    assert not origin.is_synthetic(meta)
    assert "/data" not in said


@pytest.mark.parametrize(
    ("kinds", "words"), [([True], origin.NOTICE), ([True, False], origin.NOTICE), ([False], ""), ([None], "")]
)
def test_only_a_model_of_invented_patients_has_a_notice(kinds: list[bool | None], words: str) -> None:
    assert origin.notice({"trained_on": origin.of_sites(kinds)}) == words
    assert len(origin.NOTICE) <= NOTICE_ROOM


@pytest.mark.parametrize(
    "model", [None, {}, {"args": {}}, {"args": {"weights": None}}, {"args": {"weights": "x"}}, "x"]
)
def test_drawn_weights_are_not_mentioned(model: Any) -> None:
    assert origin.words({**TRAINED, "model": model}) == "trained on patients of 1 hospital"
