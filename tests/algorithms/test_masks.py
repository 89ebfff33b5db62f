from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.algorithms.masks import attention, chosen, drawn

SIZES = {"a": 10, "b": 20, "c": 30, "d": 40}
LIMITS = (1.5, 0.75, 0.6)


def always(b):
    return True


def test_attention_is_the_share_first_and_then_remembers():
    first = attention(None, {"a": 1.0, "b": 3.0}, 0.8)
    assert first == {"a": 0.25, "b": 0.75}
    second = attention(first, {"a": 2.0, "b": 0.0}, 0.8)
    assert second == pytest.approx({"a": 0.8 * 0.25 + 0.2, "b": 0.8 * 0.75})


def test_no_divergence_anywhere_is_equal_attention():
    assert attention(None, dict.fromkeys("abcd", 0.0), 0.5) == dict.fromkeys("abcd", 0.25)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 0.99))
def test_attention_adds_up_to_one(values, rho):
    shares = {str(i): value for i, value in enumerate(values)}
    found = attention(attention(None, shares, rho), shares, rho)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("score", "before", "personal"),
    [(0.374, False, False), (0.375, False, True), (0.3, True, True), (0.1875, True, True), (0.187, True, False)],
)
def test_hysteresis(score, before, personal):
    """G = 4: enters at 1.5 / 4 = .375, leaves below .75 / 4 = .1875."""
    rest = (1 - score) / 3
    scores = {"a": score, "b": min(rest, 0.3), "c": min(rest, 0.3), "d": min(rest, 0.3)}
    assert chosen(scores, ("a",) if before else (), SIZES, always, LIMITS) == (("a",) if personal else ())


def test_the_gate_is_asked_for_blocks_that_enter_only():
    asked = []

    def better(b):
        asked.append(b)
        return False

    assert chosen({"a": 0.45, "b": 0.45, "c": 0.05, "d": 0.05}, ("a",), SIZES, better, LIMITS) == ("a",)
    assert asked == ["b"]


def test_at_most_the_given_share_of_all_parameters():
    scores = {"a": 0.1, "b": 0.0, "c": 0.44, "d": 0.46}
    assert chosen(scores, (), SIZES, always, (1.5, 0.75, 0.6)) == ("d",)  # 40 of 100; c would make 70
    assert chosen(scores, (), SIZES, always, (1.5, 0.75, 0.7)) == ("c", "d")
    assert chosen(scores, ("c",), SIZES, always, (1.5, 0.75, 0.6)) == ("c",)  # who is personal stays


def test_random_blocks_fill_the_room_and_differ_by_stream():
    found = {drawn(SIZES, 0.5, np.random.default_rng(seed)) for seed in range(30)}
    assert len(found) > 3
    for blocks in found:
        used = sum(SIZES[b] for b in blocks)
        assert used <= 50
        assert all(used + SIZES[b] > 50 for b in SIZES if b not in blocks)
