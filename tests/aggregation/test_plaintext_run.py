"""The server's run in a plaintext job, without processes: every fault of the drills is a line of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from server_play import Refuses, play

from wardround import __version__
from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.mean import WeightedMean
from wardround.aggregation.median import CoordinateMedian
from wardround.aggregation.plaintext_run import PlaintextRun, last_counted, require_sites
from wardround.core.arrays import require_same_blocks
from wardround.core.errors import ModelRefused, RoundRefused
from wardround.core.run_log import RunLog
from wardround.messages.plaintext import FINISH, TRAIN, Update

NAMES = ("site-1", "site-2", "site-3", "site-4")
ABOUT = {"job": "a_job", "algorithm": "FedAvg"}
FACTS = {"label": "x", "device": "cpu", "phantoms": True, "version": __version__, "fingerprint": "f" * 16}
SCORES = {"candidates": {}, "deploy": None, "val_score": 0.5, "seconds": 1.0}


class Model:
    """As much of a model as a run needs: one block that a step adds to. What `step` wrote outlives the server."""

    def __init__(self):
        self.round, self.history, self.memory, self.best = 0, [], {}, None
        self.weights = {"model:w": np.zeros(3, np.float32)}
        self.shares, self.finished = [], []

    def wire(self):
        return self.weights

    def final(self):
        return {name: block + 100 for name, block in self.weights.items()}

    def require_fits(self, site, found, delta, travelling):
        if found != FACTS["fingerprint"]:
            raise ModelRefused("the architecture", found=found, expected="ours", fix="run the same job")
        require_same_blocks({name: self.weights[name] for name in travelling}, delta, f"the update of {site}")

    def step(self, mean, participation, entry):
        if not np.isfinite(mean["model:w"]).all():
            raise RoundRefused("the mean", found="NaN or inf", expected="finite numbers", fix="lower `lr`")
        self.weights = {name: self.weights[name] + mean[name] for name in self.weights}
        self.shares.append(participation)
        self.history.append(entry)
        self.round += 1

    def finish(self, val_score, out):
        self.finished.append(val_score)

    @property
    def value(self):
        (value,) = set(self.weights["model:w"].tolist())
        return value


def server(model, num_rounds=2, min_clients=2, aggregation=None):
    record = RunLog.begin(ABOUT, {"name": "Model"}, True, model.history)
    aggregation = aggregation or WeightedMean()
    return PlaintextRun(model, {"model:w"}, aggregation, record, num_rounds, min_clients, Path("unused"))


def update(value=1.0, weight=1.0, block=None, **facts):
    block = np.full(3, value, np.float32) if block is None else block
    numbers = {"loss": 1.0, "val_score": 0.2, "seconds": 1.0}
    return Update({"model:w": block}, weight, numbers, FACTS | facts)


def site(value=1.0, weight=1.0, at=None):
    """A site that sends `value` in every round; at: round -> what it sends instead (the judgement is round `rounds`)"""

    def answer(ask):
        if at is not None and ask.message.round in at:
            return at[ask.message.round]
        return update(value, weight) if ask.task == TRAIN else SCORES

    return answer


def answers(*values):
    return {name: site(value) for name, value in zip(NAMES, values, strict=False)}


def test_two_rounds_and_the_judgement_in_closed_form():
    """Every round adds (1 * 2 + 3 * 6 + 4 * 11) / 8 = 8."""
    model = Model()
    run = server(model)
    sites = {"site-1": site(2.0, 1.0), "site-2": site(6.0, 3.0), "site-3": site(11.0, 4.0)}
    played = play(run, sites, 2)
    assert played.asked == [(TRAIN, tuple(sites)), (TRAIN, tuple(sites)), (FINISH, tuple(sites))]
    assert played.whole
    assert model.value == 16
    assert model.shares == [1.0, 1.0]
    assert model.finished == [0.5]
    assert run.record.problems == []
    assert [entry["aggregated"] for entry in run.record.run["rounds"]] == [list(sites)] * 2
    assert [entry["bytes_up"] for entry in model.history] == [36, 36]


def test_an_order_holds_the_weights_of_its_round_and_asks_for_as_many_as_the_job_needs():
    seen = []

    def watching(ask):
        seen.append((ask.task, ask.message.round, ask.message.num_rounds, ask.need, ask.message.weights["model:w"][0]))
        return site()(ask)

    play(server(Model()), {"site-1": watching, "site-2": site()}, 2)
    # What is evaluated is the model's final one, not that from which another round would start.
    assert seen == [(TRAIN, 0, 2, 2, 0.0), (TRAIN, 1, 2, 2, 1.0), (FINISH, 2, 2, None, 102.0)]


# --- sites that are silent, and come back


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_site_that_is_silent_in_one_round_is_asked_again_and_told_from_which_state_it_starts(silent):
    told = {}

    def away(ask):
        told[ask.message.round] = ask.message.since("site-2")
        return None if ask.message.round == silent else site(4.0)(ask)

    model = Model()
    run = server(model, num_rounds=3)
    played = play(run, {"site-1": site(1.0), "site-2": away, "site-3": site(1.0)}, 3)
    assert played.whole
    assert model.value == 1 + 2 + 2
    assert [sites for _, sites in played.asked] == [("site-1", "site-2", "site-3")] * 4
    assert [entry["missing"] for entry in model.history] == [
        {"site-2": "no answer in time"} if round_ == silent else {} for round_ in range(3)
    ]
    expected = {round_: round_ for round_ in range(4)} | {silent + 1: silent}
    assert told == expected
    assert run.record.problems == []


def test_a_site_that_is_silent_for_long_starts_from_its_last_state():
    told = {}

    def away(ask):
        told[ask.message.round] = ask.message.since("site-2")
        return site(1.0)(ask) if ask.message.round in (0, 4) else None

    play(server(Model(), num_rounds=5), {"site-1": site(), "site-2": away, "site-3": site()}, 5)
    assert told == {0: 0, 1: 1, 2: 1, 3: 1, 4: 1, 5: 5}


def test_a_site_that_is_silent_in_the_judgement_is_lost_and_the_run_is_not_over():
    model = Model()
    run = server(model)
    played = play(run, {"site-1": site(), "site-2": site(at={2: None})}, 2)
    assert played.whole is False
    assert played.there.out == {"site-2": "no answer in time"}
    assert len(run.record.problems) == 1
    assert model.finished == [0.5]


@pytest.mark.parametrize(("passing", "asked"), [(True, 3), (False, 2)])
def test_a_site_that_could_not_is_asked_again_and_one_that_would_not_is_not(passing, asked):
    refuses = site(at={0: Refuses("memory" if passing else "data", passing)})
    played = play(server(Model()), {"site-1": site(), "site-2": site(), "site-3": refuses}, 2)
    assert [len(sites) for _, sites in played.asked] == [3, asked, asked]


def test_a_missing_site_counts_as_one_of_its_size_once_it_is_known_and_as_an_average_one_before():
    """Round 1: 3 of 3 + 1.5 (unknown). Round 2: all. Round 3: 1 + 2 of 1 + 2 + 5."""
    model = Model()
    late = site(1.0, 5.0, at={0: None, 2: None})
    play(server(model, num_rounds=3), {"site-1": site(1.0, 1.0), "site-2": site(1.0, 2.0), "site-3": late}, 3)
    assert model.shares == [pytest.approx(3 / 4.5), 1.0, pytest.approx(3 / 8)]


# --- too few


def test_a_run_that_can_never_have_enough_sites_asks_nobody():
    played = play(server(Model()), answers(1.0), 2)
    assert played.asked == []
    assert "1 site, the job needs 2" in str(played.stopped)


@pytest.mark.parametrize(("simulator", "advice"), [(True, "-n 3"), (False, "start the sites")])
def test_what_is_advised_depends_on_where_the_run_is(simulator, advice):
    with pytest.raises(RoundRefused, match=advice):
        require_sites(2, 3, simulator)


def test_too_few_answers_end_the_run_with_the_model_of_the_round_before():
    model = Model()
    played = play(server(model), {"site-1": site(), "site-2": site(at={1: None})}, 2)
    assert str(played.stopped).startswith("round 2 has too few sites")
    assert "1 of 2 sites; site-2: no answer in time" in played.stopped.found
    assert (model.round, model.value, model.finished) == (1, 1, [])


def test_nobody_at_all_is_too_few_and_no_fault_of_the_mean():
    played = play(server(Model(), min_clients=1), {"site-1": site(at={0: None})}, 2)
    assert "too few sites" in str(played.stopped)


# --- messages that are wrong, forged or repeated


WRONG = {
    "another architecture": (update(fingerprint="0" * 16), "model"),
    "another version": (update(version="0.0.1"), "config"),
    "another shape": (update(block=np.ones(4, np.float32)), "round"),
    "another block": (Update({"model:v": np.ones(3, np.float32)}, 1.0, {}, FACTS), "round"),
    "no block": (Update({}, 1.0, {}, FACTS), "round"),
    "NaN": (update(np.nan), "round"),
    "inf": (update(np.inf), "round"),
    "no patients": (update(weight=0.0), "round"),
    "fewer than no patients": (update(weight=-3.0), "round"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_update_loses_its_site_and_is_in_no_sum(what):
    message, code = WRONG[what]
    model = Model()
    run = server(model)
    played = play(run, {"site-1": site(1.0), "site-2": site(at={0: message}), "site-3": site(3.0)}, 2)
    assert played.there.out == {"site-2": f"rejected: {code}"}
    assert model.value == 4
    assert run.record.run["lost"] == ["site-2"]
    assert [entry["trained"] for entry in model.history] == [["site-1", "site-3"]] * 2
    assert [entry["bytes_up"] for entry in model.history] == [24, 24]


def test_a_wrong_update_before_all_others_does_not_set_the_layout():
    model = Model()
    sites = {"site-0": site(at={0: WRONG["another shape"][0]}), "site-1": site(1.0), "site-2": site(1.0)}
    assert play(server(model), sites, 2).there.out == {"site-0": "rejected: round"}
    assert model.value == 2


@pytest.mark.parametrize("aggregation", [WeightedMean(), CoordinateMedian(0), ClippedMean(0)], ids=lambda one: one.name)
def test_a_repeated_update_counts_once(aggregation):
    """Also one that says something else the second time."""
    model = Model()
    twice = [update(5.0), update(-100.0)]
    run = server(model, num_rounds=1, aggregation=aggregation)
    played = play(run, {"site-1": site(5.0), "site-2": site(at={0: twice}), "site-3": site(5.0)}, 1)
    assert model.value == 5
    assert played.there.out == {"site-2": "rejected: round"}
    assert model.history[0]["aggregated"] == ["site-1", "site-2", "site-3"]


# --- aborts and restarts


@pytest.mark.parametrize("when", [0, 1])
def test_an_aborted_round_steps_nowhere(when):
    model = Model()
    play(server(model), answers(1.0, 1.0), 2, abort=lambda ask: ask.message.round == when)
    assert (model.round, model.value, model.finished) == (when, when, [])


def test_an_abort_in_the_judgement_leaves_the_final_model():
    model = Model()
    played = play(server(model), answers(1.0, 1.0), 2, abort=lambda ask: ask.task == FINISH)
    assert played.whole is None
    assert model.finished == [0.5]


@pytest.mark.parametrize("aggregation", [WeightedMean(), ClippedMean(1), CoordinateMedian(1)], ids=lambda one: one.name)
@pytest.mark.parametrize("when", [0, 1, 2, 3])
def test_a_server_that_dies_and_comes_back_ends_with_the_same_model(aggregation, when):
    """What a rule remembers (the clipped mean: the median norm) is of the rounds that were done, whenever it dies."""

    def sites():
        values = (1.0, 2.0, 3.0, 40.0)
        return {
            name: lambda ask, v=v: site(v / (ask.message.round + 1))(ask) for name, v in zip(NAMES, values, strict=True)
        }

    lived, died = Model(), Model()
    play(server(lived, 3, 3, aggregation), sites(), 3)
    play(server(died, 3, 3, aggregation), sites(), 3, crash=lambda ask: ask.message.round == when)
    assert died.round == when
    again = server(died, 3, 3, aggregation)
    assert again.done == when
    played = play(again, sites(), 3)
    assert played.whole
    assert len(played.asked) == 3 - when + 1
    np.testing.assert_array_equal(lived.weights["model:w"], died.weights["model:w"])
    assert lived.memory == died.memory
    assert [entry["aggregated"] for entry in again.record.run["rounds"]] == [list(NAMES)] * 3


def test_a_restarted_server_still_knows_who_missed_what():
    told, model = {}, Model()
    sites = {"site-1": site(), "site-2": site(at={1: None}), "site-3": site()}
    play(server(model, 3), sites, 3, crash=lambda ask: ask.message.round == 2)

    def back(ask):
        told[ask.message.round] = ask.message.since("site-2")
        return site()(ask)

    play(server(model, 3), sites | {"site-2": back}, 3)
    assert told == {2: 1, 3: 3}


def test_last_counted():
    history = [{"round": 0, "aggregated": ["a", "b"]}, {"round": 1, "aggregated": ["a"]}]
    assert last_counted(history) == {"a": 2, "b": 1}


# --- rules


def test_a_flagged_site_is_in_log_record_and_remarks_and_takes_part_in_the_next_round(caplog):
    model = Model()
    run = server(model, num_rounds=2, min_clients=3, aggregation=CoordinateMedian(1))
    sites = {"site-1": site(1.0), "site-2": site(1.1), "site-3": site(0.9), "site-4": site(-70.0, at={1: update(1.0)})}
    assert play(run, sites, 2).whole
    assert "FLAGGED site-4 in round 1 by coordinate median: its update lies" in caplog.text
    assert list(model.history[0]["flagged"]) == ["site-4"]
    assert "flagged" not in model.history[1]
    assert model.history[0]["aggregated"] == list(NAMES)
    assert run.record.problems == []


def test_more_flags_than_f_stop_the_round_and_the_model_stays():
    model = Model()
    values = (1.0, 1.1, 0.9, 1.05)
    sites = answers(*values) | {"site-5": site(-70.0), "site-6": site(80.0), "site-7": site(1.0)}
    played = play(server(model, 2, 3, CoordinateMedian(1)), sites, 2)
    assert "tolerates 1 hostile sites" in str(played.stopped)
    assert "site-5" in played.stopped.found
    assert "site-6" in played.stopped.found
    assert (model.round, model.value) == (0, 0)


def test_a_mean_that_is_not_finite_ends_the_run_with_the_model_before(monkeypatch):
    model = Model()
    huge = {name: site(3e38) for name in NAMES}
    monkeypatch.setattr("wardround.core.arrays.RunningMean.mean", lambda self: {"model:w": np.full(3, np.inf)})
    played = play(server(model), huge, 2)
    assert "NaN or inf" in str(played.stopped)
    assert (model.round, model.value) == (0, 0)
