import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply

from wardround.errors import RoundRefused
from wardround.flare import wire
from wardround.flare.combine import Combine


@pytest.fixture
def combine(context):
    made = Combine()
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
