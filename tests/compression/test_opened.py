"""What half precision and quantisation have in common: exact books, exact bytes, refusals."""

import math

import numpy as np
import pytest

from wardround.compression.half import LEFT as HALF_LEFT
from wardround.compression.half import Half
from wardround.compression.payload import payload_bytes
from wardround.compression.quantise import LEFT as QUANTISE_LEFT
from wardround.compression.quantise import Quantise
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused, ReleaseRefused, RoundRefused
from wardround.core.rng import stream
from wardround.core.stages import Update

ONE = Layout(("a",), ((4096,),))


@pytest.fixture(params=["half", "quantise 8", "quantise 4"])
def stage_and_key(request, blocks):
    if request.param == "half":
        return Half(blocks), HALF_LEFT
    return Quantise(int(request.param[-1]), 64, 5, blocks, "alpha"), QUANTISE_LEFT


def test_sent_and_left_are_all_updates(stage_and_key, blocks, updates):
    """After every round: sum of what the reader reads + what the site still owes = sum of the updates."""
    stage, key = stage_and_key
    memory, read, true = {}, 0.0, 0.0
    for round_, update in enumerate(updates):
        sent, receipt = stage.outbound(Update(update, 2.0), round_, memory)
        assert sent.weight == 2.0
        assert receipt["bits"] in (16, 8, 4)
        read = read + stage.blocks.flatten(stage.opened(sent.params, round_, {})).astype(np.float64)
        true = true + stage.blocks.flatten(update).astype(np.float64)
        np.testing.assert_allclose(read + memory[key], true, rtol=0, atol=1e-6 * np.abs(true).max())
        assert memory[key].dtype == np.float32


def test_the_layout_is_what_travels(stage_and_key, updates):
    stage, _ = stage_and_key
    sent, _ = stage.outbound(Update(updates[0], 1.0), 0, {})
    found = {name: (str(array.dtype), array.shape) for name, array in sent.params.items()}
    assert found == {entry.name: (entry.dtype, entry.shape) for entry in stage.layout(0)}
    assert sum(array.nbytes for array in sent.params.values()) == payload_bytes(stage.layout(0))


def test_bytes_in_closed_form(blocks):
    total, chunks = 24 * 72 + 24 + 1200, 27 + 1 + 19
    assert payload_bytes(Half(blocks).layout(0)) == 2 * total + 3
    assert payload_bytes(Quantise(8, 64, 0, blocks, "a").layout(0)) == total + chunks
    assert payload_bytes(Quantise(4, 64, 0, blocks, "a").layout(0)) == total // 2 + chunks


def test_a_site_that_restarts_goes_on_from_its_memory(stage_and_key, updates):
    stage, key = stage_and_key
    whole, broken = {}, {}
    for round_, update in enumerate(updates[:2]):
        stage.outbound(Update(update, 1.0), round_, whole)
        stage.outbound(Update(update, 1.0), round_, broken)
    broken = {key: np.frombuffer(broken[key].tobytes(), np.float32)}
    for memory in (whole, broken):
        memory["sent"] = stage.outbound(Update(updates[2], 1.0), 2, memory)[0].params
    for name, array in whole["sent"].items():
        np.testing.assert_array_equal(array, broken["sent"][name])


def test_a_message_of_another_layout_is_refused(stage_and_key, updates):
    stage, _ = stage_and_key
    sent = dict(stage.outbound(Update(updates[0], 1.0), 0, {})[0].params)
    main = "values" if "values" in sent else "codes"
    forged = [
        {**sent, main: sent[main][:-1]},
        {**sent, main: sent[main].astype(np.float32)},
        {**sent, "more": sent[main]},
        {main: sent[main]},
    ]
    for payload in forged:
        with pytest.raises(RoundRefused):
            stage.opened(payload, 0, {})


def test_nothing_that_is_not_finite_leaves_or_enters(stage_and_key, updates):
    stage, key = stage_and_key
    bad = {name: block.copy() for name, block in updates[0].items()}
    bad["model:a.bias"][3] = np.nan
    memory = {}
    with pytest.raises(ReleaseRefused):
        stage.outbound(Update(bad, 1.0), 0, memory)
    assert memory == {}
    if key == HALF_LEFT:
        sent = dict(stage.outbound(Update(updates[0], 1.0), 0, {})[0].params)
        sent["values"] = np.full_like(sent["values"], np.inf)
        with pytest.raises(RoundRefused):
            stage.opened(sent, 0, {})


def test_powers_of_two_beyond_float32_are_refused(stage_and_key, updates):
    stage, _ = stage_and_key
    sent = dict(stage.outbound(Update(updates[0], 1.0), 0, {})[0].params)
    sent["exponents"] = np.full_like(sent["exponents"], 127)
    with pytest.raises(RoundRefused, match="float32"):
        stage.opened(sent, 0, {})


def test_memory_of_another_model_is_refused(stage_and_key, updates):
    stage, key = stage_and_key
    with pytest.raises(RoundRefused):
        stage.outbound(Update(updates[0], 1.0), 0, {key: np.zeros(7, np.float32)})


def test_half_keeps_eleven_bits_and_never_overflows():
    values = np.concatenate([np.float32([3.4e38, -1e30]), np.linspace(-1, 1, 4094, dtype=np.float32)])
    for factor in (1.0, 1e-30):
        update = {"a": values[2:] * np.float32(factor)}
        stage = Half(Layout(("a",), ((4094,),)))
        read = stage.opened(stage.outbound(Update(update, 1.0), 0, {})[0].params, 0, {})["a"]
        np.testing.assert_allclose(read, update["a"], rtol=2**-11)
    stage = Half(Layout(("a",), ((4096,),)))
    read = stage.opened(stage.outbound(Update({"a": values}, 1.0), 0, {})[0].params, 0, {})["a"]
    assert np.isfinite(read).all()
    np.testing.assert_allclose(read[:1], values[:1], rtol=2**-11)


def test_quantised_values_have_no_bias():
    """0.3 of a step between two codes: the mean over 4095 values is within five standard deviations."""
    value = np.full(4096, 0.3 / 64, np.float32)
    value[0] = 127 / 64  # fixes the step at 1/64
    stage = Quantise(8, 4096, 5, ONE, "alpha")
    sent, _ = stage.outbound(Update({"a": value}, 1.0), 0, {})
    read = stage.opened(sent.params, 0, {})["a"] * 64
    assert read[0] == 127
    assert set(read[1:]) == {0.0, 1.0}
    assert abs(read[1:].mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 4095)


def test_two_sites_round_apart_and_a_round_can_be_repeated():
    update = {"a": stream(0, "x").normal(size=4096).astype(np.float32)}
    codes = [
        Quantise(8, 256, 5, ONE, site).outbound(Update(update, 1.0), round_, {})[0].params["codes"]
        for site, round_ in (("alpha", 0), ("alpha", 0), ("beta", 0), ("alpha", 1))
    ]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert (codes[0] != codes[2]).mean() > 0.1
    assert (codes[0] != codes[3]).mean() > 0.1


def test_four_bits_of_an_odd_number_of_values():
    blocks = Layout(("a",), ((5,),))
    update = {"a": np.float32([-7, 7, 3, 0, 1])}
    stage = Quantise(4, 8, 0, blocks, "alpha")
    sent, _ = stage.outbound(Update(update, 1.0), 0, {})
    assert sent.params["codes"].nbytes == 3
    np.testing.assert_array_equal(stage.opened(sent.params, 0, {})["a"], update["a"])


def test_settings_that_make_no_sense():
    for bits, chunk in ((16, 256), (8, 0)):
        with pytest.raises(ConfigRefused):
            Quantise(bits, chunk, 0, ONE, "alpha")
