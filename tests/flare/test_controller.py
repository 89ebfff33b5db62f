"""The controller on a fake communicator: sites are functions, messages and contexts are NVFlare's own."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, TaskCompletionStatus
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply
from nvflare.apis.signal import Signal
from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

from wardround.aggregation.mean import WeightedMean
from wardround.aggregation.median import CoordinateMedian
from wardround.algorithms.server_optimizers import Mean
from wardround.core.arrays import RunningMean, from_variable
from wardround.core.errors import ConfigRefused
from wardround.flare import orders, plaintext_messages, workspaces
from wardround.flare.controller import ServerController
from wardround.flare.plaintext_server import PlaintextServer
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.training.global_model import initial_arrays

SPEC = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)
ABOUT = {"config_type": "dict", "job": "brats_fedavg", "algorithm": "FedAvg", "num_rounds": 2}


def controller(**changed):
    mode = {
        "aggregation": WeightedMean(),
        "compression": "none",
        "server_optimizer": Mean(1.0),
        "model": SPEC,
        "variables": ["model"],
        "home_roles": [],
        "min_clients": 2,
        "seed": 0,
        "allowed_names": [],
    }
    run = {
        "num_rounds": 2,
        "about": ABOUT,
        "round_timeout_s": 60,
        "step_timeout_s": 60,
        "wait_time_after_min_received": 60,
    }
    mode |= {name: value for name, value in changed.items() if name in mode}
    return ServerController(PlaintextServer(**mode), **run | {n: v for n, v in changed.items() if n not in mode})


class Sites:
    """Plays the communicator: every targeted site answers in order, None is a site that never answers."""

    def __init__(self, controller, answers, sent):
        self.controller, self.answers, self.sent = controller, answers, sent
        self.asked = []

    def cancel_task(self, task, completion_status, fl_ctx):
        task.completion_status = completion_status

    def broadcast(self, task, fl_ctx, targets, min_responses, wait):
        self.asked.append((task.name, tuple(targets)))
        assert min_responses == len(targets) > 0
        for site in targets:
            message = self.answers[site](task.name, orders.read_order(task.data))
            if message is not None:
                self.deliver(task, site, message)
        task.completion_status = TaskCompletionStatus.TIMEOUT

    def deliver(self, task, site, message):
        client_task = ClientTask(Client(site, "token"), task)
        client_task.result = self.sent(message, site)
        task.result_received_cb(client_task=client_task, fl_ctx=None)


@pytest.fixture
def play(context, update, scores, sent):
    """play(answers, **promises) -> controller, what was asked, folder of the run, context"""

    def run(answers, abort=None, clients=None, **changed):
        fl_ctx = context(party="server")
        connected = fl_ctx.get_engine().clients
        connected += [SimpleNamespace(name=site) for site in answers]
        if clients is not None:
            clients.append(connected)
        made = controller(**changed)
        made.communicator = sites = Sites(made, answers, sent)
        made.initialize(fl_ctx)
        made.control_flow(abort or Signal(), fl_ctx)
        return SimpleNamespace(controller=made, asked=sites.asked, folder=workspaces.run_folder(fl_ctx), fl_ctx=fl_ctx)

    return run


@pytest.fixture
def honest(update, scores):
    """honest(step=0.0, weight=1.0) -> a site that moves every weight by `step` in every round"""

    def site(step=0.0, weight=1.0, **changed):
        def answer(task, order):
            if task == plaintext_messages.FINISH:
                return plaintext_messages.scores_message(scores)
            delta = {name: np.full_like(block, step) for name, block in order.weights.items()}
            return plaintext_messages.update_message(
                update(delta, weight, **{"fingerprint": fingerprint(SPEC)} | changed)
            )

        return answer

    return site


def panics(fl_ctx):
    """Return why the run was told to end as a failure."""
    return [words for event, words in fl_ctx.get_engine().events if event == EventType.FATAL_SYSTEM_ERROR]


def report(played):
    return json.loads((played.folder / "report.json").read_text())


def test_two_rounds_in_closed_form(play, honest):
    """Every round adds (1 * 2 + 3 * 6) / 4 = 5 to every weight."""
    played = play({"site-1": honest(2.0, weight=1.0), "site-2": honest(6.0, weight=3.0)})
    final, meta = checkpoint.load(played.folder / "final_model.npz", fingerprint(SPEC))
    for name, block in initial_arrays(SPEC, 0).items():
        np.testing.assert_allclose(final[name], block + 10, rtol=1e-6)
    assert meta["round"] == 2
    assert meta["trained_on"] == {"data": "phantoms", "sites": {"phantoms": 2}}
    assert (meta["label_kind"], meta["card"]["hospitals"]) == ("brats", 2)
    both = ("site-1", "site-2")
    assert played.asked == [("train", both), ("train", both), ("finish", both)]
    assert report(played)["outcome"] == "complete"
    assert panics(played.fl_ctx) == []


def garbage():
    block = {"model:w": np.ones(2, np.float32)}
    yield "other kind", DXO(DataKind.METRICS, data={"x": 1}).to_shareable(), "release"
    yield "no meta", DXO(DataKind.WEIGHT_DIFF, data=block).to_shareable(), "release"
    yield "code", plaintext_messages.refusal_message("data"), "refused: data"
    yield "sentence", plaintext_messages.refusal_message("see /data/x.nii.gz"), "refused: error"
    yield "nvflare", make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR), "refused: TASK_RESULT_FILTER_ERROR"


@pytest.mark.parametrize(("what", "message", "reason"), list(garbage()))
def test_one_site_cannot_stop_the_others(what, message, reason, play, honest):
    answers = {"site-1": honest(1.0), "site-2": lambda task, order: message, "site-3": honest(3.0)}
    played = play(answers)
    assert [entry["aggregated"] for entry in report(played)["rounds"]] == [["site-1", "site-3"]] * 2
    assert played.asked[1:] == [("train", ("site-1", "site-3")), ("finish", ("site-1", "site-3"))]
    (problem,) = report(played)["problems"]
    assert "site-2 was lost in round 1" in problem
    assert reason in problem
    assert "nii" not in problem
    (words,) = panics(played.fl_ctx)
    assert "INCOMPLETE" in words


def test_an_update_of_another_architecture_or_shape_is_not_added(play, honest, update):
    def other_shape(task, order):
        return plaintext_messages.update_message(
            update({"model:w": np.ones(2, np.float32)}, fingerprint=fingerprint(SPEC))
        )

    played = play(
        {
            "site-1": honest(1.0),
            "site-2": honest(9.0, fingerprint="0" * 16),
            "site-3": other_shape,
            "site-4": honest(1.0),
        }
    )
    final, _ = checkpoint.load(played.folder / "final_model.npz")
    for name, block in initial_arrays(SPEC, 0).items():
        np.testing.assert_allclose(final[name], block + 2, rtol=1e-6)
    assert {problem.split()[0] for problem in report(played)["problems"]} == {"site-2", "site-3"}


def test_a_part_of_an_update_is_refused_even_from_the_first_site(play, honest, update):
    """What an update must hold is known from the job, not from whoever answers first."""

    def part(task, order):
        return plaintext_messages.update_message(
            update(dict([*order.weights.items()][1:]), fingerprint=fingerprint(SPEC))
        )

    played = play({"site-0": part, "site-1": honest(1.0), "site-2": honest(1.0)})
    assert {problem.split()[0] for problem in report(played)["problems"]} == {"site-0"}
    assert all(entry["aggregated"] == ["site-1", "site-2"] for entry in report(played)["rounds"])


def test_too_few_sites_end_the_run_and_the_report_says_so(play, honest):
    played = play({"site-1": honest(1.0), "site-2": lambda task, order: plaintext_messages.refusal_message("data")})
    assert played.asked == [("train", ("site-1", "site-2"))]
    assert report(played)["outcome"] == "incomplete"
    assert any("too few sites" in problem for problem in report(played)["problems"])
    assert not (played.folder / "final_model.npz").exists()


def test_a_site_that_fails_the_judgement_is_named(play, honest):
    train = honest(1.0)
    answers = {
        "site-1": honest(1.0),
        "site-2": lambda task, order: (
            train(task, order) if task == plaintext_messages.TRAIN else plaintext_messages.refusal_message("memory")
        ),
    }
    played = play(answers)
    assert report(played)["problems"] == [
        "site-2 was lost in the final evaluation: refused: memory (see that site's own log)"
    ]
    assert (played.folder / "final_model.npz").is_file()


def test_scores_that_say_too_much_are_rejected(play, honest, scores):
    train, scores = honest(1.0), copy.deepcopy(scores)
    scores["candidates"]["local"]["patients"] = ["phantom-north-001"]
    answers = {
        "site-1": honest(1.0),
        "site-2": lambda task, order: (
            train(task, order) if task == plaintext_messages.TRAIN else plaintext_messages.scores_message(scores)
        ),
    }
    played = play(answers)
    assert set(report(played)["final"]) == {"site-1"}
    assert "rejected: release" in report(played)["problems"][0]
    assert "phantom-north" not in (played.folder / "run.json").read_text()


def test_nobody_is_asked_when_nobody_is_left(play, honest):
    """To NVFlare an empty list of targets means any site, and the server would wait for it."""
    train, clients = honest(1.0), []

    def leaves(task, order):
        if order.round == 1:
            clients[0].clear()
        return train(task, order)

    played = play({"site-1": leaves}, min_clients=1, clients=clients)
    assert played.asked == [("train", ("site-1",)), ("train", ("site-1",))]
    assert report(played)["problems"] == [
        "site-1 was lost in the final evaluation: not connected (see that site's own log)"
    ]


def test_an_aborted_run_is_incomplete(play, honest):
    abort = Signal()

    def last(task, order):
        abort.trigger("stop")

    played = play({"site-1": honest(1.0), "site-2": last}, abort=abort)
    assert report(played)["problems"][0] == "the run was aborted in round 1"
    assert report(played)["rounds"] == []


def test_a_resumed_run_does_the_rounds_that_are_left(play, honest, monkeypatch, tmp_path):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    first, second = honest(1.0), honest(1.0)
    dies = {"site-1": first, "site-2": lambda task, order: second(task, order) if order.round == 0 else None}
    play(dies)
    played = play({"site-1": honest(1.0), "site-2": honest(1.0)})
    assert [task for task, _ in played.asked] == ["train", "finish"]
    final, _ = checkpoint.load(played.folder / "final_model.npz")
    for name, block in initial_arrays(SPEC, 0).items():
        np.testing.assert_allclose(final[name], block + 2, rtol=1e-6)
    assert [entry["round"] for entry in report(played)["rounds"]] == [0, 1]


def test_the_state_of_another_job_ends_the_run_before_it_begins(play, honest, context, monkeypatch, tmp_path):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    play({"site-1": honest(1.0), "site-2": lambda task, order: None if order.round else honest(1.0)(task, order)})
    fl_ctx = context(party="server")
    controller(about=ABOUT | {"lr": 1.0}).initialize(fl_ctx)
    (words,) = panics(fl_ctx)
    assert "another job" in words


def test_a_run_that_lost_a_hospital_goes_on_with_a_lower_min_clients(play, honest, monkeypatch, tmp_path):
    """The report says the number that the run ended with."""
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    dies = {"site-1": honest(1.0), "site-2": lambda task, order: None if order.round else honest(1.0)(task, order)}
    play(dies, min_clients=2, about=ABOUT | {"min_clients": 2})
    played = play({"site-1": honest(1.0)}, min_clients=1, about=ABOUT | {"min_clients": 1})
    assert [entry["round"] for entry in report(played)["rounds"]] == [0, 1]
    assert report(played)["settings"]["min_clients"] == 1


def test_the_same_job_submitted_after_its_end_starts_anew(play, honest, monkeypatch, tmp_path):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    first = play({"site-1": honest(1.0), "site-2": honest(1.0)})
    second = play({"site-1": honest(1.0), "site-2": honest(1.0)})
    assert [task for task, _ in first.asked] == [task for task, _ in second.asked] == ["train", "train", "finish"]


def away(site, *rounds):
    """A site that does not answer in these rounds, and notes what it was told of its own state."""
    told = {}

    def answer(task, order):
        told[(task, order.round)] = order.since("site-2")
        return None if task == plaintext_messages.TRAIN and order.round in rounds else site(task, order)

    return answer, told


def test_a_site_that_missed_rounds_takes_part_again(play, honest):
    """3 rounds; site-2 misses the second: mean 2, then 1, then 2. It is told to start from its state after round 1."""
    site, told = away(honest(3.0), 1)
    played = play({"site-1": honest(1.0), "site-2": site}, num_rounds=3, min_clients=1, about=ABOUT | {"num_rounds": 3})
    final, _ = checkpoint.load(played.folder / "final_model.npz", fingerprint(SPEC))
    for name, block in initial_arrays(SPEC, 0).items():
        np.testing.assert_allclose(final[name], block + 5, rtol=1e-6)
    assert told == {("train", 0): 0, ("train", 1): 1, ("train", 2): 1, ("finish", 3): 3}
    said = report(played)
    assert [entry["missing"] for entry in said["rounds"]] == [{}, {"site-2": "no answer in time"}, {}]
    assert (said["outcome"], said["problems"]) == ("complete", [])
    assert said["remarks"] == ["site-2 is not in round 2: no answer in time"]
    assert panics(played.fl_ctx) == []
    assert "COMPLETE, with remarks" in (played.folder / "report.html").read_text()


def test_a_site_that_judges_but_is_in_no_round_makes_the_run_incomplete(play, honest):
    site, told = away(honest(1.0), 0, 1)
    played = play({"site-1": honest(1.0), "site-2": site}, min_clients=1)
    assert report(played)["problems"] == ["site-2 is in no round"]
    assert told[("finish", 2)] == 0
    assert len(panics(played.fl_ctx)) == 1


def test_a_resumed_run_knows_who_missed_what(play, honest, monkeypatch, tmp_path):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    site, _ = away(honest(1.0), 1)
    dies = lambda task, order: honest(1.0)(task, order) if order.round < 2 else None  # noqa: E731
    about = ABOUT | {"num_rounds": 3}
    play({"site-1": dies, "site-2": site}, num_rounds=3, min_clients=1, about=about, abort=None)
    site, told = away(honest(1.0))
    play({"site-1": honest(1.0), "site-2": site}, num_rounds=3, min_clients=1, about=about)
    assert told[("finish", 3)] == 3


def test_another_version_of_the_package_is_rejected(play, honest, caplog):
    played = play({"site-1": honest(1.0), "site-2": honest(1.0), "site-3": honest(1.0, version="0.0.1")})
    assert report(played)["problems"] == ["site-3 was lost in round 1: rejected: config (see that site's own log)"]
    assert "version 0.0.1" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"wait_time_after_min_received": None},
        {"wait_time_after_min_received": -1},
        {"wait_time_after_min_received": 1.5},
        {"round_timeout_s": None},
        {"step_timeout_s": None},
        {"num_rounds": None},
        {"num_rounds": 0},
        {"about": {}},
        {"min_clients": 0},
        {"min_clients": None},
        {"seed": None},
        {"aggregation": None},
        {"server_optimizer": None},
        {"model": None},
        {"variables": []},
        {"home_roles": None},
    ],
)
def test_a_promise_that_is_missing_is_refused(changed):
    """NVFlare turns an undefined variable of a config into None."""
    with pytest.raises(ConfigRefused):
        controller(**changed)


def test_the_final_model_is_the_bank_model(play, honest):
    played = play({"site-1": honest(1.0), "site-2": honest(1.0)}, variables=["model", "fedavg"])
    final, _ = checkpoint.load(played.folder / "final_model.npz")
    assert final.keys() == from_variable("model", played.controller._run.model.wire()).keys()


# --- one hospital that sends numbers that no hospital has


def _put(dxo, path, value):
    place = {"meta": dxo.meta, "data": dxo.data}[path[0]]
    for key in path[1:-1]:
        place = place[key]
    place[path[-1]] = value


HUGE = {
    "loss": (plaintext_messages.TRAIN, "meta.numbers.loss", 1e308),
    "score": (plaintext_messages.TRAIN, "meta.numbers.val_score", 1e308),
    "seconds": (plaintext_messages.TRAIN, "meta.numbers.seconds", 1e308),
    "weight": (plaintext_messages.TRAIN, "meta.weight", 1e308),
    "patients": (plaintext_messages.TRAIN, "meta.facts.cases.train", 2**52),
    "final score": (plaintext_messages.FINISH, "data.val_score", 1e308),
    "test score": (plaintext_messages.FINISH, "data.candidates.local.test.dice_mean.value", 1e308),
    "final seconds": (plaintext_messages.FINISH, "data.seconds", 1e308),
}


@pytest.mark.parametrize("liars", [1, 2])
@pytest.mark.parametrize("which", HUGE)
def test_huge_numbers_of_a_hospital_spoil_neither_report_nor_choice_of_the_best(play, honest, which, liars):
    task, path, value = HUGE[which]

    def liar(asked, order):
        dxo = from_shareable(copy.deepcopy(honest(0.1)(asked, order)))
        if asked == task:
            _put(dxo, path.split("."), value)
        return dxo.to_shareable()

    names = [f"site-{number}" for number in range(1, 5 + liars)]
    answers = {name: liar if name in names[4:] else honest(0.1) for name in names}
    played = play(answers)
    run = report(played)
    assert run["outcome"] == "incomplete"
    assert [problem.split()[0] for problem in run["problems"]] == names[4:]
    assert all(
        entry["aggregated"] == names[: 4 if task == plaintext_messages.TRAIN else None] for entry in run["rounds"]
    )
    assert run["best"]["val_score"] <= 1
    assert (played.folder / "report.html").stat().st_size > 5000
    assert all(np.isfinite(block).all() for block in played.controller._run.model.wire().values())


def test_a_mean_that_is_not_finite_ends_the_run_with_the_model_before(play, honest, monkeypatch):
    monkeypatch.setattr(RunningMean, "mean", lambda self: {name: block * np.inf for name, block in self._sum.items()})
    played = play({f"site-{n}": honest(0.1) for n in (1, 2, 3)})
    assert any("NaN or inf" in problem for problem in report(played)["problems"])
    assert all(np.isfinite(block).all() for block in played.controller._run.model.wire().values())
    assert "NaN or inf" in (played.folder / "report.html").read_text(encoding="utf-8")


def test_a_fault_in_a_round_ends_the_run_as_incomplete_with_a_report(play, honest, monkeypatch, caplog):
    def broken(self):
        raise OverflowError("a fault of ours, site said <secret>")

    monkeypatch.setattr(RunningMean, "mean", broken)
    played = play({f"site-{n}": honest(0.1) for n in (1, 2)})
    run = report(played)
    assert run["outcome"] == "incomplete"
    assert any("OverflowError" in problem and "secret" not in problem for problem in run["problems"])
    assert "OverflowError" in (played.folder / "report.html").read_text(encoding="utf-8")
    assert "a fault of ours" in caplog.text


def test_a_report_that_cannot_be_drawn_is_written_plainly(play, honest, monkeypatch):
    def broken(*arguments):
        raise OverflowError

    monkeypatch.setattr("wardround.reports.page.render", broken)
    played = play({f"site-{n}": honest(0.1) for n in (1, 2)})
    page = (played.folder / "report.html").read_text(encoding="utf-8")
    assert "could not be drawn" in page
    assert "site-1, site-2" in page
    assert json.loads((played.folder / "run.json").read_text())["outcome"] == "incomplete"
    assert "could not be drawn" in panics(played.fl_ctx)[0]


def test_a_run_that_can_never_have_enough_sites_trains_nobody(play, honest):
    played = play({"site-1": honest(1.0)})
    assert played.asked == []
    (problem,) = report(played)["problems"]
    assert "1 site, the job needs 2" in problem
    assert any("the job needs 2" in words for words in panics(played.fl_ctx))


def test_an_admin_who_asks_is_told_how_far_the_run_is(play, honest):
    """By the event with which NVFlare's server collects what `nvflare job stats` and `nvflare job monitor` show."""
    told = []

    def asked(inner):
        def answer(task, order):
            fl_ctx.set_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR, collector := GroupInfoCollector(), private=True)
            running[0].handle_event(InfoCollector.EVENT_TYPE_GET_STATS, fl_ctx)
            told.append(collector.info["wardround"])
            return inner(task, order)

        return answer

    fl_ctx, running = FLContext(), []
    started = ServerController.start_controller

    def start(self, fl_ctx):
        running.append(self)
        started(self, fl_ctx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerController, "start_controller", start)
        play({"site-1": honest(1.0), "site-2": asked(honest(2.0))}, min_clients=1)
    assert [one["round"] for one in told] == [1, 2, 2]
    assert told[0]["progress"] == "round 1/2: 1 of 2 sites"
    assert told[1]["progress"].startswith("round 2/2: 1 of 2 sites, mean score 0.")
    assert told[1]["progress"].endswith("s left")
    assert told[2]["progress"].startswith("judgement: 1 of 2 sites")


def test_a_run_that_is_aborted_in_the_judgement_leaves_its_model_and_can_be_judged_later(
    play, honest, monkeypatch, tmp_path
):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    abort = Signal()

    def last(task, order):
        if task == plaintext_messages.FINISH:
            abort.trigger("stop")
            return None
        return honest(1.0)(task, order)

    played = play({"site-1": honest(1.0), "site-2": last}, abort=abort)
    assert report(played)["problems"][0] == "the run was aborted in the final evaluation"
    assert (played.folder / "final_model.npz").is_file()
    again = play({"site-1": honest(1.0), "site-2": honest(1.0)})
    assert again.asked == [("finish", ("site-1", "site-2"))]
    assert report(again)["outcome"] == "complete"


# --- aggregations that are not the mean


def test_the_median_of_a_job_is_the_servers_step_and_flags_are_told(play, honest, caplog):
    answers = {f"site-{n}": honest(0.1 * n) for n in (1, 2, 3, 4)} | {"site-5": honest(-50.0)}
    played = play(answers, aggregation=CoordinateMedian(1), min_clients=3)
    final, _ = checkpoint.load(played.folder / "final_model.npz")
    for name, block in initial_arrays(SPEC, 0).items():
        np.testing.assert_allclose(final[name], block + 2 * 0.2, rtol=1e-5, atol=1e-6)
    said = report(played)
    assert [list(entry["flagged"]) for entry in said["rounds"]] == [["site-5"], ["site-5"]]
    assert [entry["aggregated"] for entry in said["rounds"]] == [list(answers)] * 2
    assert said["remarks"] == ["site-5 was flagged by the aggregation in rounds 1, 2"]
    assert said["outcome"] == "complete"
    assert "FLAGGED site-5 in round 1 by coordinate median" in caplog.text
    page = (played.folder / "report.html").read_text()
    assert "Flagged, and why" in page
    assert "times as far from the aggregate" in page


@pytest.mark.parametrize("aggregation", [WeightedMean(), CoordinateMedian(1)], ids=lambda one: one.name)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_refused_on_reading_whatever_the_aggregation(play, honest, value, aggregation):
    answers = {f"site-{n}": honest(0.1) for n in (1, 2, 3)} | {"site-4": honest(value)}
    said = report(play(answers, aggregation=aggregation, min_clients=3))
    assert said["problems"] == ["site-4 was lost in round 1: rejected: release (see that site's own log)"]
    assert [entry["aggregated"] for entry in said["rounds"]] == [["site-1", "site-2", "site-3"]] * 2


def test_more_flagged_sites_than_the_job_tolerates_stop_the_round(play, honest):
    answers = {f"site-{n}": honest(0.1 + 0.001 * n) for n in range(1, 6)}
    played = play(
        answers | {"site-6": honest(-50.0), "site-7": honest(60.0)}, aggregation=CoordinateMedian(1), min_clients=3
    )
    said = report(played)
    assert said["rounds"] == []
    assert "tolerates 1 hostile sites" in said["problems"][0]
    assert "site-6" in said["problems"][0]


def test_a_job_whose_rounds_may_close_with_too_few_sites_for_f_is_refused():
    with pytest.raises(ConfigRefused, match=r"--set federation.min_clients=3"):
        controller(aggregation=CoordinateMedian(1))
