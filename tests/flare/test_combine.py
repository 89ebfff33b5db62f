import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply

from wardround.errors import ConfigRefused, RoundRefused
from wardround.flare import wire
from wardround.flare.combine import Combine, require_enough


@pytest.fixture
def combine(context):
    made = Combine("zeros")
    made.reset(context())
    return made


@pytest.fixture
def accept(combine, context, update, sent):
    def give(site, value, weight=1.0, shape=(2,)):
        block = {"model:w": np.full(shape, value, np.float32)}
        return combine.accept(sent(wire.update_message(update(block, weight)), site), context())

    return give


def mean(combine, context):
    dxo = from_shareable(combine.aggregate(context()))
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    return dxo.data["model:w"]


def test_mean_weighted_by_patients(combine, accept, context):
    """(1 * 2 + 3 * 6 + 4 * 11) / 8 = 8"""
    assert accept("site-1", 2, weight=1)
    assert accept("site-2", 6, weight=3)
    assert accept("site-3", 11, weight=4)
    np.testing.assert_array_equal(mean(combine, context), np.array([8, 8], np.float32))


def test_a_second_update_of_a_site_is_not_added(combine, accept, context):
    assert accept("site-1", 2)
    assert not accept("site-1", 100)
    assert accept("site-2", 4)
    assert mean(combine, context)[0] == 3


def test_another_shape_is_not_added(combine, accept, context):
    assert accept("site-1", 2)
    assert not accept("site-2", 100, shape=(3,))
    assert mean(combine, context)[0] == 2


def test_another_block_is_not_added(combine, accept, context, update, sent):
    assert accept("site-1", 2)
    other = {"model:v": np.ones(2, np.float32)}
    assert not combine.accept(sent(wire.update_message(update(other)), "site-2"), context())
    assert mean(combine, context)[0] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_added(combine, accept, context, value):
    assert not accept("site-1", value)
    assert accept("site-2", 4)
    assert mean(combine, context)[0] == 4


def test_a_rejected_site_may_send_again(combine, accept, context):
    assert not accept("site-1", np.nan)
    assert accept("site-1", 5)
    assert mean(combine, context)[0] == 5


def test_what_is_no_update_is_not_added(combine, context, sent):
    assert not combine.accept(sent(make_reply(ReturnCode.EXECUTION_EXCEPTION), "site-1"), context())
    assert not combine.accept(sent(DXO(DataKind.METRICS, data={"a": 1}).to_shareable(), "site-2"), context())
    with pytest.raises(RoundRefused, match="no updates"):
        combine.aggregate(context())


def test_a_round_forgets_the_one_before(combine, accept, context):
    accept("site-1", 2)
    combine.reset(context())
    assert accept("site-1", 9)
    assert mean(combine, context)[0] == 9


def test_counted_blocks_are_means_over_those_who_sent_them(context, update, sent):
    """w of four: (1 * 2 + 3 * 6 + 4 * 11 + 2 * 1) / 10 = 6.6; v of three: (2 + 18 + 44) / 8 = 8; u of two: not at all."""
    combine = Combine("counted")
    combine.reset(context())
    for number, (value, weight) in enumerate(((2, 1), (6, 3), (11, 4), (1, 2))):
        names = [name for name, last in (("w", 3), ("v", 2), ("u", 1)) if number <= last]
        delta = {f"model:{name}": np.full(2, value, np.float32) for name in names}
        assert combine.accept(sent(wire.update_message(update(delta, weight)), f"site-{number}"), context())
    found = from_shareable(combine.aggregate(context())).data
    assert {name: float(block[0]) for name, block in found.items()} == {
        "model:w": pytest.approx(6.6),
        "model:v": pytest.approx(8),
    }
    assert combine.contributors == {"model:w": 4, "model:v": 3, "model:u": 2}
    combine.reset(context())
    assert combine.contributors == {}


def test_whole_updates_are_not_counted(combine):
    assert combine.contributors is None


def test_a_promise_that_is_missing_is_refused():
    with pytest.raises(ConfigRefused, match="the server's sum"):
        Combine(None)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_counting_needs_three_sites(value):
    with pytest.raises(ConfigRefused, match="counted"):
        require_enough("counted", value)
    require_enough("counted", 3)
    require_enough("zeros", value)
