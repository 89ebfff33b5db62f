"""Whoever adds without the key cannot say that a sum is of other sites, of another round, or another sum at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.errors import RoundRefused
from wardround.secagg import masks
from wardround.secagg.bfv import SLOTS
from wardround.secagg.tags import DATA, Tags, polynomials

T = 17592186028033
KEY = bytes(range(64))
MOMENT = ("ab", 3, 0)
COUNT = 2 * DATA - 100  # two polynomials, the second not full
NAMES = ["s1", "s2", "s3", "s4"]


def given_words(seed, count=COUNT, modulus=T):
    return np.random.default_rng(seed).integers(0, modulus // 8, count, np.uint64)


def total(messages, modulus=T):
    found = messages[0]
    for one in messages[1:]:
        found = masks.add(found, one, modulus)
    return found


@pytest.fixture(scope="module")
def tags():
    return Tags(KEY, T, *MOMENT)


@pytest.fixture(scope="module")
def sent(tags):
    return {name: tags.put(given_words(i), name) for i, name in enumerate(NAMES)}


def refused(tags, slots, sites, count=COUNT):
    with pytest.raises(RoundRefused, match="a tag that does not fit"):
        tags.check(slots, count, sites)


@pytest.mark.parametrize("names", [NAMES, NAMES[1:], NAMES[::-1], NAMES[:1]])
def test_the_sum_of_the_named_sites_passes(tags, sent, names):
    found = tags.check(total([sent[name] for name in names]), COUNT, names)
    assert found.tolist() == sum(given_words(NAMES.index(name)) for name in names).tolist()


@settings(max_examples=12, deadline=None)
@given(count=st.sampled_from([1, DATA - 1, DATA, DATA + 1, 2 * DATA]), modulus=st.sampled_from([T, 2**50 - 27, 40961]))
def test_a_tag_is_the_formula_in_integers_of_any_length(count, modulus):
    tags, words = Tags(KEY, modulus, *MOMENT), given_words(count, count, modulus)
    words[0] = modulus - 1
    rows = tags.put(words, "s1").reshape(-1, SLOTS)
    key = masks.derive(KEY, "tags", *MOMENT)
    k = [int(word) for word in masks.expand(masks.derive(key, "k"), DATA, modulus)]
    own = masks.expand(masks.derive(key, "site", "s1"), len(rows), modulus)
    assert len(rows) == polynomials(count) == -(-count // DATA)
    for row, pad in zip(rows, own, strict=True):
        assert int(row[DATA]) == (sum(a * int(m) for a, m in zip(k, row, strict=False)) + int(pad)) % modulus
    flat = rows[:, :DATA].ravel()
    np.testing.assert_array_equal(flat[:count], words)
    assert not flat[count:].any()


def test_the_largest_words_do_not_overflow():
    modulus = 2**50 - 27
    tags = Tags(KEY, modulus, *MOMENT)
    tags._k = np.full(DATA, modulus - 1, np.uint64)
    rows = np.full((1, SLOTS), modulus - 1, np.uint64)
    assert tags._products(rows) == [DATA * (modulus - 1) ** 2 % modulus]


# --- forgeries


def test_a_site_left_out_or_added_is_refused(tags, sent):
    refused(tags, total([sent[name] for name in NAMES[:3]]), NAMES)
    refused(tags, total([sent[name] for name in NAMES]), NAMES[:3])
    refused(tags, total([sent[name] for name in NAMES[:3]]), NAMES[1:])


def test_a_site_twice_is_refused_even_when_it_is_named_twice(tags, sent):
    twice = total([sent[name] for name in ("s1", "s1", "s2", "s3")])
    refused(tags, twice, NAMES)
    refused(tags, twice, ["s1", "s2", "s3"])
    refused(tags, twice, ["s1", "s1", "s2", "s3"])
    refused(tags, total([sent["s1"]] * 3), ["s1", "s1", "s1"])


@pytest.mark.parametrize("other", [("ab", 2, 0), ("ab", 3, 1), ("cd", 3, 0)])
def test_another_run_round_or_attempt_is_refused(tags, sent, other):
    old = Tags(KEY, T, *other).put(given_words(0), "s1")
    refused(tags, old, ["s1"])
    refused(tags, total([old, *[sent[name] for name in NAMES[1:]]]), NAMES)
    refused(Tags(KEY, T, *other), total(list(sent.values())), NAMES)


def test_another_key_or_name_is_refused(tags):
    refused(tags, Tags(KEY[::-1], T, *MOMENT).put(given_words(0), "s1"), ["s1"])
    refused(tags, tags.put(given_words(0), "s2"), ["s1"])


@settings(max_examples=25, deadline=None)
@given(place=st.integers(0, 2 * SLOTS - 1), change=st.integers(1, T - 1))
def test_every_altered_word_is_refused(place, change):
    tags = Tags(KEY, T, *MOMENT)
    slots = tags.put(given_words(0), "s1")
    slots[place] = (int(slots[place]) + change) % T
    refused(tags, slots, ["s1"])


def test_scaling_a_sum_is_refused(tags, sent):
    slots = total(list(sent.values()))
    refused(tags, masks.add(slots, slots, T), NAMES)
    refused(tags, np.zeros_like(slots), NAMES)


def test_polynomials_of_two_messages_or_two_places_do_not_mix(tags, sent):
    one, two = (sent[name].reshape(-1, SLOTS) for name in ("s1", "s2"))
    refused(tags, np.concatenate([one[0], two[1]]), ["s1"])
    refused(tags, np.concatenate([one[1], one[0]]), ["s1"])
    refused(tags, np.concatenate([one[0], one[0]]), ["s1"])
    both = total([sent["s1"], sent["s2"]]).reshape(-1, SLOTS)
    refused(tags, np.concatenate([both[1], both[0]]), ["s1", "s2"])


def test_another_length_is_refused(tags, sent):
    refused(tags, sent["s1"][:SLOTS], ["s1"])
    refused(tags, sent["s1"], ["s1"], DATA)
    refused(tags, np.concatenate([sent["s1"], sent["s1"][:SLOTS]]), ["s1"])


def test_tags_of_one_message_are_no_constants(tags):
    """The pad of a site is fresh for every polynomial: zeros do not show."""
    slots = tags.put(np.zeros(3 * DATA, np.uint64), "s1").reshape(-1, SLOTS)
    assert len(set(slots[:, DATA].tolist())) == 3
