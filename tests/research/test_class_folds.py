"""Every patient of a class with three or more is tested once, and trains where neither tested nor validated on."""

from __future__ import annotations

from collections import Counter

import pytest

from wardround.core.errors import ConfigRefused
from wardround.research.class_folds import class_folds, fold_split


def patients(*counts: int) -> tuple[dict[str, str], dict[str, int]]:
    """Two scans of so many patients of each class."""
    labels = {f"c{k}p{i}-{scan}": k for k, count in enumerate(counts) for i in range(count) for scan in range(2)}
    return {case: case.partition("-")[0] for case in labels}, labels


@pytest.mark.parametrize("folds", [3, 5])
@pytest.mark.parametrize("counts", [(9, 4, 3), (3, 2, 1, 11), (30,)])
def test_folds_are_even_over_all_and_within_each_class(counts: tuple[int, ...], folds: int) -> None:
    cases, labels = patients(*counts)
    of = class_folds(cases, labels, folds, 0)
    for label, count in enumerate(counts):
        sizes = Counter(fold for who, fold in of.items() if who.startswith(f"c{label}"))
        assert sum(sizes.values()) == (count if count >= 3 else 0)
        if sizes:
            assert max(sizes.values()) - min(sizes[fold] for fold in range(folds)) <= 1
    whole = Counter(of.values())
    assert max(whole.values()) - min(whole[fold] for fold in range(folds)) <= 1


def test_over_all_folds_everybody_is_tested_and_validated_on_once() -> None:
    cases, labels = patients(6, 3, 2, 1)
    of = class_folds(cases, labels, 5, 0)
    splits = [fold_split(cases, of, 5, fold) for fold in range(5)]
    for part in ("val", "test"):
        held = Counter(case for split in splits for case in getattr(split, part))
        assert held == {case: 1 for case in cases if labels[case] in (0, 1)}
    for split in splits:
        assert sorted(split.train + split.val + split.test) == sorted(cases)
        assert {labels[case] for case in split.train} == {0, 1, 2, 3}, "a class that is tested is trained on as well"
        owners = [{cases[case] for case in getattr(split, part)} for part in ("train", "val", "test")]
        assert sum(map(len, owners)) == len(set().union(*owners)), "no patient in two parts"


def test_folds_depend_on_the_seed_and_not_on_the_order() -> None:
    cases, labels = patients(9, 9)
    assert class_folds(cases, labels, 5, 0) == class_folds(dict(reversed(cases.items())), labels, 5, 0)
    assert class_folds(cases, labels, 5, 0) != class_folds(cases, labels, 5, 1)


def test_refusals() -> None:
    cases, labels = patients(9)
    with pytest.raises(ConfigRefused, match="3 or more"):
        class_folds(cases, labels, 2, 0)
    for fold in (-1, 5):
        with pytest.raises(ConfigRefused, match="0 to 4"):
            fold_split(cases, class_folds(cases, labels, 5, 0), 5, fold)
