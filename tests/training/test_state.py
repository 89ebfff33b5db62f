import numpy as np
import pytest

from wardround.core.errors import ModelRefused, RoundRefused
from wardround.training import state

BLOCKS = {"control": np.arange(3, dtype=np.float32)}
IDENTITY = "0123456789abcdef"


def save(folder, round_, value=0.0):
    state.save(folder, round_, {"control": np.full(3, value, np.float32)}, IDENTITY, {"note": round_})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path, 3, 2.5)
    arrays, meta = state.load(tmp_path, 3, IDENTITY)
    np.testing.assert_array_equal(arrays["control"], np.full(3, 2.5, np.float32))
    assert meta == {"note": 3, "round": 3}


def test_a_state_may_be_empty(tmp_path):
    state.save(tmp_path, 1, {}, IDENTITY, {})
    assert state.load(tmp_path, 1, IDENTITY) == ({}, {"round": 1})


def test_before_the_first_round_there_is_nothing(tmp_path):
    save(tmp_path, 1)
    assert state.load(tmp_path, 0, IDENTITY) == ({}, {})


def test_two_rounds_are_kept(tmp_path):
    for round_ in (1, 2, 3, 4):
        save(tmp_path, round_)
    assert names(tmp_path) == ["round-00003.npz", "round-00004.npz"]


def test_a_repeated_round_replaces_its_result(tmp_path):
    for round_, value in ((1, 1.0), (2, 2.0), (2, 9.0)):
        save(tmp_path, round_, value)
    assert names(tmp_path) == ["round-00001.npz", "round-00002.npz"]
    assert state.load(tmp_path, 2, IDENTITY)[0]["control"][0] == 9


def test_rounds_of_a_run_that_was_started_anew_are_dropped(tmp_path):
    """The old run got to round 9: its files must neither hide nor outlive the new run's."""
    save(tmp_path, 8)
    save(tmp_path, 9)
    save(tmp_path, 1, 1.0)
    assert names(tmp_path) == ["round-00001.npz"]
    assert state.load(tmp_path, 1, IDENTITY)[0]["control"][0] == 1
    assert state.latest(tmp_path) == 1


def test_a_missing_state_is_refused(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(RoundRefused, match="before round 2") as caught:
        state.load(tmp_path, 2, IDENTITY)
    assert "same state folder" in caught.value.fix


def test_a_damaged_state_is_refused(tmp_path):
    save(tmp_path, 1)
    file = tmp_path / "round-00001.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ModelRefused):
        state.load(tmp_path, 1, IDENTITY)


def test_the_state_of_another_network_is_refused(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ModelRefused, match="another architecture"):
        state.load(tmp_path, 1, "f" * 16)


def test_the_latest_round_is_a_number_not_a_word(tmp_path):
    assert state.latest(tmp_path) is None
    save(tmp_path, 99_999)
    save(tmp_path, 100_000)
    assert state.latest(tmp_path) == 100_000
