import numpy as np
import pytest

from wardround.compression.payload import payload_bytes
from wardround.compression.rand_k import RandK
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.stages import Update


@pytest.mark.parametrize("period", [4, 7])
def test_every_coordinate_is_sent_in_every_period(blocks, period):
    stage = RandK(period, 1, blocks)
    for turn in range(2):
        rounds = [stage.places(turn * period + slot) for slot in range(period)]
        assert {len(places) for places in rounds} == {24 + -(-1200 // period) + -(-1728 // period)}
        assert all(len(set(places)) == len(places) for places in rounds)
        assert len(set(np.concatenate(rounds))) == blocks.total
    assert set(stage.places(0)) != set(stage.places(period))


def test_each_slice_alone_is_uniform():
    """Over 400 seeds a coordinate of 512 is in the first of four slices 100 times, within five deviations."""
    blocks = Layout(("a",), ((16, 32),))
    counts = np.zeros(512)
    for seed in range(400):
        counts[RandK(4, seed, blocks).places(0)] += 1
    assert np.abs(counts - 100).max() < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_bytes_in_closed_form(blocks):
    assert payload_bytes(RandK(8, 0, blocks).layout(3)) == 4 * (24 + 150 + 216)


def test_a_constant_update_arrives_whole_in_a_period():
    """The same update in every round: after one period each value was sent once, with all it had gathered."""
    blocks = Layout(("a",), ((16, 32),))
    stage, memory = RandK(4, 2, blocks), {}
    seen = np.zeros(512)
    for round_ in range(4):
        sent, _ = stage.outbound(Update({"a": np.ones((16, 32), np.float32)}, 1.0), round_, memory)
        assert set(sent.params["a"]) == {round_ + 1.0}
        seen[stage.places(round_)] = round_ + 1
    np.testing.assert_array_equal(seen + memory["rand_k.left"], np.full(512, 4.0))


def test_settings_that_make_no_sense(blocks):
    for period in (0, 1, 5000):
        with pytest.raises(ConfigRefused):
            RandK(period, 0, blocks)
