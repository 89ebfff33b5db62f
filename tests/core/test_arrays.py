import hashlib
import itertools
import math

import numpy as np
import pytest

from wardround.core import arrays
from wardround.core.arrays import Layout, RunningMean
from wardround.core.errors import RoundRefused


def block(*values):
    return np.array(values, np.float32)


A = {"w": block(1, 2), "b": block(3)}
B = {"w": block(10, 20), "b": block(30)}
UNLIKE = [
    {"w": block(1, 2)},
    {**A, "c": block(1)},
    {"w": block(1, 2), "v": block(3)},
    {"w": block(1, 2, 3), "b": block(3)},
]


def test_subtract_by_hand():
    result = arrays.subtract(B, A)
    assert {name: list(values) for name, values in result.items()} == {"w": [9, 18], "b": [27]}
    assert all(values.dtype == np.float32 for values in result.values())


def test_add_scaled_by_hand():
    result = arrays.add_scaled(A, {"w": block(10, 20)}, 0.5)
    assert {name: list(values) for name, values in result.items()} == {"w": [6, 12], "b": [3]}
    assert list(A["w"]) == [1, 2]


def test_adding_a_difference_gives_the_other_end():
    result = arrays.add_scaled(A, arrays.subtract(B, A), 1.0)
    assert all(np.array_equal(result[name], B[name]) for name in B)


@pytest.mark.parametrize("other", UNLIKE)
def test_what_does_not_fit_is_refused(other):
    with pytest.raises(RoundRefused):
        arrays.subtract(A, other)
    with pytest.raises(RoundRefused):
        arrays.require_same_blocks(other, A, "a test")


def test_adding_a_block_that_is_not_there_is_refused():
    with pytest.raises(RoundRefused):
        arrays.add_scaled(A, {"other": block(1)}, 1.0)
    with pytest.raises(RoundRefused):
        arrays.add_scaled(A, {"w": block(1, 2, 3)}, 1.0)


def test_norm_by_hand():
    assert arrays.norm({"w": block(3, 0), "b": block(4)}) == 5
    assert arrays.norm({}) == 0


def test_norm_of_large_numbers():
    """Their squares are beyond single precision."""
    assert arrays.norm({"w": block(3e20, 4e20)}) == pytest.approx(5e20, rel=1e-6)


def test_digest_is_the_documented_hash():
    text = b"b(1,)" + block(3).tobytes() + b"w(2,)" + block(1, 2).tobytes()
    assert arrays.digest(A) == hashlib.sha256(text).hexdigest()


def test_digest_depends_on_names_shapes_and_values_only():
    assert arrays.digest(dict(reversed(A.items()))) == arrays.digest(A)
    turned = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert arrays.digest({"w": turned}) == arrays.digest({"w": np.ascontiguousarray(turned)})
    different = [
        {"w": block(1, 2), "c": block(3)},
        {"w": block(1, 2.5), "b": block(3)},
        {"w": block(1, 2).reshape(2, 1), "b": block(3)},
        {"w": block(1, 2)},
    ]
    assert len({arrays.digest(one) for one in (A, *different)}) == 5


def test_size_is_four_bytes_a_number():
    assert arrays.size_bytes({"w": np.zeros((2, 3)), "s": np.zeros(())}) == 28


def test_variables_keep_their_blocks_apart():
    wire = arrays.in_variable("model", A) | arrays.in_variable("control", B)
    assert sorted(wire) == ["control:b", "control:w", "model:b", "model:w"]
    assert arrays.from_variable("model", wire) == A
    assert arrays.from_variable("control", wire) == B
    assert arrays.from_variable("mod", wire) == {}


LAYOUT = Layout(("w", "b", "s"), ((2, 3), (2,), ()))
BLOCKS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": block(6, 7), "s": np.float32(8).reshape(())}


class TestLayout:
    def test_sizes(self):
        assert LAYOUT.sizes == (6, 2, 1)
        assert LAYOUT.total == 9

    def test_flatten_follows_the_order_of_the_names(self):
        vector = LAYOUT.flatten(dict(reversed(BLOCKS.items())))
        assert list(vector) == list(range(9))
        assert vector.dtype == np.float32

    def test_unflatten_is_the_way_back_and_shares_memory(self):
        vector = np.arange(9, dtype=np.float32)
        back = LAYOUT.unflatten(vector)
        assert all(np.array_equal(back[name], BLOCKS[name]) for name in BLOCKS)
        vector[0] = 100
        assert back["w"][0, 0] == 100

    def test_mask_chooses_coordinates(self):
        assert list(LAYOUT.mask(["b"])) == [False] * 6 + [True, True] + [False]
        assert not LAYOUT.mask([]).any()

    @pytest.mark.parametrize("wrong", [{}, {"w": block(1)}])
    def test_other_blocks_are_refused(self, wrong):
        with pytest.raises(RoundRefused):
            LAYOUT.flatten(wrong)


class TestRunningMean:
    def test_weighted_by_hand(self):
        """(1 * 1 + 3 * 5) / 4 = 4"""
        mean = RunningMean()
        mean.add({"w": block(1)}, 1)
        mean.add({"w": block(5)}, 3)
        assert mean.mean()["w"][0] == 4
        assert mean.mean()["w"].dtype == np.float32
        assert mean.count == 2

    def test_one_update_is_its_own_mean(self):
        values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
        mean = RunningMean()
        mean.add({"w": values}, 7)
        np.testing.assert_array_equal(mean.mean()["w"], values)

    def test_the_order_of_arrival_does_not_matter(self):
        random = np.random.default_rng(1)
        updates = [(random.normal(size=500).astype(np.float32), weight) for weight in (3, 17, 5, 40)]
        means = []
        for order in itertools.permutations(updates):
            mean = RunningMean()
            for values, weight in order:
                mean.add({"w": values}, weight)
            means.append(mean.mean()["w"])
        assert all(np.array_equal(means[0], other) for other in means)

    def test_the_sum_is_kept_in_double_precision(self):
        """2^24 + 1 - 2^24 = 1; single precision would lose the 1."""
        mean = RunningMean()
        for value in (2.0**24, 1, -(2.0**24)):
            mean.add({"w": block(value)}, 1)
        assert mean.mean()["w"][0] == np.float32(1 / 3)

    @pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
    def test_a_senseless_weight_is_refused(self, weight):
        mean = RunningMean()
        with pytest.raises(RoundRefused, match="weight"):
            mean.add(A, weight)
        assert mean.count == 0

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_refused_update_adds_nothing(self, value):
        """The bad block comes last: the good one before it must not have been added."""
        mean = RunningMean()
        mean.add(A, 1)
        with pytest.raises(RoundRefused, match="finite"):
            mean.add({"w": block(100, 100), "b": block(value)}, 1)
        assert {name: list(values) for name, values in mean.mean().items()} == {"w": [1, 2], "b": [3]}

    @pytest.mark.parametrize("other", UNLIKE)
    def test_other_blocks_than_the_first_are_refused(self, other):
        mean = RunningMean()
        mean.add(A, 1)
        with pytest.raises(RoundRefused):
            mean.add(other, 1)
        assert mean.count == 1

    def test_what_was_added_may_be_changed_afterwards(self):
        values, mean = block(1, 2), RunningMean()
        mean.add({"w": values}, 1)
        values[:] = 100
        assert list(mean.mean()["w"]) == [1, 2]

    def test_no_update_no_mean(self):
        with pytest.raises(RoundRefused, match="no updates"):
            RunningMean().mean()
