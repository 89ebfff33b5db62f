import json

import pytest

from wardround.aggregation.secagg_state import FILE, SecAggState
from wardround.core.errors import RoundRefused
from wardround.messages.secagg import Revealed
from wardround.messages.statements import Moment

PROMISE = {"job": "brats_fedavg_he", "num_rounds": 3, "lr": 0.05}


def revealed(round_):
    return Revealed(Moment("ab" * 16, round_, 1), ("site-1", "site-3"), 4, 0.25, bytes([round_]) * 100)


def entry(round_):
    return {"round": round_, "val_score": 0.25, "sites": {}, "facts": {}}


@pytest.fixture
def after(tmp_path):
    """after(n) -> the state after n rounds"""

    def make(num_rounds, folder=tmp_path / "state", oldest=99):
        folder.mkdir(exist_ok=True)
        state = SecAggState.open(folder, PROMISE)
        for round_ in range(state.round, num_rounds):
            state.add(revealed(round_), entry(round_), min(oldest, round_))
        return state

    return make


def test_nothing_there_is_a_start(tmp_path):
    state = SecAggState.open(tmp_path / "absent", PROMISE)
    assert (state.round, state.history, state.revealed) == (0, [], [])


@pytest.mark.parametrize("num_rounds", [1, 2, 3])
def test_what_was_written_is_what_is_read(after, num_rounds):
    state = after(num_rounds)
    again = SecAggState.open(state.folder, PROMISE)
    assert again.round == num_rounds
    assert again.revealed == state.revealed == [revealed(num_rounds - 1)]
    assert again.history == [entry(round_) for round_ in range(num_rounds)]


def test_only_the_last_sum_is_kept(after):
    state = after(3)
    assert sorted(path.name for path in state.folder.iterdir()) == [FILE, "sum-00003.bin"]


def test_sums_that_a_site_lacks_are_kept_for_it(after):
    """The site that is furthest behind has the model of round 1: it needs the sums of rounds 2 and 3."""
    state = after(3, oldest=1)
    assert state.since(1) == (revealed(1), revealed(2))
    assert SecAggState.open(state.folder, PROMISE).since(2) == (revealed(2),)
    assert sorted(path.name for path in state.folder.iterdir()) == [FILE, "sum-00002.bin", "sum-00003.bin"]


def test_a_resumed_state_goes_on(after):
    after(1)
    assert after(3).round == 3
    assert [one["round"] for one in after(3).history] == [0, 1, 2]


@pytest.mark.parametrize("changed", [{"lr": 0.1}, {"job": "other"}, {"more": 1}])
def test_another_job_is_refused(after, changed):
    with pytest.raises(RoundRefused, match="the state of another job"):
        SecAggState.open(after(1).folder, PROMISE | changed)


def test_a_crash_between_the_sum_and_what_points_to_it(after):
    """The sum of round 2 is there, the pointer still names round 1: round 2 is run again."""
    state = after(1)
    (state.folder / "sum-00002.bin").write_bytes(b"half")
    again = SecAggState.open(state.folder, PROMISE)
    assert (again.round, again.revealed) == (1, [revealed(0)])


@pytest.mark.parametrize("damage", ["truncated", "no sum", "no round", "a list", "bytes", "wrong revealed"])
def test_a_damaged_state_is_refused(after, damage):
    folder = after(2).folder
    text = (folder / FILE).read_text()
    said = json.loads(text)
    if damage == "truncated":
        (folder / FILE).write_text(text[:-20])
    elif damage == "no sum":
        (folder / "sum-00002.bin").unlink()
    elif damage == "no round":
        (folder / FILE).write_text(json.dumps({key: value for key, value in said.items() if key != "round"}))
    elif damage == "a list":
        (folder / FILE).write_text("[1]")
    elif damage == "bytes":
        (folder / FILE).write_bytes(b"\xff\xfe\x00")
    else:
        (folder / FILE).write_text(json.dumps(said | {"revealed": [{"moment": [1]}]}))
    with pytest.raises(RoundRefused, match="not readable"):
        SecAggState.open(folder, PROMISE)
