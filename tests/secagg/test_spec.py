"""The promise: every value is given, every combination that would not protect is refused."""

from dataclasses import asdict

import pytest

from wardround.core.errors import ConfigRefused
from wardround.core.keystream import WORD
from wardround.secagg.spec import SecAggSpec

MODES = ["fixed", "masked", "he", "he with masks", "ring"]


def test_a_promise_has_no_defaults(promise):
    given = asdict(promise("ring"))
    for name in given:
        with pytest.raises(TypeError):
            SecAggSpec(**{key: value for key, value in given.items() if key != name})
        with pytest.raises(ConfigRefused, match=f"no proper {name}"):
            SecAggSpec(**given | {name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [("masks", 1), ("ring", "true"), ("encryption", 0), ("sites", 8.0), ("bits", "8"), ("threshold", False)],
)
def test_values_of_another_kind_are_refused(promise, name, value):
    with pytest.raises(ConfigRefused, match=f"no proper {name}"):
        promise("fixed", **{name: value})


@pytest.mark.parametrize("mode", MODES)
def test_modes_have_names_and_moduli(promise, mode):
    found = promise(mode)
    assert found.mode == mode
    assert found.packing.levels == found.levels == 127
    assert found.packing.sites == 8
    assert found.packing.modulus == found.modulus
    assert (found.modulus == WORD) == (mode in ("fixed", "masked"))
    assert found.packing.fields == (4 if found.encryption else 5)  # 11 bits each of 44 and of 64


@pytest.mark.parametrize(
    "changed",
    [
        {"min_clients": 2},
        {"min_clients": 0},
        {"min_clients": 9},
        {"sites": 2, "min_clients": 2},
        {"sites": 257},
        {"bits": 3},
        {"bits": 17},
        {"weights": "patients"},
        {"weights": ""},
        {"reference_patients": 0},
        {"threshold": -1},
        {"threshold": 2},
        {"threshold": 9},
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_values_out_of_range_are_refused(promise, mode, changed):
    with pytest.raises(ConfigRefused, match="the job's protection"):
        promise(mode, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"sites": 256},
        {"sites": 3},
        {"min_clients": 8},
        {"bits": 4},
        {"bits": 16},
        {"weights": "equal"},
        {"weights": "patients_plaintext"},
        {"reference_patients": 1},
        {"threshold": 5},
        {"threshold": 8},
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_the_ends_of_the_ranges_are_allowed(promise, mode, changed):
    assert promise(mode, **changed).packing.fields >= 1


@pytest.mark.parametrize(("masks", "encryption"), [(False, False), (True, False), (False, True)])
def test_a_ring_needs_masks_and_encryption(promise, masks, encryption):
    with pytest.raises(ConfigRefused, match="neighbours"):
        promise("ring", masks=masks, encryption=encryption)


@pytest.mark.parametrize("sites", [3, 4, 5, 8, 9, 256])
def test_two_groups_never_open_one_sum_each(promise, sites):
    """A site answers once in a round: with more than half of the sites to every opening, two openings share a site."""
    least = next(t for t in range(3, sites + 1) if 2 * t > sites)
    assert promise("masked", sites=sites, threshold=least).threshold == least
    if least > 3:
        with pytest.raises(ConfigRefused, match=f"{least} to {sites}"):
            promise("masked", sites=sites, threshold=least - 1)
    for threshold in (0, *range(least, sites + 1)):
        found = promise("masked", sites=sites, threshold=threshold)
        for here in range(3, sites + 1):
            assert 3 <= found.threshold_of(here) <= here < 2 * found.threshold_of(here)


@pytest.mark.parametrize(("threshold", "here", "expected"), [(0, 3, 3), (0, 4, 3), (0, 8, 7), (5, 8, 5), (5, 4, 4)])
def test_how_many_open_a_sum(promise, threshold, here, expected):
    assert promise("masked", threshold=threshold).threshold_of(here) == expected


def test_weights_by_hand(promise):
    equal, in_sum, told = (promise("he", weights=w) for w in ("equal", "patients_in_sum", "patients_plaintext"))
    assert (equal.weighted, in_sum.weighted, told.weighted) == (False, True, True)
    assert (equal.weight(20), in_sum.weight(20), told.weight(4)) == (1.0, 2.5, 0.5)
    assert (equal.denominator(5, 0), in_sum.denominator(5, 20), told.denominator(5, 4)) == (5.0, 2.5, 0.5)


@pytest.mark.parametrize("sites", [0, 1, 2, 9])
def test_too_few_or_too_many_sites_are_refused(promise, sites):
    with pytest.raises(ConfigRefused, match="3 to 8 sites"):
        promise("fixed").require_enough(sites, "a sum")
    for enough in (3, 8):
        promise("fixed").require_enough(enough, "a sum")
