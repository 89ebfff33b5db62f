import numpy as np
import pytest

from wardround.compression.payload import payload_bytes
from wardround.compression.top_k import HELD, TopK
from wardround.core.arrays import Layout
from wardround.core.errors import ReleaseRefused, RoundRefused
from wardround.core.stages import Aggregate, Update

ROUND = 5
"""Where a test of one message stands in the job."""


def send(stage, update, round_, memory):
    return stage.outbound(Update(update, 1.0), round_, memory)[0].params


@pytest.fixture
def stage(blocks):
    return TopK(0.1, blocks, "alpha")


def hear(stage, memory, *sites):
    stage.inbound(Aggregate({}, sites), ROUND, memory)


def test_only_the_largest_travel_and_bytes_are_closed_form(stage, updates):
    total = 24 * 72 + 24 + 1200
    count = -(-total // 10)
    sent = send(stage, updates[0], 0, {})
    assert payload_bytes(stage.layout(0)) == 4 + 1 + (count + total // 255) + 2 * count
    assert {name: (str(a.dtype), a.shape) for name, a in sent.items()} == {
        entry.name: (entry.dtype, entry.shape) for entry in stage.layout(0)
    }
    read = stage.blocks.flatten(stage.opened(sent, 0, {}))
    true = stage.blocks.flatten(updates[0])
    kept = read != 0
    assert kept.sum() == count
    assert np.abs(true[~kept]).max() <= np.abs(true[kept]).min()
    np.testing.assert_allclose(read[kept], true[kept], rtol=2**-10)


def test_what_the_receiver_lacks_shrinks_as_proved(stage, updates):
    """||update - g'||^2 <= (1 - k/n) ||update - g||^2 in every round, and the receiver's g is the site's."""
    site, server = {}, {}
    true = stage.blocks.flatten(updates[0]).astype(np.float64)
    lacks = float(true @ true)
    for round_ in range(12):
        read = stage.blocks.flatten(stage.opened(send(stage, updates[0], round_, site), round_, server))
        stage.inbound(Aggregate({}, ("alpha",)), round_, site)
        stage.settle(server, True)
        np.testing.assert_array_equal(server[HELD], site[HELD])
        np.testing.assert_array_equal(server[HELD], read)
        now = float(np.sum((true - read) ** 2))
        assert now <= (1 - 0.1) * lacks
        lacks = now
    assert lacks < 1e-6 * float(true @ true)


def test_ef21_converges_where_plain_top_k_does_not():
    """Beznosikov et al. 2020 (arXiv:2002.12410), Example 1: f_i(x) = <a_i, x>^2 + |x|^2 / 4, three sites, top-1.

    Plain top-1 from (1, 1, 1) multiplies x by 1 + 11/6 of the rate at every step; the optimum is zero.
    """
    slopes = np.array([[-3.0, 2, 2], [2, -3, 2], [2, 2, -3]])
    blocks, rate = Layout(("x",), ((3,),)), 0.005

    def gradients(x):
        return [2 * a * (a @ x) + x / 2 for a in slopes]

    plain = np.ones(3)
    for _ in range(400):
        step = np.zeros(3)
        for g in gradients(plain):
            largest = np.abs(g).argmax()
            step[largest] += g[largest] / 3
        plain = plain - rate * step
    np.testing.assert_allclose(plain, (1 + rate * 11 / 6) ** 400 * np.ones(3), rtol=1e-9)

    stages = [TopK(1 / 3, blocks, f"site{i}") for i in range(3)]
    sites, servers, x = [{}, {}, {}], [{}, {}, {}], np.ones(3)
    heard = Aggregate({}, ("site0", "site1", "site2"))
    for round_ in range(2500):
        mean = np.zeros(3)
        for stage, mine, theirs, g in zip(stages, sites, servers, gradients(x), strict=True):
            sent = send(stage, {"x": g.astype(np.float32)}, round_, mine)
            mean += stage.opened(sent, round_, theirs)["x"] / 3
            stage.settle(theirs, True)
            stage.inbound(heard, round_, mine)
        x = x - rate * mean
    assert np.linalg.norm(x) < 1e-4


def test_a_message_that_did_not_count_moves_neither_end(stage, updates):
    site, server = {}, {}
    for round_, counted in enumerate((True, False, True)):
        before = server.get(HELD, np.zeros(stage.blocks.total, np.float32)).copy()
        stage.opened(send(stage, updates[round_], round_, site), round_, server)
        np.testing.assert_array_equal(server[HELD], before)
        stage.settle(server, counted)
        hear(stage, site, *(("alpha",) if counted else ("beta",)))
        np.testing.assert_array_equal(server[HELD], site[HELD])
        assert counted == (not np.array_equal(server[HELD], before))


def test_a_late_message_that_the_server_never_opened(stage, updates):
    """The server closed the round without it, and tells so: the site takes its correction back."""
    site, server = {}, {}
    send(stage, updates[0], 0, site)
    hear(stage, site, "beta", "gamma")
    read = stage.opened(send(stage, updates[1], 1, site), 1, server)
    np.testing.assert_array_equal(stage.blocks.flatten(read), server["top_k.next"])
    assert not site[HELD].any()


@pytest.mark.parametrize("arrived", [True, False])
def test_a_site_that_never_heard_starts_over(stage, updates, arrived):
    """Down between its answer and the mean: whether the server took the answer or not, the next message is read."""
    site, server = {}, {}
    sent = send(stage, updates[0], 0, site)
    if arrived:
        stage.opened(sent, 0, server)
        stage.settle(server, True)
    site = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in site.items()}
    read = stage.opened(send(stage, updates[1], 3, site), 3, server)
    alone = stage.opened(send(stage, updates[1], 3, {}), 3, {})
    np.testing.assert_array_equal(stage.blocks.flatten(read), stage.blocks.flatten(alone))


def test_a_site_that_is_set_back_to_an_old_state_is_refused_and_comes_back(stage, updates):
    site, server = {}, {}
    for round_ in range(2):
        stage.opened(send(stage, updates[round_], round_, site), round_, server)
        stage.settle(server, True)
        hear(stage, site, "alpha")
        if round_ == 0:
            backup = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in site.items()}
    held = server[HELD].copy()
    for round_ in (2, 3):
        with pytest.raises(RoundRefused, match="starts over"):
            stage.opened(send(stage, updates[round_], round_, backup), round_, server)
        hear(stage, backup, "beta")
    np.testing.assert_array_equal(server[HELD], held)
    stage.opened(send(stage, updates[4], 4, backup), 4, server)
    stage.settle(server, True)
    hear(stage, backup, "alpha")
    np.testing.assert_array_equal(server[HELD], backup[HELD])


def test_asked_twice_in_one_round_the_same_leaves(stage, updates):
    site = {}
    first = send(stage, updates[0], ROUND, site)
    again = send(stage, updates[0], ROUND, site)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


def test_nan_leaves_nothing_behind(stage, updates):
    memory = {}
    bad = {**updates[0], "model:a.bias": np.full(24, np.nan, np.float32)}
    with pytest.raises(ReleaseRefused):
        send(stage, bad, 0, memory)
    assert memory == {}
