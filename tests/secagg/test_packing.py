"""Packing against integers of any length: a field never carries into the next, for as many sites as were stated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.keystream import WORD
from wardround.secagg.packing import Packing, fields_below

PRIME = 17592186028033  # 44 bits
quick = settings(max_examples=40, deadline=None)


def added(packing, updates):
    """Return the sum of packed updates, mod the modulus, in integers of any length."""
    words = [0] * packing.words(len(updates[0]))
    for update in updates:
        words = [
            (a + int(b)) % packing.modulus for a, b in zip(words, packing.pack(np.array(update, np.int32)), strict=True)
        ]
    return np.array(words, np.uint64)


@pytest.mark.parametrize("modulus", [WORD, PRIME, 2**50])
@pytest.mark.parametrize("sites", [1, 3, 8, 256])
@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_the_stated_number_of_sites_at_their_extremes_come_back_exactly(bits, sites, modulus):
    levels = 2 ** (bits - 1) - 1
    packing = Packing(levels, sites, modulus)
    count = 3 * packing.fields + 1
    high, low = [levels] * count, [-levels] * count
    mixed = [levels if i % 2 else -levels for i in range(count)]
    for update in (high, low, mixed):
        found = packing.unpack(added(packing, [update] * sites), count, sites)
        assert found.tolist() == [sites * q for q in update]


@quick
@given(bits=st.integers(4, 16), sites=st.integers(1, 40), modulus=st.sampled_from([WORD, PRIME, 2**48]), data=st.data())
def test_any_sum_comes_back_exactly(bits, sites, modulus, data):
    levels = 2 ** (bits - 1) - 1
    packing = Packing(levels, sites, modulus)
    count, seed = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 1000))
    here = data.draw(st.integers(1, sites))
    updates = np.random.default_rng(seed).integers(-levels, levels + 1, (here, count))
    np.testing.assert_array_equal(packing.unpack(added(packing, updates), count, here), updates.sum(axis=0))


def test_a_word_is_mixed_radix_by_hand():
    packing = Packing(levels=2, sites=3, modulus=13**2)
    assert (packing.radix, packing.fields, packing.words(3)) == (13, 2, 2)
    # u = q + 2; first row (2, -1), second row (0, padding 0)
    assert packing.pack(np.array([2, -1, 0], np.int32)).tolist() == [4 + 13 * 2, 1 + 13 * 2]


@pytest.mark.parametrize(("radix", "modulus", "expected"), [(13, 12, 0), (13, 13, 1), (13, 168, 1), (13, 169, 2)])
def test_fields_below_by_hand(radix, modulus, expected):
    assert fields_below(radix, modulus) == expected


@quick
@given(radix=st.integers(2, 2**30), modulus=st.integers(1, WORD))
def test_fields_below_is_the_largest(radix, modulus):
    count = fields_below(radix, modulus)
    assert radix**count <= modulus < radix ** (count + 1)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_words_are_just_enough(count):
    packing = Packing(7, 8, WORD)
    assert (packing.words(count) - 1) * packing.fields < count <= packing.words(count) * packing.fields


@pytest.mark.parametrize("beyond", [8, -8])
def test_an_integer_beyond_the_levels_is_refused(beyond):
    with pytest.raises(RoundRefused, match="-7 to 7"):
        Packing(7, 8, WORD).pack(np.array([0, beyond], np.int32))


def test_one_site_more_than_stated_is_refused_and_would_overflow():
    packing = Packing(7, 3, WORD)
    count = packing.fields
    with pytest.raises(RoundRefused, match="1 to 3 sites"):
        packing.unpack(added(packing, [[7] * count] * 4), count, 4)
    roomier = Packing(7, 4, WORD)  # with the radix of 3 sites, the fields of 4 carry
    assert packing.radix <= 4 * 2 * 7 < roomier.radix


@pytest.mark.parametrize("sites", [0, -1])
def test_a_sum_of_nobody_is_refused(sites):
    packing = Packing(7, 3, WORD)
    with pytest.raises(RoundRefused, match="1 to 3 sites"):
        packing.unpack(packing.pack(np.zeros(4, np.int32)), 4, sites)


@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_words_is_refused(change):
    packing = Packing(7, 3, WORD)
    count = 5 * packing.fields
    with pytest.raises(RoundRefused, match="5 words"):
        packing.unpack(np.zeros(5 + change, np.uint64), count, 2)


def test_a_word_that_no_sum_gives_is_refused():
    packing = Packing(7, 3, WORD)
    one = packing.pack(np.full(packing.fields, 7, np.int32))
    assert packing.unpack(one, packing.fields, 1).tolist() == [7] * packing.fields
    too_large_a_field = one + np.uint64(1)
    beyond_all_fields = np.array([WORD - 1], np.uint64)
    assert packing.radix**packing.fields <= WORD - 1
    for word in (too_large_a_field, beyond_all_fields):
        with pytest.raises(RoundRefused, match="no sum of so many sites"):
            packing.unpack(word, packing.fields, 1)
    # three sites may reach what one may not
    assert packing.unpack(too_large_a_field, packing.fields, 3)[0] == 15 - 3 * 7


@pytest.mark.parametrize(
    ("levels", "sites", "modulus"), [(0, 3, WORD), (7, 0, WORD), (7, 3, 42), (7, 3, WORD + 1), (2**62, 2, WORD)]
)
def test_a_packing_without_room_is_refused(levels, sites, modulus):
    with pytest.raises(ConfigRefused, match="at least one field"):
        Packing(levels, sites, modulus)


def test_the_smallest_room_is_enough():
    packing = Packing(7, 3, 43)
    assert packing.fields == 1
    assert packing.unpack(added(packing, [[7], [7], [7]]), 1, 3).tolist() == [21]
