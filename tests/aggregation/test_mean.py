from __future__ import annotations

import sys

import numpy as np
import pytest

from wardround.aggregation.mean import WeightedMean
from wardround.core.arrays import RunningMean
from wardround.core.errors import RoundRefused


def replies_of(update, count=5):
    rng = np.random.default_rng(0)
    return {f"site-{k}": update(rng.normal(size=8), float(rng.integers(1, 60))) for k in range(count)}


def test_it_is_the_server_s_mean_bit_for_bit(play, update):
    replies = replies_of(update)
    running = RunningMean()
    for one in replies.values():
        running.add(one.params, one.weight)
    aggregate, missing = play(WeightedMean(), replies)
    assert missing == {}
    assert aggregate.sites == tuple(replies)
    assert {n: b.tobytes() for n, b in aggregate.params.items()} == {n: b.tobytes() for n, b in running.mean().items()}


def test_replies_are_folded_and_not_kept(context, update):
    """Memory is flat in the number of sites: after `take` nothing refers to the reply's arrays."""
    ask = next(WeightedMean().round(context()))
    reply = update(np.ones(8))
    before = sys.getrefcount(reply.params["conv"])
    ask.take("site-1", reply)
    after = sys.getrefcount(reply.params["conv"])
    assert after == before


def test_a_second_update_of_a_site_is_refused(context, update):
    ask = next(WeightedMean().round(context()))
    ask.take("site-1", update(np.ones(8)))
    with pytest.raises(RoundRefused, match="second"):
        ask.take("site-1", update(np.ones(8)))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(play, update, weight):
    replies = replies_of(update) | {"odd": update(np.ones(8), weight)}
    aggregate, missing = play(WeightedMean(), replies)
    assert list(missing) == ["odd"]
    assert "odd" not in aggregate.sites


def test_a_round_without_updates_is_refused(play):
    with pytest.raises(RoundRefused, match="0 updates"):
        play(WeightedMean(), {})
