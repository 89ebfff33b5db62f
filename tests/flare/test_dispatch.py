import time

import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, TaskCompletionStatus
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from wardround.core.attendance import Attendance
from wardround.core.errors import RoundRefused
from wardround.core.stages import STEP, TRAINING, Ask
from wardround.flare import plaintext_messages
from wardround.flare.dispatch import Dispatch, Patience, configured, drop_late

NAMES = ["site-1", "site-2", "site-3"]
SLOW = "an answer that comes when the test says so"


class Problems:
    """As much of a log as Attendance needs."""

    def __init__(self):
        self.problems = []

    def problem(self, text, site=None):
        self.problems.append(text)


class AsItIs:
    """A codec whose plain values are the messages themselves."""

    def encode(self, message):
        return message

    def decode(self, task, reply):
        return reply


class Sites:
    """Three sites that a Dispatch asks."""

    def __init__(self, controller, fl_ctx, patience):
        self.controller, self.fl_ctx = controller, fl_ctx
        self.record = Problems()
        self.problems = self.record.problems
        self.there = Attendance(configured(fl_ctx.get_engine(), fl_ctx), 2, self.record)
        self.dispatch = Dispatch(controller, self.there, AsItIs(), patience)
        self.out, self.configured = self.there.out, self.there.configured

    @property
    def missing(self):
        return self.there.missing

    def ask(self, take=lambda site, result: None, abort=None, **changed):
        ask = Ask("train", Shareable(), take, **changed)
        return list(self.dispatch.ask(ask, abort or Signal(), self.fl_ctx).answered)


class Plain(Controller):
    """A controller that only asks; every answer comes at once."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.asked, self.client_tasks, self.cancelled, self.slow = answers, [], [], [], []

    def start_controller(self, fl_ctx):
        pass

    def stop_controller(self, fl_ctx):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        pass

    def process_result_of_unknown_task(self, client, task_name, client_task_id, result, fl_ctx):
        drop_late(self, client, task_name, fl_ctx)

    def cancel_task(self, task):
        task.completion_status = TaskCompletionStatus.CANCELLED
        self.cancelled.append(task.name)

    def answer_late(self, message=None):
        """What a slow site sends after all."""
        client_task = self.slow[0]
        client_task.result = message or Shareable()
        client_task.task.result_received_cb(client_task=client_task, fl_ctx=None)

    def broadcast(self, task, fl_ctx, targets, min_responses):
        self.asked.append((task.name, tuple(targets), min_responses, task.timeout))
        for site in targets:
            answer = self.answers.get(site, Shareable())
            if answer is SLOW:
                self.slow.append(ClientTask(Client(site, "token"), task))
            elif answer is not None:
                client_task = ClientTask(Client(site, "token"), task)
                client_task.result = answer() if callable(answer) else answer
                task.result_received_cb(client_task=client_task, fl_ctx=fl_ctx)
                self.client_tasks.append(client_task)
        if SLOW not in [self.answers.get(site) for site in targets]:
            task.completion_status = TaskCompletionStatus.TIMEOUT


@pytest.fixture
def asking(context, monkeypatch):
    """asking(**answers, connected=NAMES) -> Sites with a log of problems; silent sites answer None"""

    def make(answers=None, connected=NAMES, named=NAMES, timeout_s=60, wait_time_after_min_received=60, **more):
        fl_ctx = context(party="server", job=more.get("job", "simulate_job"))
        controller = Plain({} if answers is None else answers)
        fl_ctx.get_engine().clients = [Client(site, "token") for site in connected]
        meta = {"job_clients": [{"name": site} for site in named], "deploy_map": more.get("deploy_map")}
        fl_ctx.set_prop(FLContextKey.JOB_META, meta, True, False)
        controller.initialize(fl_ctx)
        return Sites(controller, fl_ctx, Patience({TRAINING: timeout_s, STEP: 7}, wait_time_after_min_received))

    return make


def ask(made, round_=0, **changed):
    made.there.begin_round(round_)
    return made.ask(**changed)


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


def test_a_site_that_is_not_connected_is_missing_and_not_asked(asking):
    made = asking(named=["site-9"])
    assert ask(made) == NAMES
    assert made.missing == {"site-9": "not connected"}
    assert made.controller.asked[0][1] == tuple(NAMES)
    assert (made.out, made.problems) == ({}, [])


def test_the_sites_of_the_jobs_map_are_configured_where_the_job_is_real(asking):
    """One that was not there when the job began is not forgotten; the simulator may run a job with fewer sites."""
    there = {"app": ["server", "site-1", "site-7"], "more": ["@ALL"]}
    assert asking(deploy_map=there, job="a1b2").configured == ["site-1", "site-2", "site-3", "site-7"]
    assert asking(deploy_map=there).configured == NAMES


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (plaintext_messages.refusal_message("data"), "refused: data"),
        (plaintext_messages.refusal_message("see /data/x.nii.gz"), "refused: error"),
        (make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR), "refused: TASK_RESULT_FILTER_ERROR"),
    ],
)
def test_a_site_that_would_not_is_lost_and_asked_no_more(asking, answer, reason):
    made, seen = asking({"site-2": answer}), []
    assert ask(made, take=lambda site, result: seen.append(site)) == ["site-1", "site-3"]
    assert seen == ["site-1", "site-3"]
    assert made.out == {"site-2": reason}
    assert made.there.left() == ["site-1", "site-3"]
    assert ask(made, 1) == ["site-1", "site-3"]
    assert made.controller.asked[1][1] == ("site-1", "site-3")
    assert len(made.problems) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no answer in time"),
        (plaintext_messages.refusal_message("memory"), "refused: memory"),
        (plaintext_messages.refusal_message("failure"), "refused: failure"),
        (make_reply(ReturnCode.COMMUNICATION_ERROR), "refused: COMMUNICATION_ERROR"),
    ],
)
def test_a_site_that_could_not_is_asked_again_in_the_next_round(asking, caplog, answer, reason):
    answers = {"site-2": answer}
    made = asking(answers)
    assert ask(made) == ["site-1", "site-3"]
    assert (made.missing, made.out, made.problems) == ({"site-2": reason}, {}, [])
    assert f"MISSING site-2 in round 1: {reason}; it is asked again in the next round" in caplog.text
    del answers["site-2"]
    assert ask(made, 1) == NAMES
    assert made.missing == {}


def test_in_the_judgement_there_is_no_next_time(asking):
    made = asking({"site-2": None})
    assert ask(made, 2) == ["site-1", "site-3"]
    assert made.problems == ["site-2 was lost in the final evaluation: no answer in time (see that site's own log)"]


def test_within_a_round_who_is_missing_is_not_asked_again(asking):
    made = asking({"site-3": None})
    ask(made)
    assert made.there.present() == ["site-1", "site-2"]
    made.ask()
    assert made.controller.asked[1][1] == ("site-1", "site-2")


def test_once_enough_have_answered_the_others_have_the_grace_and_no_more(asking):
    made = asking({"site-3": SLOW}, wait_time_after_min_received=0)
    assert ask(made, need=2) == ["site-1", "site-2"]
    assert made.missing == {"site-3": "no answer in time"}
    assert made.controller.cancelled == ["train"]


def test_enough_counts_what_was_accepted_and_no_refusal(asking):
    """A refusal is an answer to NVFlare, but no update: with one update the round waits for its deadline."""
    made = asking(
        {"site-2": plaintext_messages.refusal_message("data"), "site-3": SLOW},
        wait_time_after_min_received=0,
        timeout_s=1,
    )
    begun = time.monotonic()
    assert ask(made, need=2) == ["site-1"]
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("between", [True, False])
def test_a_late_answer_is_dropped_and_its_site_is_asked_again(asking, caplog, between, refused):
    """Whether it comes between the rounds or while the next one is open, and whether it is an update or a refusal."""
    made, seen = asking({"site-3": SLOW}, wait_time_after_min_received=0), []
    late = plaintext_messages.refusal_message("data") if refused else None
    assert ask(made, need=2) == ["site-1", "site-2"]
    assert made.controller.cancelled == ["train"]

    def take(site, result):
        seen.append(site)
        if site == "site-1" and not between:
            made.controller.answer_late(late)

    if between:
        made.controller.answer_late(late)
    assert ask(made, 1, take=take, need=2) == seen == ["site-1", "site-2"]
    assert made.controller.asked[1][1] == tuple(NAMES)
    assert "DROPPED a late answer of site-3 to task train of round 1" in caplog.text
    assert (made.missing, made.out) == ({"site-3": "no answer in time"}, {})


def test_a_site_with_a_new_token_has_returned(asking, caplog):
    made = asking()
    ask(made)
    made.fl_ctx.get_engine().clients[1] = Client("site-2", "another token")
    ask(made, 1)
    assert made.there.returned == {"site-2"}
    assert "RETURNED site-2" in caplog.text


def test_what_is_refused_on_reading_loses_the_site(asking, caplog):
    def take(site, result):
        if site == "site-3":
            raise RoundRefused("an update", found="another shape", expected="ours", fix="see the log")

    made = asking()
    assert ask(made, take=take) == ["site-1", "site-2"]
    assert made.out == {"site-3": "rejected: round"}
    assert "REJECTED the answer of site-3 to task train" in caplog.text
    assert "another shape" in caplog.text
    assert "another shape" not in made.problems[0]


@pytest.mark.parametrize("fault", [KeyError("x"), MemoryError(), RecursionError(), OverflowError("1e308")], ids=repr)
def test_a_fault_over_one_answer_loses_that_site_alone_and_is_logged(asking, caplog, fault):
    """NVFlare ends the task of all sites when the server's callback raises."""

    def take(site, result):
        if site == "site-2":
            raise fault

    made = asking()
    assert ask(made, take=take) == ["site-1", "site-3"]
    assert made.out == {"site-2": "rejected: failure"}
    assert type(fault).__name__ in caplog.text


def test_an_answer_whose_headers_are_none_loses_its_site_alone(asking):
    broken = Shareable()
    broken["__headers__"] = "no dictionary"
    made = asking({"site-1": broken})
    assert ask(made) == ["site-2", "site-3"]
    assert made.out == {"site-1": "refused: error"}


def test_a_subset_can_be_asked(asking):
    made = asking({"site-3": plaintext_messages.refusal_message("data")})
    assert ask(made, to=("site-2",)) == ["site-2"]
    assert made.out == {}
    assert ask(made, to=("site-3", "site-2")) == ["site-2"]
    assert ask(made, to=("site-3",)) == []
    assert [asked[1] for asked in made.controller.asked] == [("site-2",), ("site-3", "site-2")]


def test_nobody_is_asked_when_nobody_is_left(asking):
    """To NVFlare an empty list of targets means any site."""
    made = asking(dict.fromkeys(NAMES, plaintext_messages.refusal_message("data")))
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
    assert made.out == {}


@pytest.mark.parametrize(
    ("round_", "words"), [(-1, "the join"), (0, "round 1"), (1, "round 2"), (2, "the final evaluation")]
)
def test_when_it_was_lost(asking, round_, words):
    made = asking({"site-2": plaintext_messages.refusal_message("data")})
    ask(made, round_)
    assert made.problems == [f"site-2 was lost in {words}: refused: data (see that site's own log)"]


@pytest.mark.parametrize(("deadline", "used"), [(TRAINING, 60), (STEP, 7)])
def test_each_deadline_has_its_seconds(asking, deadline, used):
    made = asking()
    ask(made, deadline=deadline)
    assert made.controller.asked[0][3] == used


def test_a_question_may_be_asked_in_the_name_of_another_round(asking):
    """A site that came back joins in round 2: what goes wrong there is said of the join."""
    made = asking({"site-2": plaintext_messages.refusal_message("data")})
    made.there.begin_round(1)
    made.ask(round_=-1)
    assert made.problems == ["site-2 was lost in the join: refused: data (see that site's own log)"]


def test_what_cannot_be_decoded_loses_its_site(asking, monkeypatch):
    def strict(self, task, reply):
        raise RoundRefused("a message", found="another kind", expected="an update", fix="look at the site")

    monkeypatch.setattr(AsItIs, "decode", strict)
    made = asking()
    assert ask(made) == []
    assert made.out == dict.fromkeys(NAMES, "rejected: round")


def test_replies_say_who_is_missing(asking):
    made = asking({"site-2": None})
    made.there.begin_round(0)
    replies = made.dispatch.ask(Ask("train", Shareable(), lambda site, result: None), Signal(), made.fl_ctx)
    assert replies.answered == ("site-1", "site-3")
    assert replies.missing == {"site-2": "no answer in time"}


def test_how_far_a_run_is_can_be_asked_while_a_question_is_open(asking):
    seen = []
    made = asking({"site-3": SLOW}, wait_time_after_min_received=0)
    ask(made, take=lambda site, result: seen.append(made.dispatch.now()), need=2)
    assert [(now.round, now.num_rounds, now.answered, now.asked) for now in seen] == [(0, 2, 0, 2), (0, 2, 1, 2)]
    now = made.dispatch.now()
    assert (now.answered, now.asked, now.missing) == (0, 0, ("site-3",))


def test_nothing_is_kept_of_an_answer(asking):
    """NVFlare keeps the client task until the task ends; with every update in it, memory would grow with the sites."""
    made = asking()
    ask(made)
    assert [one.result for one in made.controller.client_tasks] == [None] * 3


def test_a_late_answer_is_dropped_and_said_so(asking, caplog):
    made = asking()
    made.controller.process_result_of_unknown_task(Client("site-2", "t"), "train", "id", Shareable(), made.fl_ctx)
    assert "DROPPED a late answer of site-2 to task train" in caplog.text
