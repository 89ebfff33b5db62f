import numpy as np
import pytest

from wardround.compression.half import Half
from wardround.compression.low_rank import LowRank
from wardround.compression.payload import payload_bytes
from wardround.compression.quantise import Quantise
from wardround.compression.rand_k import RandK
from wardround.compression.top_k import TopK
from wardround.core.arrays import RunningMean, norm, subtract
from wardround.research.compressed_rounds import SERVER, LinearSum, OpenedSum

SITES = ("alpha", "beta", "gamma")


def made(name, blocks):
    return {
        "half": lambda: OpenedSum(lambda site: Half(blocks), SITES),
        "quantise": lambda: OpenedSum(lambda site: Quantise(8, 64, 1, blocks, site), SITES),
        "top_k": lambda: OpenedSum(lambda site: TopK(0.2, blocks, site), SITES),
        "rand_k": lambda: LinearSum(RandK(4, 1, blocks), SITES),
        "low_rank": lambda: LinearSum(LowRank(2, 1, blocks), SITES),
    }[name]()


LEFT = {"half": "half.left", "quantise": "quantise.left", "rand_k": "rand_k.left", "low_rank": "low_rank.left"}
WEIGHTS, ROUNDS = (1.0, 2.0, 5.0), 24


def run(sums, updates):
    """Return what everyone applied in every round, of updates that are the same in all rounds."""
    steps = []
    for round_ in range(ROUNDS):
        total = sums(round_)
        for update, weight in zip(updates, WEIGHTS, strict=False):
            total.add(update, weight)
        steps.append(total.mean())
    return steps


@pytest.fixture
def exact(updates):
    mean = RunningMean()
    for update, weight in zip(updates, WEIGHTS, strict=False):
        mean.add(update, weight)
    return mean.mean()


@pytest.mark.parametrize("name", list(LEFT))
def test_all_that_was_applied_and_all_that_is_owed(name, blocks, updates, exact):
    """Over both ways: applied + weighted mean of what sites owe + what the server owes = rounds * mean."""
    sums = made(name, blocks)
    steps = run(sums, updates)
    linear = isinstance(sums, LinearSum)
    stage, memories = (sums.stage, sums.memories) if linear else (sums.stages["alpha"], sums.senders)
    applied = sum(stage.blocks.flatten(step).astype(np.float64) for step in steps)
    owed = sum(weight * memories[site][LEFT[name]] for site, weight in zip(SITES, WEIGHTS, strict=True)) / 8
    owed = owed if linear else owed + memories[SERVER][LEFT[name]]
    true = ROUNDS * stage.blocks.flatten(exact).astype(np.float64)
    np.testing.assert_allclose(applied + owed, true, rtol=0, atol=1e-5 * np.abs(true).max())
    assert sums.up == sums.down == [3 * payload_bytes(stage.layout(round_)) for round_ in range(ROUNDS)]


def test_top_k_both_ways_comes_to_the_mean(blocks, updates, exact):
    sums = made("top_k", blocks)
    steps = run(sums, updates)
    lacks = [subtract(step, exact) for step in steps]
    assert norm(lacks[0]) > 0.01 * norm(exact)
    assert norm(lacks[-1]) < 1e-3 * norm(exact)
    assert sums.up == sums.down == [3 * payload_bytes(sums.stages["alpha"].layout(0))] * ROUNDS
