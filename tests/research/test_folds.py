"""Cross-validation by patient: everybody is tested once, nobody is in two parts, and the answer depends on the seed alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.errors import DataRefused
from wardround.research.folds import folds, indices, whole


def cases_of(patients: int, scans: int = 1) -> dict[str, str]:
    return {f"p{who}-{scan}": f"p{who}" for who in range(patients) for scan in range(scans)}


@given(st.integers(4, 60), st.integers(2, 6), st.integers(0, 5), st.integers(1, 3))
def test_every_patient_is_tested_once_and_is_in_one_part(patients: int, count: int, seed: int, scans: int) -> None:
    cases = cases_of(patients, scans)
    if patients < count or patients - -(-patients // count) < 2:
        with pytest.raises(DataRefused, match="fewer folds"):
            folds(cases, count, seed)
        return
    splits = folds(cases, count, seed)
    assert len(splits) == count
    tested = Counter(case for split in splits for case in split.test)
    assert tested == Counter(list(cases))
    for split in splits:
        parts = [{cases[case] for case in part} for part in (split.train, split.val, split.test)]
        assert all(parts)
        assert sum(map(len, parts)) == patients
        assert sorted(split.train + split.val + split.test) == sorted(cases)
        assert list(split.train) == sorted(split.train)
    sizes = [len({cases[case] for case in split.test}) for split in splits]
    assert max(sizes) - min(sizes) <= 1


def test_five_folds_are_as_large_as_the_parts_of_a_job() -> None:
    split = folds(cases_of(45), 5, 0)[0]
    assert [len(part) for part in (split.train, split.val, split.test)] == [27, 9, 9]
    split = folds(cases_of(14), 5, 0)[0]
    assert [len(part) for part in (split.train, split.val, split.test)] == [8, 3, 3]


def test_another_seed_deals_other_folds_and_the_same_seed_the_same() -> None:
    cases = cases_of(30)
    assert folds(cases, 5, 1) == folds(dict(reversed(cases.items())), 5, 1)
    assert folds(cases, 5, 1) != folds(cases, 5, 2)


def test_a_split_without_test_patients_uses_everybody() -> None:
    cases = cases_of(12, 2)
    split = whole(cases, 3)
    assert split.test == ()
    assert sorted(split.train + split.val) == sorted(cases)
    assert len(split.val) == 2 * 3
    with pytest.raises(DataRefused):
        whole(cases_of(1, 3), 0)


def test_numbers_of_patients_are_theirs_alone_and_do_not_follow_the_names() -> None:
    cases = cases_of(40, 2)
    found = indices(cases)
    assert sorted(found.values(), key=int) == [str(place) for place in range(40)]
    assert [found[patient] for patient in sorted(found)] != sorted(found.values(), key=int)
    assert found == indices(dict(reversed(cases.items())))
