"""Splits by patient: complete, disjoint, of the right sizes, and stable when patients are added."""

from __future__ import annotations

import pytest

from wardround.data.splits import Split, split_patients
from wardround.errors import ConfigRefused, DataRefused
from wardround.rng import derive


def one_each(count: int) -> dict[str, str]:
    return {f"case{k}": f"patient{k}" for k in range(count)}


def part_of(split: Split) -> dict[str, str]:
    return {case: name for name in ("train", "val", "test") for case in getattr(split, name)}


def by_hash(patient: str, seed: int = 0) -> str:
    place = derive(seed, "split", patient) / 2**63
    return "train" if place < 0.6 else "val" if place < 0.8 else "test"


def test_complete_disjoint_and_deterministic() -> None:
    cases = one_each(50)
    split = split_patients(cases)
    assert sorted(split.train + split.val + split.test) == sorted(cases)
    assert split == split_patients(dict(reversed(cases.items())))
    assert split != split_patients(cases, seed=1)
    assert all(part == tuple(sorted(part)) for part in (split.train, split.val, split.test))


def test_sizes_are_the_fractions_within_four_standard_deviations() -> None:
    n = 4000
    split = split_patients(one_each(n), (0.5, 0.3, 0.2))
    for part, share in ((split.train, 0.5), (split.val, 0.3), (split.test, 0.2)):
        assert abs(len(part) - share * n) < 4 * (n * share * (1 - share)) ** 0.5


def test_the_scans_of_a_patient_stay_together() -> None:
    cases = {f"patient{k}-{scan}": f"patient{k}" for k in range(40) for scan in range(3)}
    parts = part_of(split_patients(cases))
    assert all(len({parts[f"patient{k}-{scan}"] for scan in range(3)}) == 1 for k in range(40))


@pytest.mark.parametrize("seed", range(8))
def test_patients_added_one_by_one_change_nobody_else(seed: int) -> None:
    """A patient moves only into or out of a part that its own hash leaves empty."""
    before: dict[str, str] = {}
    for n in range(3, 60):
        after = part_of(split_patients(one_each(n), seed=seed))
        home = {case: by_hash(patient, seed) for case, patient in one_each(n).items()}
        old_home = {home[case] for case in before}
        for case, part in before.items():
            if after[case] != part:
                assert len(old_home) < 3, "every part had patients of its own, and yet one was moved"
        if len(set(home.values())) == 3:
            assert after == home
        before = after


def test_the_nearest_patient_fills_an_empty_part() -> None:
    """All belong to training: the two with the highest places go to val and test, in the order of filling."""
    place = {f"p{k}": derive(0, "split", f"p{k}") / 2**63 for k in range(200)}
    chosen = sorted((p for p in place if place[p] < 0.6), key=place.__getitem__)[:5]
    split = split_patients({p: p for p in chosen})
    assert split.val == (chosen[4],)
    assert split.test == (chosen[3],)
    assert split.train == tuple(sorted(chosen[:3]))


@pytest.mark.parametrize("count", range(3, 12))
def test_no_part_is_empty(count: int) -> None:
    for seed in range(30):
        split = split_patients(one_each(count), seed=seed)
        assert min(len(split.train), len(split.val), len(split.test)) >= 1


def test_refusals() -> None:
    for few in ({}, one_each(2), {"a1": "a", "a2": "a", "a3": "a", "b": "b"}):
        with pytest.raises(DataRefused, match="at least 3 patients"):
            split_patients(few)
    for fractions in ((0.5, 0.5, 0.0), (0.6, 0.3, 0.2), (float("nan"), 0.5, 0.5), (1.2, -0.1, -0.1)):
        with pytest.raises(ConfigRefused, match="sum 1"):
            split_patients(one_each(9), fractions)
