"""The server's end: every compression of a job opened over rounds, with faults on the way, and restarted in between."""

import numpy as np
import pytest

from wardround.compression.chosen import HalfPrecision, LargestValues, Projections, Quantisation, RandomSlices
from wardround.compression.opening import Opening
from wardround.compression.payload import payload_bytes
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.stages import Update

CHOSEN = [HalfPrecision(), Quantisation(8, 256, 3), LargestValues(0.1), RandomSlices(4, 3)]
BY_NAME = pytest.mark.parametrize("chosen", CHOSEN, ids=lambda one: one.name)


class Site:
    """A site's end: a stage and what it remembers."""

    def __init__(self, chosen, blocks, name="alpha"):
        self.stage, self.memory, self.name = chosen.stage(blocks, name), {}, name

    def send(self, params, round_):
        return dict(self.stage.outbound(Update(params, 1.0), round_, self.memory)[0].params)

    def hear(self, counted):
        self.stage.settle(self.memory, counted)


@pytest.fixture
def server(blocks):
    """server(chosen) -> (what opens messages, the memory of its run)"""

    def make(chosen, memory=None, largest=1e6):
        kept = {} if memory is None else memory
        return Opening(chosen, blocks, kept, largest), kept

    return make


@BY_NAME
def test_what_is_sent_over_rounds_is_the_sum_of_the_updates(chosen, blocks, updates, server):
    """Error feedback: after many rounds of one update, what was read comes to it on average."""
    site, (reader, _) = Site(chosen, blocks), server(chosen)
    truth = blocks.flatten(updates[0])
    total, rounds = np.zeros(blocks.total), 40
    for round_ in range(rounds):
        total += blocks.flatten(reader.opened("alpha", site.send(updates[0], round_), round_))
        reader.settle(["alpha"])
        site.hear(True)
    assert np.linalg.norm(total / rounds - truth) < 0.12 * np.linalg.norm(truth)


@BY_NAME
def test_a_reader_that_is_restarted_reads_the_same(chosen, blocks, updates, server):
    site, (reader, memory) = Site(chosen, blocks), server(chosen)
    for round_, update in enumerate(updates[:3]):
        message = site.send(update, round_)
        again, _ = server(chosen, dict(memory))
        expected, found = reader.opened("alpha", message, round_), again.opened("alpha", message, round_)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)
        reader.settle(["alpha"])
        site.hear(True)


@BY_NAME
def test_two_sites_are_held_apart(chosen, blocks, updates, server):
    names = ("alpha", "alpha-2")
    sites, (reader, _) = {name: Site(chosen, blocks, name) for name in names}, server(chosen)
    alone = {name: server(chosen)[0] for name in names}
    for round_ in range(3):
        for step, (name, site) in enumerate(sites.items()):
            message = site.send(updates[(round_ + step) % 5], round_)
            found, expected = reader.opened(name, message, round_), alone[name].opened(name, message, round_)
            assert all(np.array_equal(expected[block], found[block]) for block in expected)
            alone[name].settle([name])
            site.hear(True)
        reader.settle(names)


def test_top_k_of_a_message_that_did_not_count_moves_neither_end(blocks, updates, server):
    chosen = LargestValues(0.1)
    site, (reader, memory) = Site(chosen, blocks), server(chosen)
    reader.opened("alpha", site.send(updates[0], 0), 0)
    reader.settle(["alpha"])
    site.hear(True)
    held = memory["inbound:alpha:top_k.held"].copy()
    reader.opened("alpha", site.send(updates[1], 1), 1)
    reader.settle([])
    site.hear(False)
    assert np.array_equal(memory["inbound:alpha:top_k.held"], held)
    reader.opened("alpha", site.send(updates[2], 2), 2)
    reader.settle(["alpha"])
    assert not np.array_equal(memory["inbound:alpha:top_k.held"], held)


def test_top_k_after_the_server_lost_what_it_held_starts_over_by_itself(blocks, updates, server):
    chosen = LargestValues(0.1)
    site, (reader, _) = Site(chosen, blocks), server(chosen)
    reader.opened("alpha", site.send(updates[0], 0), 0)
    reader.settle(["alpha"])
    site.hear(True)
    reader, _ = server(chosen)
    for round_ in (1, 2):
        with pytest.raises(RoundRefused, match="does not hold"):
            reader.opened("alpha", site.send(updates[1], round_), round_)
        reader.settle([])
        site.hear(False)
    reader.opened("alpha", site.send(updates[1], 3), 3)


@BY_NAME
@pytest.mark.parametrize("fault", ["an array less", "an array more", "another dtype", "another length", "NaN"])
def test_a_message_of_another_layout_is_refused(chosen, blocks, updates, server, fault):
    message = Site(chosen, blocks).send(updates[0], 0)
    name = "values" if "values" in message else sorted(message)[0]
    array = message[name]
    if fault == "an array less":
        del message[name]
    elif fault == "an array more":
        message["more"] = array
    elif fault == "another dtype":
        message[name] = array.astype(np.float64)
    elif fault == "another length":
        message[name] = array[:-1]
    elif array.dtype.kind == "f":
        message[name] = np.full_like(array, np.nan)
    else:
        message[name] = np.zeros_like(array)  # a code that stands for nothing
    with pytest.raises(RoundRefused):
        server(chosen)[0].opened("alpha", message, 0)


@BY_NAME
def test_a_change_that_no_training_makes_is_refused_and_forgotten(chosen, blocks, updates, server):
    reader, memory = server(chosen, largest=1e-9)
    with pytest.raises(RoundRefused, match="no training makes"):
        reader.opened("alpha", Site(chosen, blocks).send(updates[0], 0), 0)
    reader.settle([])
    assert not any(np.any(value) for value in memory.values() if isinstance(value, np.ndarray))


@BY_NAME
def test_a_job_says_how_many_bytes_a_message_has(chosen, blocks, updates):
    site = Site(chosen, blocks)
    sent = sum(array.nbytes for array in site.send(updates[0], 0).values())
    assert sent == payload_bytes(site.stage.layout(0))
    assert sent < 0.6 * 4 * blocks.total
    assert chosen.leaves


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quantisation(3, 256, 0),
        lambda: LargestValues(0.0),
        lambda: LargestValues(1.5),
        lambda: RandomSlices(1, 0),
        lambda: RandomSlices(2.5, 0),
        lambda: RandomSlices(True, 0),
        lambda: RandomSlices("8", 0),
        lambda: RandomSlices(8, None),
        lambda: RandomSlices(8, float("nan")),
        lambda: Projections(1.5, 0),
        lambda: Projections(2, None),
        lambda: Quantisation(8.0, 256, 0),
        lambda: Quantisation(8, 2.5, 0),
        lambda: Quantisation(8, 256, None),
        lambda: LargestValues(float("nan")),
        lambda: LargestValues("0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_block_is_known(make):
    with pytest.raises(ConfigRefused):
        make()
