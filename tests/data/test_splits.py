"""Splits by patient: complete, disjoint, of the right sizes, and stable when patients are added."""

from __future__ import annotations

import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import derive
from wardround.data.splits import (
    PARTS,
    SHARES,
    Fractions,
    Split,
    even_counts,
    split_classes,
    split_patients,
    split_stratified,
)


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


def classes(*counts: int) -> tuple[dict[str, str], dict[str, int]]:
    """Return (case -> patient, case -> class) with so many patients of each class."""
    labels = {f"c{k}p{i}": k for k, count in enumerate(counts) for i in range(count)}
    return {case: case for case in labels}, labels


@pytest.mark.parametrize("seed", range(20))
def test_every_class_of_three_patients_is_in_every_part(seed: int) -> None:
    cases, labels = classes(3, 4, 2, 7, 1)
    split = split_classes(cases, labels, seed=seed)
    assert sorted(split.train + split.val + split.test) == sorted(cases)
    for part in (split.train, split.val, split.test):
        assert {0, 1, 3} <= {labels[case] for case in part}
    for case, part in part_of(split).items():
        if labels[case] in (2, 4):
            assert part == by_hash(case, seed), "a class too small for three parts is left to the hash"


@pytest.mark.parametrize("seed", range(10))
def test_large_classes_are_split_by_the_hash_alone(seed: int) -> None:
    cases, labels = classes(60, 80)
    assert split_classes(cases, labels, seed=seed) == split_patients(cases, seed=seed)


def test_one_class_or_only_rare_ones_are_split_as_without_classes() -> None:
    for counts in ((9,), (2, 2), (1, 1, 1), (2, 1)):
        for seed in range(10):
            cases, labels = classes(*counts)
            assert split_classes(cases, labels, seed=seed) == split_patients(cases, seed=seed)


@pytest.mark.parametrize("seed", range(12))
def test_patients_added_to_one_class_move_nobody_of_another(seed: int) -> None:
    """And of their own class only at its third patient, or while one of its parts has no patient by the hash."""
    before = part_of(split_classes(*classes(3, 4), seed=seed))
    for count in range(4, 25):
        cases, labels = classes(count, 4)
        after = part_of(split_classes(cases, labels, seed=seed))
        own = {by_hash(case, seed) for case in cases if labels[case] == 0 and case in before}
        for case, part in before.items():
            if after[case] != part:
                assert labels[case] == 0
                assert len(own) < 3
        before = after


def test_the_third_patient_of_a_class_can_move_two_others() -> None:
    """Why classes are not looked at under patient-level privacy: one patient more, and the training part changes by three."""
    found = []
    for seed in range(200):
        small, large = (split_classes(*classes(count, 3), seed=seed).train for count in (2, 3))
        pure = (split_patients(classes(count, 3)[0], seed=seed).train for count in (2, 3))
        assert len(set.symmetric_difference(*map(set, pure))) <= 2
        found.append(len(set(small) ^ set(large)))
    assert max(found) == 3


def test_the_scans_of_a_labelled_patient_stay_together_and_have_one_label() -> None:
    cases = {f"p{k}-{scan}": f"p{k}" for k in range(9) for scan in range(3)}
    labels = {case: int(case[1]) % 3 for case in cases}
    parts = part_of(split_classes(cases, labels))
    assert all(len({parts[f"p{k}-{scan}"] for scan in range(3)}) == 1 for k in range(9))
    with pytest.raises(DataRefused, match="1 patients with two labels"):
        split_classes(cases, {**labels, "p0-0": 1})
    with pytest.raises(DataRefused, match="at least 3 patients"):
        split_classes(*classes(1, 1))
    with pytest.raises(ConfigRefused, match="sum 1"):
        split_classes(*classes(4, 4), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1)), (10, (6, 2, 2)),
     (14, (8, 3, 3)), (100, (60, 20, 20))],
)  # fmt: skip
def test_parts_of_a_class_are_as_even_as_whole_patients_allow(count: int, expected: tuple[int, int, int]) -> None:
    assert even_counts(count, SHARES) == expected


@pytest.mark.parametrize(
    "fractions", [SHARES, (0.5, 0.3, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.98, 0.01, 0.01), (0.01, 0.01, 0.98)]
)
def test_even_parts_are_within_one_patient_of_their_fraction_once_nobody_is_lent(fractions: Fractions) -> None:
    for count in range(200):
        found = even_counts(count, fractions)
        assert sum(found) == count
        assert sum(map(bool, found)) == min(count, len(PARTS))
        if min(f * count for f in fractions) >= 1:
            assert all(abs(k - f * count) < 1 for k, f in zip(found, fractions, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_stratified_parts_hold_every_class_that_has_two_patients_in_test(seed: int) -> None:
    counts = (3, 20, 2, 7, 1)
    cases, labels = classes(*counts)
    split = split_stratified(cases, labels, seed=seed)
    assert sorted(split.train + split.val + split.test) == sorted(cases)
    for label, count in enumerate(counts):
        parts = [sum(labels[case] == label for case in getattr(split, part)) for part in PARTS]
        assert tuple(parts) == even_counts(count, SHARES)
    assert {labels[case] for case in split.test} == {0, 1, 2, 3}
    assert split == split_stratified(dict(reversed(cases.items())), labels, seed=seed)
    assert split != split_stratified(cases, labels, seed=seed + 100)


def test_stratified_parts_follow_the_place_of_a_patient_and_keep_scans_together() -> None:
    cases = {f"p{k:02d}-{scan}": f"p{k:02d}" for k in range(15) for scan in range(2)}
    parts = part_of(split_stratified(cases, dict.fromkeys(cases, 0)))
    order = sorted({who for who in cases.values()}, key=lambda who: derive(0, "split", who))
    assert [parts[f"{who}-0"] for who in order] == ["train"] * 9 + ["val"] * 3 + ["test"] * 3
    assert all(parts[f"{who}-0"] == parts[f"{who}-1"] for who in order)


def test_stratified_refusals_are_those_of_the_other_split() -> None:
    with pytest.raises(DataRefused, match="1 patients with two labels"):
        split_stratified({"a1": "a", "a2": "a", "b": "b", "c": "c"}, {"a1": 0, "a2": 1, "b": 0, "c": 1})
    with pytest.raises(DataRefused, match="at least 3 patients"):
        split_stratified(*classes(1, 1))
    with pytest.raises(ConfigRefused, match="sum 1"):
        split_stratified(*classes(4, 4), (0.5, 0.5, 0.5))


def test_a_fixed_training_part_is_a_function_of_each_patient_alone():
    """Patient-level DP counts on it: one patient more adds one to the training part at most, and takes nobody out."""
    kept = refused = 0
    for seed in range(150):
        whole = {f"p{k}": f"p{k}" for k in range(9)}
        place = {
            who: split_patients({**whole, **{f"q{k}": f"q{k}" for k in range(90)}}, seed=seed).train for who in whole
        }
        for count in range(3, 10):
            some = {case: who for case, who in whole.items() if int(case[1:]) < count}
            try:
                found = split_patients(some, seed=seed, fixed_training=True)
            except DataRefused:
                refused += 1
                continue
            kept += 1
            assert found.train == tuple(who for who in sorted(some) if who in place[who])
            assert found.val
            assert found.test
            assert sorted((*found.train, *found.val, *found.test)) == sorted(some)
    assert kept > 100
    assert refused > 100
