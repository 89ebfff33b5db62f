import numpy as np
import pytest

from wardround.compression.low_rank import LEFT, LowRank, orthonormal
from wardround.compression.payload import payload_bytes
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.rng import stream
from wardround.core.stages import Aggregate, Update

BLOCKS = Layout(("w",), ((20, 6, 5),))


def run(stage, matrices, memory, *, forget):
    """Return what is read of every matrix; forget: without error feedback."""
    found = []
    for round_, matrix in enumerate(matrices):
        if forget:
            memory.pop(LEFT, None)
        sent, _ = stage.outbound(Update({"w": matrix}, 1.0), round_, memory)
        found.append(stage.inbound(Aggregate(sent.params, ("a",)), round_, memory).params["w"].reshape(20, 30))
    return found


def test_a_matrix_of_that_rank_passes_whole_from_the_second_round_on():
    rng = stream(0, "rank")
    matrix = (rng.normal(size=(20, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    found = run(LowRank(3, 1, BLOCKS), [matrix.reshape(20, 6, 5)] * 3, {}, forget=True)
    assert np.linalg.norm(found[0] - matrix) > 0.1 * np.linalg.norm(matrix)
    for one in found[1:]:
        np.testing.assert_allclose(one, matrix, atol=1e-5 * np.abs(matrix).max())


def test_with_feedback_all_of_it_has_arrived_after_two_rounds():
    rng = stream(0, "rank")
    matrix = (rng.normal(size=(20, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    found = run(LowRank(3, 1, BLOCKS), [matrix.reshape(20, 6, 5), 0 * matrix.reshape(20, 6, 5)], {}, forget=False)
    np.testing.assert_allclose(found[0] + found[1], matrix, atol=1e-5 * np.abs(matrix).max())


def test_the_warm_start_finds_the_best_approximation():
    """Singular values 8, 4, 2 and a tail of 0.5: the error falls to that of the truncated SVD (Eckart-Young)."""
    rng = stream(0, "svd")
    u, v = np.linalg.qr(rng.normal(size=(20, 20)))[0], np.linalg.qr(rng.normal(size=(30, 20)))[0]
    values = np.array([8.0, 4.0, 2.0] + [0.5] * 17)
    matrix = ((u * values) @ v.T).astype(np.float32)
    errors = [
        np.linalg.norm(one - matrix)
        for one in run(LowRank(3, 1, BLOCKS), [matrix.reshape(20, 6, 5)] * 12, {}, forget=True)
    ]
    best = 0.5 * 17**0.5
    assert errors[0] > 1.5 * best
    assert errors[-1] == pytest.approx(best, rel=1e-4)
    assert all(error >= best * (1 - 1e-5) for error in errors)


def test_bytes_in_closed_form(blocks):
    stage = LowRank(3, 0, blocks)
    assert payload_bytes(stage.layout(0)) == 4 * (24 + 3 * 40 + 3 * 24)
    assert payload_bytes(stage.layout(1)) == 4 * (24 + 3 * 30 + 3 * 72)
    # 20 (40 + 30) >= 40 30 and 20 (24 + 72) >= 24 72: nothing would be saved, so both travel whole.
    assert payload_bytes(LowRank(20, 0, blocks).layout(0)) == 4 * blocks.total


def test_a_site_that_missed_the_mean_is_refused_and_goes_on_with_the_public_factors():
    rng = stream(0, "missed")
    stage, site, server = LowRank(2, 1, BLOCKS), {}, {}
    updates = [{"w": rng.normal(size=(20, 6, 5)).astype(np.float32)} for _ in range(2)]
    sent, _ = stage.outbound(Update(updates[0], 1.0), 0, site)
    stage.inbound(Aggregate(sent.params, ("a",)), 0, server)
    owed = site[LEFT].copy()
    with pytest.raises(RoundRefused, match="factors"):
        stage.outbound(Update(updates[1], 1.0), 1, site)
    np.testing.assert_array_equal(site[LEFT], owed)
    stage.adopt(stage.public(1, server), 1, site)
    late, _ = stage.outbound(Update(updates[1], 1.0), 1, site)
    heard = {LEFT: owed}
    stage.inbound(Aggregate(sent.params, ("a",)), 0, heard)
    np.testing.assert_array_equal(late.params["w"], stage.outbound(Update(updates[1], 1.0), 1, heard)[0].params["w"])


def test_factors_of_another_model_are_refused():
    stage, memory = LowRank(2, 1, BLOCKS), {}
    with pytest.raises(RoundRefused):
        stage.adopt({"w": np.zeros((4, 2), np.float32)}, 1, memory)


@pytest.mark.parametrize("columns", [np.zeros((9, 3)), np.ones((9, 3)), np.eye(9, 3) * [1, 1e-9, 1e6]])
def test_columns_are_orthonormal_whatever_comes(columns):
    found = orthonormal(columns, stream(0, "columns")).astype(np.float64)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-6)


def test_columns_keep_their_span():
    columns = stream(0, "span").normal(size=(9, 3))
    found = orthonormal(columns, stream(0, "columns")).astype(np.float64)
    np.testing.assert_allclose(found @ (found.T @ columns), columns, atol=1e-6)


def test_settings_that_make_no_sense(blocks):
    with pytest.raises(ConfigRefused):
        LowRank(0, 0, blocks)
