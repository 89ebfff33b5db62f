"""What rand-k and low rank have in common: they commute with weighted means, keep exact books and one layout."""

import numpy as np
import pytest

from wardround.compression.low_rank import LEFT as LOW_RANK_LEFT
from wardround.compression.low_rank import LowRank
from wardround.compression.payload import payload_bytes
from wardround.compression.rand_k import LEFT as RAND_K_LEFT
from wardround.compression.rand_k import RandK
from wardround.core.arrays import Layout, RunningMean
from wardround.core.stages import Aggregate, Update


@pytest.fixture(params=["rand_k", "low_rank"])
def stage_and_key(request, blocks):
    if request.param == "rand_k":
        return RandK(4, 9, blocks), RAND_K_LEFT
    return LowRank(3, 9, blocks), LOW_RANK_LEFT


def send(stage, update, round_, memory):
    return stage.outbound(Update(update, 1.0), round_, memory)[0].params


def read(stage, sent, round_, memory):
    return stage.inbound(Aggregate(sent, ("alpha",)), round_, memory).params


def test_sent_and_left_are_all_updates(stage_and_key, updates):
    stage, key = stage_and_key
    memory, total, true = {}, 0.0, 0.0
    for round_, update in enumerate(updates * 2):
        sent = send(stage, update, round_, memory)
        total = total + stage.blocks.flatten(read(stage, sent, round_, memory)).astype(np.float64)
        true = true + stage.blocks.flatten(update).astype(np.float64)
        np.testing.assert_allclose(total + memory[key], true, rtol=0, atol=1e-6 * np.abs(true).max())
        assert memory[key].dtype == np.float32


def test_the_mean_of_messages_is_the_message_of_the_mean(stage_and_key, updates):
    """To float64 rounding: float32 integers small enough that every product and sum is exact in rand-k."""
    stage, _ = stage_and_key
    rng = np.random.default_rng(0)
    whole = [
        {name: rng.integers(-8, 8, block.shape).astype(np.float32) for name, block in updates[0].items()}
        for _ in range(4)
    ]
    total = {name: sum(one[name] for one in whole) for name in whole[0]}
    together = send(stage, total, 0, {})
    alone = [send(stage, one, 0, {}) for one in whole]
    for name, block in together.items():
        added = sum(one[name].astype(np.float64) for one in alone)
        exact = isinstance(stage, RandK)
        np.testing.assert_allclose(added, block, rtol=0, atol=0 if exact else 4e-6 * np.abs(block).max())


def test_the_layout_is_what_travels_and_does_not_depend_on_values(stage_and_key, updates):
    stage, _ = stage_and_key
    memory = {}
    for round_, update in enumerate(updates):
        sent = send(stage, update, round_, memory)
        found = {name: (str(a.dtype), a.shape) for name, a in sent.items()}
        assert found == {entry.name: (entry.dtype, entry.shape) for entry in stage.layout(round_)}
        assert payload_bytes(stage.layout(round_)) == sum(a.nbytes for a in sent.values())
        read(stage, sent, round_, memory)


def test_what_a_later_stage_rounds_off_is_owed(stage_and_key, updates):
    """A coarse grid after the stage: with `put_back`, read + owed is still the sum of all updates."""
    stage, key = stage_and_key
    memory, total, true = {}, 0.0, 0.0
    for round_, update in enumerate(updates):
        sent = send(stage, update, round_, memory)
        coarse = {name: np.float32(0.5) * np.round(block / np.float32(0.5)) for name, block in sent.items()}
        stage.put_back({name: sent[name] - coarse[name] for name in sent}, round_, memory)
        total = total + stage.blocks.flatten(read(stage, coarse, round_, memory)).astype(np.float64)
        true = true + stage.blocks.flatten(update).astype(np.float64)
        np.testing.assert_allclose(total + memory[key], true, rtol=0, atol=3e-6 * np.abs(true).max())


def test_weighted_mean_of_sites_with_memories(stage_and_key, updates):
    """Three sites over four rounds: everyone reads one mean, and the weighted books balance."""
    stage, key = stage_and_key
    weights = (1.0, 3.0, 4.0)
    sites, server = [{}, {}, {}], {}
    total, true = 0.0, 0.0
    for round_ in range(4):
        mean, exact = RunningMean(), RunningMean()
        for place, (memory, weight) in enumerate(zip(sites, weights, strict=True)):
            update = updates[(round_ + place) % 5]
            mean.add(send(stage, update, round_, memory), weight)
            exact.add(update, weight)
        heard = [stage.blocks.flatten(read(stage, mean.mean(), round_, memory)) for memory in (*sites, server)]
        for one in heard[1:]:
            np.testing.assert_array_equal(one, heard[0])
        total = total + heard[0].astype(np.float64)
        true = true + stage.blocks.flatten(exact.mean())
    owed = sum(weight * memory[key] for memory, weight in zip(sites, weights, strict=True)) / 8
    np.testing.assert_allclose(total + owed, true, rtol=0, atol=3e-6 * np.abs(true).max())


def test_blocks_in_another_order_give_the_same(stage_and_key, updates, blocks):
    stage, _ = stage_and_key
    turned = Layout(blocks.names[::-1], blocks.shapes[::-1])
    other = type(stage)(4 if isinstance(stage, RandK) else 3, 9, turned)
    assert other == stage
    for name, block in send(stage, updates[0], 0, {}).items():
        np.testing.assert_array_equal(block, send(other, updates[0], 0, {})[name])
