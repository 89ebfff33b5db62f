"""The executor of a secure sum: six tasks, one global model, and what it does not do."""

import numpy as np
import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare_federation import SITES, first_model, secagg_site
from outbounds import outbound

from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import FedAdam
from wardround.core.arrays import Layout, digest
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.flare import few_patients, orders, plaintext_messages, secagg_calls, secagg_messages
from wardround.flare.outbound import ID
from wardround.flare.secagg_messages import Call, Revealed
from wardround.messages import statements
from wardround.messages.identity import Authority
from wardround.messages.statements import Moment
from wardround.models import checkpoint
from wardround.secagg.fixed_point import fields_of
from wardround.secagg.roster import joined, roster_digest
from wardround.secagg.server import SecAggServer
from wardround.training.client import Hospital

RUN = "ab" * 16
SAYS = "/data/phantom-north-001_t1.nii.gz"
NAMES = SITES[:3]


@pytest.fixture
def he(federation):
    return federation("he", names=NAMES)


def execute(site, task, call):
    message = call if isinstance(call, Shareable) else secagg_calls.call_message(call)
    return site.executor.execute(task, message, site.context(task), Signal())


def join(federation):
    """Return the `join` statements of all sites."""
    replies = [execute(site, "join", Call(joined(RUN), 2, begun=1)) for site in federation.sites.values()]
    return tuple(secagg_messages.read_reply(reply, "join").statement for reply in replies)


def train(federation, round_=0, attempt=0, *revealed):
    """Let every site train and pass the exit; return the sum as the server would send it."""
    moment = Moment(RUN, round_, attempt)
    size = fields_of(Layout.of(first_model()), federation.promise.bits, weighted=federation.promise.weighted)
    secagg_server = SecAggServer(federation.promise, Authority.load(federation.sites["site-1"].startup), size)
    joins = join(federation)
    secagg_server.begin(moment, joins)
    for name, site in federation.sites.items():
        message = site.answer("train", secagg_calls.call_message(Call(moment, 2, prepares=joins, revealed=revealed)))
        reply = secagg_messages.read_reply(message, plaintext_messages.TRAIN)
        secagg_server.submit(name, reply.statement, reply.payload)
    roster, added = roster_digest(joins), tuple(sorted(secagg_server.added))
    return Revealed(moment, added, len(federation.sites), 0.25, secagg_server.payload(), roster)


def test_a_join_is_the_same_when_it_is_asked_again(he):
    site = he.sites["site-1"]
    first, second = (execute(site, "join", Call(joined(RUN), 2)) for _ in range(2))
    said = [statements.peek(secagg_messages.read_reply(reply, "join").statement) for reply in (first, second)]
    assert said[0] == said[1]
    site.restart()
    third = secagg_messages.read_reply(execute(site, "join", Call(joined(RUN), 2)), "join").statement
    assert statements.peek(third)["channel"] == said[0]["channel"]


def test_the_update_stays_in_the_process_until_the_exit(he):
    """What `train` returns is readable, what the exit makes of it is not."""
    site, call = he.sites["site-1"], Call(Moment(RUN, 0, 0), 2)
    update = plaintext_messages.read_update(execute(site, "train", call))
    assert update.delta.keys() == first_model().keys()
    assert update.weight == 3
    assert site.secure.call == call
    assert site.secure.model == digest(first_model())
    assert site.secure.initial.keys() == first_model().keys()


def test_trained_once_hidden_as_often_as_needed(he):
    train(he)
    site = he.sites["site-1"]
    again = execute(site, "train", Call(Moment(RUN, 0, 1), 2))
    assert secagg_messages.read_again(again) == 0
    site.restart()
    assert secagg_messages.read_again(execute(site, "train", Call(Moment(RUN, 0, 2), 2))) == 0
    assert site.hospital.trained == [0]


def test_a_revealed_sum_is_applied_once(he):
    revealed = train(he)
    site = he.sites["site-1"]
    for attempt in (0, 1):
        execute(site, "train", Call(Moment(RUN, 1, attempt), 2, revealed=(revealed,)))
        assert site.held().round == 1
    one = site.held().wire()
    site.restart()
    execute(site, "train", Call(Moment(RUN, 1, 2), 2, revealed=(revealed,)))
    again = site.held().wire()
    assert digest(one) == digest(again) != digest(first_model())


@pytest.mark.parametrize("round_", [1, 2])
def test_a_site_that_missed_a_sum_refuses(he, caplog, round_):
    site = he.sites["site-1"]
    reply = execute(site, "train" if round_ < 2 else "finish", Call(Moment(RUN, round_, 0), 2))
    assert plaintext_messages.refusal_code(reply) == "round"
    assert "the server has no sums that lead there" in caplog.text
    assert site.hospital.trained == []


def test_an_older_round_than_this_site_has_done_is_refused(he):
    revealed = train(he)
    train(he, 1, 0, revealed)
    site = he.sites["site-1"]
    assert plaintext_messages.refusal_code(execute(site, "train", Call(Moment(RUN, 0, 1), 2))) == "round"


@pytest.mark.parametrize("what", ["a coefficient", "truncated", "another round", "a site less", "two sites"])
def test_a_sum_that_is_not_the_one_that_was_made_is_refused(he, what):
    """Nothing of it is applied: the site still has the model from before."""
    revealed = train(he)
    moment, sites, payload = revealed.moment, revealed.sites, revealed.payload
    if what == "a coefficient":  # a bit at the low end of one is lost in the noise and changes nothing
        payload = payload[:9992] + bytes(byte ^ 1 for byte in payload[9992:10000]) + payload[10000:]
    elif what == "truncated":
        payload = payload[:-1]
    elif what == "another round":
        moment = Moment(RUN, 0, 1)
    else:
        sites = ("site-1", "site-2", "site-4") if what == "a site less" else ("site-1", "site-2")
    site = he.sites["site-1"]
    call = Call(Moment(RUN, 1, 0), 2, revealed=(Revealed(moment, sites, 3, 0.25, payload),))
    assert plaintext_messages.refusal_code(execute(site, "train", call)) in ("round", "config")
    assert site.held().round == 0
    assert digest(site.held().wire()) == digest(first_model())
    stopped = what != "two sites"  # which is refused before it is opened
    again = execute(site, "join", Call(joined(RUN), 2, begun=1))
    assert (
        plaintext_messages.refusal_code(again) == "round"
        if stopped
        else secagg_messages.read_reply(again, "join").payload == b""
    )


def test_the_judgement_carries_the_digest_of_the_final_model(he):
    revealed = train(he, 1, 0, train(he))
    site = he.sites["site-2"]
    reply = secagg_messages.read_reply(
        execute(site, "finish", Call(Moment(RUN, 2, 0), 2, revealed=(revealed,))), "finish"
    )
    model = site.held().wire()
    assert statements.peek(reply.statement)["model"] == digest(model)
    assert "cases" not in str(reply.meta["scores"])
    kept, meta = checkpoint.load(site.folder / "final_model.npz")
    assert meta["round"] == 2
    assert meta["trained_on"] == {"data": "mixed", "sites": {"phantoms": 1, "unknown": 2}}, "it knows its own data only"
    assert meta["label_kind"] == "brats"
    assert all(np.array_equal(kept[name], model[f"model:{name}"]) for name in kept)


def test_the_rule_is_applied_at_every_site_alike(federation):
    """FedAdam has a state of its own: two sites that run it apart end with the same weights, and so after a restart."""
    played = federation("he", names=NAMES)
    server_optimizer, plain = FedAdam(0.01, 0.9, 0.99, 0.001), {}
    for site in played.sites.values():
        site.executor = secagg_site(server_optimizer=server_optimizer)
        site.executor.trainer.opened = site.hospital
    first = train(played)
    last = train(played, 1, 0, first)
    restarted = played.sites["site-3"]
    restarted.restart()
    restarted.executor = secagg_site(server_optimizer=server_optimizer)
    restarted.executor.trainer.opened = restarted.hospital
    for name, site in played.sites.items():
        secagg_messages.read_reply(execute(site, "finish", Call(Moment(RUN, 2, 0), 2, revealed=(last,))), "finish")
        plain[name] = digest(site.held().wire())
    assert len(set(plain.values())) == 1


def test_every_site_ends_with_the_same_mean_of_the_last_third(federation):
    """One site is restarted before every round of the last third: its mean has the bits of all others."""
    played = federation("he", names=NAMES)
    schedule = Schedule(6, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine", "mean_of_last_third")

    def begin(site):
        site.restart()
        site.executor = secagg_site(schedule=schedule)
        site.executor.trainer.opened = site.hospital

    for site in played.sites.values():
        begin(site)
    sums = [train(played)]
    for round_ in range(1, 6):
        if round_ >= 4:
            begin(played.sites["site-3"])
        sums.append(train(played, round_, 0, sums[-1]))
    begin(played.sites["site-3"])
    signed, models = set(), []
    for site in played.sites.values():
        reply = execute(site, "finish", Call(Moment(RUN, 6, 0), 6, revealed=(sums[-1],)))
        signed.add(statements.peek(secagg_messages.read_reply(reply, "finish").statement)["model"])
        models.append(site.model())
    held = played.sites["site-1"].held()
    assert signed == {digest(held.final())} != {digest(held.wire())}
    assert all(np.array_equal(one[name], held.final()[f"model:{name}"]) for one in models for name in one)


def test_the_grid_follows_the_learning_rate(he):
    """Cosine: the second round's rate is half of the first's, so is what its updates are expected to be."""
    site = he.sites["site-1"]
    execute(site, "join", Call(joined(RUN), 2))
    model, schedule = site.executor.secagg_model, site.executor.schedule
    assert model._ratio(0, cycle=1) == schedule.steps(1).lr / schedule.steps(0).lr < 1
    assert model._ratio(1, cycle=1) == 1.0


def test_curves_hold_only_the_numbers_of_the_update(he):
    site = he.sites["site-1"]
    seen = []
    site.engine.fire_event = lambda event, ctx: seen.append(ctx.get_prop("__event_data__"))
    few_patients.keep(site.context("train"), few_patients.Patients(train=30, val=12, test=12))
    update = plaintext_messages.read_update(execute(site, "train", Call(Moment(RUN, 0, 0), 2)))
    curves = [event["DXO"]["data"] for event in seen if isinstance(event, Shareable)]
    told = {curve["track_key"]: curve["track_value"] for curve in curves}
    # The job hides the numbers of patients, so it tells no time either.
    assert told | {"seconds": None} == update.numbers


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (DataRefused(f"case 1, file {SAYS}", found="garbage", expected="NIfTI", fix="copy it"), "data"),
        (MemoryError(SAYS), "memory"),
        (ValueError(SAYS), "failure"),
    ],
)
@pytest.mark.parametrize("task", ["train", "finish"])
def test_a_failure_becomes_one_word(federation, failure, code, task, monkeypatch):
    def fails(*args, **kwargs):
        raise failure

    monkeypatch.setattr(Hospital, "open", fails)
    site = federation("he", names=NAMES, played=False).sites["site-1"]
    round_ = 0 if task == "train" else 2
    reply = execute(site, task, Call(Moment(RUN, round_ if task == "train" else 0, 0), 2))
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert plaintext_messages.refusal_code(reply) == code
    assert SAYS not in str(reply)


@pytest.mark.parametrize("task", ["prepare", "hop", "unmask"])
def test_a_step_out_of_turn_is_refused(federation, task):
    """A run that this site did not join, an attempt that it did not prepare, sites that never said a word."""
    site = federation("ring", names=NAMES).sites["site-1"]
    call = Call(Moment(RUN, 0, 0), 2, survivors=NAMES, ready=NAMES)
    assert plaintext_messages.refusal_code(execute(site, task, call)) == "round"


@pytest.mark.parametrize("task", ["validate", "submit_model", ""])
def test_an_unknown_task_is_refused(he, task):
    assert plaintext_messages.refusal_code(execute(he.sites["site-1"], task, Call(joined(RUN), 2))) == "config"


@pytest.mark.parametrize(
    "message", [Shareable(), plaintext_messages.refusal_message("data"), secagg_messages.again_message(0)]
)
@pytest.mark.parametrize("task", secagg_messages.TASKS)
def test_what_is_no_call_is_refused(he, message, task):
    assert plaintext_messages.refusal_code(execute(he.sites["site-1"], task, message)) == "release"


def test_no_component_no_work(he):
    site = he.sites["site-1"]
    del site.engine.components["outbound"]
    assert plaintext_messages.refusal_code(execute(site, "join", Call(joined(RUN), 2))) == "config"


def test_the_state_of_another_job_is_refused(he, monkeypatch):
    revealed = train(he)
    site = he.sites["site-1"]
    execute(site, "train", Call(Moment(RUN, 1, 0), 2, revealed=(revealed,)))
    site.restart()
    monkeypatch.setattr("wardround.flare.workspaces.job_name", lambda fl_ctx: "another job")
    assert (
        plaintext_messages.refusal_code(execute(site, "train", Call(Moment(RUN, 1, 0), 2, revealed=(revealed,))))
        == "round"
    )


@pytest.mark.parametrize(
    "name", ["algorithm", "sharing", "model", "schedule", "sampling", "model_selection", "phantoms", "seed"]
)
def test_a_promise_that_is_missing_is_refused(name):
    """NVFlare turns an undefined variable of a config into None."""
    with pytest.raises(ConfigRefused, match=r"(?s)the job's site settings.*" + name):
        secagg_site(**{name: None})


@pytest.mark.parametrize(
    ("name", "words"), [("server_optimizer", "no server optimizer"), ("variables", "no list of variables")]
)
def test_what_every_site_of_a_sum_needs_is_refused_at_its_first_task(he, name, words, caplog):
    site = he.sites["site-1"]
    site.executor = secagg_site(**{name: None})
    assert plaintext_messages.refusal_code(execute(site, "join", Call(joined(RUN), 2))) == "config"
    assert words in caplog.text


@pytest.mark.parametrize("name", ["server_optimizer", "variables"])
def test_what_only_sites_of_a_sum_need_is_refused_in_a_plaintext_job(he, name, caplog):
    """Its server would apply another rule than the one that the job shows."""
    site = he.sites["site-1"]
    site.engine.components[ID] = outbound()
    message = orders.order_message(orders.Order(first_model(), 0, 2))
    assert plaintext_messages.refusal_code(execute(site, "train", message)) == "config"
    assert f"{name}" in caplog.text
    assert "only sites of a secure sum use" in caplog.text
