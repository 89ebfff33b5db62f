"""Compressed updates on the wire: what arrives, and what is no such message."""

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, from_shareable
from nvflare.app_common.decomposers import numpy_decomposers
from nvflare.fuel.utils import fobs

from wardround.core.errors import ReleaseRefused
from wardround.flare import compressed_messages, plaintext_messages

ARRAYS = {"codes": np.arange(1, 9, dtype=np.uint8), "exponents": np.array([-3], np.int8)}


@pytest.fixture
def sent(update):
    like = update()
    return compressed_messages.update_message(
        plaintext_messages.Update(ARRAYS, 7.0, like.numbers, like.facts), "quantise"
    )


def changed(message, data=None, **meta):
    dxo = from_shareable(message)
    return DXO(dxo.data_kind, data=dxo.data if data is None else data, meta=dxo.meta | meta).to_shareable()


def test_it_arrives_as_it_was_sent(sent, update):
    found = compressed_messages.read_update(sent, "quantise")
    assert found.delta.keys() == ARRAYS.keys()
    assert all(np.array_equal(found.delta[name], array) for name, array in ARRAYS.items())
    assert (found.weight, found.numbers, found.facts) == (7.0, update().numbers, update().facts)
    assert compressed_messages.size_of(found.delta) == 9


@pytest.mark.parametrize("dtype", sorted(compressed_messages.DTYPES))
def test_nvflare_carries_every_kind_of_array(dtype):
    numpy_decomposers.register()
    array = np.arange(5).astype(dtype)
    found = fobs.loads(fobs.dumps({"values": array}))["values"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_neither_kind_of_update_passes_for_the_other(sent, update):
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_update(sent)
    with pytest.raises(ReleaseRefused):
        compressed_messages.read_update(plaintext_messages.update_message(update()), "quantise")
    with pytest.raises(ReleaseRefused, match="compression"):
        compressed_messages.read_update(sent, "top_k")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"codes": [1, 2, 3]},
        {"codes": np.array([object()])},
        {"codes": np.array(["a"])},
        {"codes": np.arange(3, dtype=np.float64)},
        {"codes": np.array([np.nan], np.float32)},
        {"": ARRAYS["codes"]},
        {"a\nb": ARRAYS["codes"]},
        {str(n): ARRAYS["codes"] for n in range(4097)},
    ],
)
def test_what_it_must_not_hold(sent, data):
    with pytest.raises(ReleaseRefused):
        compressed_messages.read_update(changed(sent, data), "quantise")


@pytest.mark.parametrize(
    "meta", [{"weight": 2.5}, {"weight": 0}, {"more": 1}, {"facts": {}}, {"numbers": {"loss": None}}]
)
def test_what_must_go_with_it(sent, meta):
    with pytest.raises(ReleaseRefused):
        compressed_messages.read_update(changed(sent, **meta), "quantise")
