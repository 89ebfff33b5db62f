import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from wardround.errors import RoundRefused
from wardround.flare import wire
from wardround.flare.asking import Asking, drop_late

NAMES = ["site-1", "site-2", "site-3"]


class Problems:
    """As much of a record as Asking needs."""

    def __init__(self):
        self.problems = []

    def problem(self, text):
        self.problems.append(text)


class Plain(Controller):
    """A controller that only asks; every answer comes at once."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.asked, self.client_tasks = answers, [], []

    def start_controller(self, fl_ctx):
        pass

    def stop_controller(self, fl_ctx):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        pass

    def process_result_of_unknown_task(self, client, task_name, client_task_id, result, fl_ctx):
        drop_late(self, client, task_name, fl_ctx)

    def broadcast_and_wait(self, task, fl_ctx, targets, min_responses, wait=0, abort_signal=None):
        self.asked.append((task.name, tuple(targets), min_responses, task.timeout))
        for site in targets:
            answer = self.answers.get(site, Shareable())
            if answer is not None:
                client_task = ClientTask(Client(site, "token"), task)
                client_task.result = answer() if callable(answer) else answer
                task.result_received_cb(client_task=client_task, fl_ctx=fl_ctx)
                self.client_tasks.append(client_task)


@pytest.fixture
def asking(context, monkeypatch):
    """asking(**answers, connected=NAMES) -> Asking with a record of problems; silent sites answer None"""

    def make(answers=None, connected=NAMES, named=NAMES, timeout_s=60):
        fl_ctx, controller = context(party="server"), Plain(answers or {})
        fl_ctx.get_engine().clients = [Client(site, "token") for site in connected]
        fl_ctx.set_prop(FLContextKey.JOB_META, {"job_clients": [{"name": site} for site in named]}, True, False)
        controller.initialize(fl_ctx)
        made = Asking(controller, Problems(), 2, timeout_s)
        made.begin(fl_ctx)
        made.controller, made.problems, made.fl_ctx = controller, made._record.problems, fl_ctx
        return made

    return make


def ask(made, round_=0, take=lambda site, result: None, abort=None, **changed):
    return made.ask("train", round_, Shareable(), take, abort or Signal(), made.fl_ctx, **changed)


def test_who_is_configured(asking):
    """The sites that the job names and those that are connected, each once, sorted."""
    assert asking(named=["site-9", "site-1"]).configured == ["site-1", "site-2", "site-3", "site-9"]
    assert asking(named=[], connected=["b", "a"]).configured == ["a", "b"]


def test_everybody_left_is_asked_and_told_who_answered(asking):
    made, seen = asking(), []
    assert ask(made, take=lambda site, result: seen.append(site)) == NAMES
    assert seen == NAMES
    assert made.controller.asked == [("train", tuple(NAMES), 3, 60)]
    assert made.problems == []


def test_a_site_that_is_not_connected_is_lost_before(asking):
    made = asking(named=["site-9"])
    assert ask(made) == NAMES
    assert made.lost == {"site-9": "not connected"}
    assert made.problems == ["site-9 was lost in round 1: not connected (see that site's own log)"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no answer in time"),
        (wire.refusal_message("data"), "refused: data"),
        (wire.refusal_message("see /data/x.nii.gz"), "refused: error"),
        (make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR), "refused: TASK_RESULT_FILTER_ERROR"),
    ],
)
def test_a_site_without_a_useful_answer_is_lost_and_asked_no_more(asking, answer, reason):
    made, seen = asking({"site-2": answer}), []
    assert ask(made, take=lambda site, result: seen.append(site)) == ["site-1", "site-3"]
    assert seen == ["site-1", "site-3"]
    assert made.lost == {"site-2": reason}
    assert made.left() == ["site-1", "site-3"]
    assert ask(made, 1) == ["site-1", "site-3"]
    assert made.controller.asked[1][1] == ("site-1", "site-3")
    assert len(made.problems) == 1


def test_what_is_refused_on_reading_loses_the_site(asking, caplog):
    def take(site, result):
        if site == "site-3":
            raise RoundRefused("an update", found="another shape", expected="ours", fix="see the log")

    made = asking()
    assert ask(made, take=take) == ["site-1", "site-2"]
    assert made.lost == {"site-3": "rejected: round"}
    assert "REJECTED the answer of site-3 to task train" in caplog.text
    assert "another shape" in caplog.text
    assert "another shape" not in made.problems[0]


def test_a_fault_of_ours_is_not_hidden(asking):
    def take(site, result):
        raise KeyError(site)

    with pytest.raises(KeyError):
        ask(asking(), take=take)


def test_a_subset_can_be_asked(asking):
    made = asking({"site-3": None})
    assert ask(made, sites=["site-2"]) == ["site-2"]
    assert made.lost == {}
    assert ask(made, sites=["site-3", "site-2"]) == ["site-2"]
    assert ask(made, sites=["site-3"]) == []
    assert [asked[1] for asked in made.controller.asked] == [("site-2",), ("site-3", "site-2")]


def test_nobody_is_asked_when_nobody_is_left(asking):
    """To NVFlare an empty list of targets means any site."""
    made = asking(dict.fromkeys(NAMES))
    assert ask(made) == []
    assert ask(made) == []
    assert len(made.controller.asked) == 1


def test_an_aborted_run_loses_nobody(asking):
    abort = Signal()

    def stops():
        abort.trigger("stop")
        return Shareable()

    made = asking({"site-1": stops, "site-2": None, "site-3": None})
    assert ask(made, abort=abort) == ["site-1"]
    assert made.lost == {}


@pytest.mark.parametrize(
    ("round_", "words"), [(-1, "the join"), (0, "round 1"), (1, "round 2"), (2, "the final judgement")]
)
def test_when_it_was_lost(asking, round_, words):
    made = asking({"site-2": None})
    ask(made, round_)
    assert made.problems == [f"site-2 was lost in {words}: no answer in time (see that site's own log)"]


def test_the_first_reason_counts(asking):
    made = asking()
    made.lose("site-1", 0, "refused: data")
    made.lose("site-1", 1, "no answer in time")
    assert made.lost == {"site-1": "refused: data"}
    assert len(made.problems) == 1


@pytest.mark.parametrize(("given", "used"), [(None, 60), (7, 7), (0, 0)])
def test_patience(asking, given, used):
    made = asking()
    ask(made, timeout_s=given)
    assert made.controller.asked[0][3] == used


def test_nothing_is_kept_of_an_answer(asking):
    """NVFlare keeps the client task until the task ends; with every update in it, memory would grow with the sites."""
    made = asking()
    ask(made)
    assert [one.result for one in made.controller.client_tasks] == [None] * 3


def test_a_late_answer_is_dropped_and_said_so(asking, caplog):
    made = asking()
    made.controller.process_result_of_unknown_task(Client("site-2", "t"), "train", "id", Shareable(), made.fl_ctx)
    assert "DROPPED a late answer of site-2 to task train" in caplog.text
