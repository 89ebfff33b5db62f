"""HD95 apart from its penalty, and the words of one patient: known answers."""

import numpy as np
import pytest

from wardround.reports import distances, patients
from wardround.reports.cards import candidate_table
from wardround.reports.html import PARTS
from wardround.tasks.metrics import MISSED_MM, case_scores, case_volumes

KNOWN, SPACING = np.array([False, False, True]), (2.0, 5.0, 10.0)


def masks(filled: bool) -> np.ndarray:
    made = np.zeros((3, 6, 6, 6), bool)
    made[2, 1:4, 1:4, 1:4] = filled
    return made


def row(pred: bool, truth: bool) -> dict[str, float]:
    given = (masks(pred), masks(truth), KNOWN, SPACING, ("ET", "TC", "WT"))
    return case_scores(*given) | case_volumes(*given)


GOOD, MISSED, INVENTED, EMPTY = row(True, True), row(False, True), row(True, False), row(False, False)


def test_volumes_are_millilitres_and_empty_sides_are_named() -> None:
    assert (MISSED["ml_WT"], MISSED["ml_expert_WT"]) == (0.0, pytest.approx(2.7))
    found = [(one["missed_WT"], one["invented_WT"]) for one in (GOOD, MISSED, INVENTED, EMPTY)]
    assert found == [(0, 0), (1, 0), (0, 1), (0, 0)]
    assert "ml_ET" not in GOOD


def test_a_miss_does_not_hide_in_a_mean_distance() -> None:
    """The BraTS mean of [0, 0, 374] is 125 mm, which no outline of these patients is off by."""
    rows = [GOOD, GOOD, MISSED]
    assert sum(one["hd95_mm_WT"] for one in rows) / 3 == pytest.approx(MISSED_MM / 3)
    apart = distances.apart(rows)
    assert apart["surface_mm_WT"] == {"value": 0.0, "low": None, "high": None, "cases": 2}
    assert distances.in_words(apart, "WT") == "0.0 mm in 2 of 3; missed in 1 of 3"
    assert distances.in_words(distances.apart([INVENTED, MISSED]), "WT") == "missed in 1 of 2; invented in 1 of 2"
    assert distances.in_words(distances.apart([EMPTY]), "WT") == "empty on both sides"
    assert distances.in_words({}, "WT") is None
    table = PARTS.table(candidate_table({"local": {"test": apart}}, "local", "c"))
    assert "0.0 mm in 2 of 3; missed in 1 of 3" in table
    assert "374" not in table


@pytest.mark.parametrize(
    ("one", "words"), [(GOOD, "0.0 mm"), (MISSED, "missed"), (INVENTED, "invented"), (EMPTY, "empty on both sides")]
)
def test_the_words_of_one_patient(one: dict[str, float], words: str) -> None:
    said = patients.in_words(one)
    assert said["WT outline within"] == words
    assert said["WT, ml: predicted / expert"] == f"{one['ml_WT']:.1f} / {one['ml_expert_WT']:.1f}"


def test_classes_have_names() -> None:
    one = {"class": 2.0, "p glioma": 0.5, "p meningioma": 0.2, "p pituitary": 0.3}
    assert patients.in_words(one)["Expert"] == "pituitary"
    assert patients.in_words(one)["Model says"] == "glioma"
    assert patients.patient_score(one) == 0.3
    assert "in 0 of 1." in patients.summary([one])
    assert "overlaps the expert's by 50% on average (Dice), and by 0% in the worst" in patients.summary([GOOD, MISSED])
    assert patients.summary([]) == ""
