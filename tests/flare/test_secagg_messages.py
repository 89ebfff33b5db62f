"""What travels in jobs with a secure sum, there and back; and everything else, refused."""

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare_federation import facts_of, numbers, travelled

from wardround import __version__
from wardround.core.errors import Refusal, ReleaseRefused
from wardround.flare import plaintext_messages, secagg_calls, secagg_messages, strict_dxo
from wardround.flare.secagg_messages import Call, Reply, Revealed
from wardround.messages import plaintext, statements
from wardround.messages.identity import Identity
from wardround.messages.statements import Moment, Signed

RUN = "ab" * 16
MOMENT = Moment(RUN, 3, 1)
NUMBERS = {"loss": 1.5, "val_score": 0.25, "seconds": 2.0}
MODEL = {"roster": "", "grid": "aa", "model": "bb"}
KEY, SEALED = "0a" * 32, "0c" * 192
FIELDS = {
    "join": {"channel": KEY, "key_id": "", "job": KEY},
    "prepare": {"peers": KEY, "mask": KEY, "own": KEY, "shares": {"site-1": SEALED}, "digests": {"site-1": "dd" * 64}},
    "submit": MODEL | {"sha256": "cc"},
    "ready": MODEL,
    "complain": {"roster": KEY, "against": ["site-2"]},
    "justify": {"roster": KEY, "keys": {"site-2": KEY}},
    "hop": {"roster": "", "grid": "aa", "sha256": "cc", "done": ["site-1"]},
    "unmask": {"roster": "", "survivors": ["site-1"], "shares": {"site-1": "dd" * 66}},
    "judged": {"model": "bb", "job": KEY},
}
TASK_OF = {kind: task for task, kinds in secagg_messages.KINDS.items() for kind in kinds}


@pytest.fixture(scope="module")
def identity(project):
    return Identity.load(project / "site-1" / "startup", "site-1")


@pytest.fixture
def signed(identity):
    """signed(kind) -> a statement of site-1"""

    def make(kind):
        moment = Moment(RUN, -1, 0) if kind == "join" else MOMENT
        return statements.sign(identity, kind, moment, **FIELDS[kind])

    return make


def meta_of(task):
    facts = facts_of("site-1") | {"version": __version__}
    scores = numbers() | {"val_score": 0.3, "seconds": 1.0}
    return {
        plaintext_messages.TRAIN: {"numbers": NUMBERS, "facts": facts},
        plaintext_messages.FINISH: {"scores": scores},
    }.get(task, {})


@pytest.fixture
def reply(signed):
    """reply(kind) -> Reply of site-1 to the task of that kind"""

    def make(kind):
        return Reply(signed(kind), b"12345678" if kind in ("submit", "hop") else b"", meta_of(TASK_OF[kind]))

    return make


def test_a_call_arrives_as_it_was_sent(signed):
    revealed = Revealed(Moment(RUN, 2, 0), ("site-1", "site-2"), 4, 0.5, b"sum", KEY)
    call = Call(
        MOMENT,
        5,
        (signed("join"),),
        (signed("prepare"),),
        (revealed, revealed),
        ("site-1",),
        ("site-1", "site-2"),
        ("site-1",),
        signed("hop"),
        b"payload",
        2,
        (signed("complain"),),
    )
    assert secagg_calls.read_call(travelled(secagg_calls.call_message(call))) == call
    bare = Call(MOMENT, 5)
    assert secagg_calls.read_call(travelled(secagg_calls.call_message(bare))) == bare


def test_every_field_of_a_call_is_required():
    data = from_shareable(secagg_calls.call_message(Call(MOMENT, 5))).data
    for key in data:
        less = {name: value for name, value in data.items() if name != key}
        with pytest.raises(ReleaseRefused, match="no call"):
            secagg_calls.read_call(DXO(DataKind.APP_DEFINED, data=less).to_shareable())


@pytest.mark.parametrize(
    "changed",
    [
        {"moment": [RUN, 1]},
        {"moment": [RUN, "1", 0]},
        {"moment": [RUN, True, 0]},
        {"moment": [7, 1, 0]},
        {"moment": None},
        {"num_rounds": "many"},
        {"num_rounds": None},
        {"joins": [{"text": "x"}]},
        {"joins": [{"text": "x", "signature": b"", "certificate": b"", "more": 1}]},
        {"joins": [{"text": b"x", "signature": b"", "certificate": b""}]},
        {"joins": [{"text": "x", "signature": bytes(1025), "certificate": b""}]},
        {"joins": [{"text": "x", "signature": b"", "certificate": bytes(16385)}]},
        {"joins": 3},
        {"prepares": [None]},
        {"survivors": "site-1"},
        {"survivors": [1]},
        {"ready": ["x" * 65]},
        {"done": {"site-1": 1}},
        {"hop": []},
        {"payload": "text"},
        {"payload": None},
        {"revealed": [{}]},
        {"revealed": [{"moment": [RUN, 0, 0], "sites": []}]},
    ],
)
def test_what_is_no_call_is_refused(changed):
    data = from_shareable(secagg_calls.call_message(Call(MOMENT, 5))).data | changed
    with pytest.raises(ReleaseRefused):
        secagg_calls.read_call(DXO(DataKind.APP_DEFINED, data=data).to_shareable())


@pytest.mark.parametrize(
    "message",
    [
        Shareable(),
        make_reply(ReturnCode.EXECUTION_EXCEPTION),
        DXO(DataKind.WEIGHTS, data={"model:w": np.ones(2, np.float32)}).to_shareable(),
    ],
)
def test_another_message_is_no_call_and_no_reply(message):
    with pytest.raises(ReleaseRefused):
        secagg_calls.read_call(message)
    with pytest.raises(ReleaseRefused):
        secagg_messages.read_reply(message, plaintext_messages.TRAIN)


def test_every_task_has_its_kinds():
    assert set(secagg_messages.KINDS) == set(secagg_messages.TASKS)
    assert set(TASK_OF) == set(statements.SHAPES)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_reply_arrives_as_it_was_sent(reply, kind):
    given = reply(kind)
    assert secagg_messages.read_reply(travelled(secagg_messages.reply_message(given)), TASK_OF[kind]) == given


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("task", [*secagg_messages.TASKS, "validate", ""])
def test_a_kind_belongs_to_one_task(reply, kind, task):
    if task == TASK_OF[kind]:
        return
    with pytest.raises(ReleaseRefused, match=f"statement of kind '{kind}'"):
        secagg_messages.read_reply(secagg_messages.reply_message(reply(kind)), task)


@pytest.mark.parametrize("kind", [kind for kind in FIELDS if kind not in ("submit", "hop")])
def test_only_two_kinds_carry_a_payload(signed, kind):
    message = secagg_messages.reply_message(Reply(signed(kind), b"x", meta_of(TASK_OF[kind])))
    with pytest.raises(ReleaseRefused):
        secagg_messages.read_reply(message, TASK_OF[kind])


@pytest.mark.parametrize(
    "changed",
    [
        {"payload": "text"},
        {"payload": bytearray(b"x")},
        {"payload": np.ones(3, np.float32)},
        {"delta": np.ones(3, np.float32)},
        {"text": "{}"},
        {"text": "[" * 5},
        {"text": 5},
        {"signature": "x"},
        {"certificate": None},
        {"text": '{"kind":"submit"}'},
    ],
)
def test_what_is_no_reply_is_refused(reply, changed):
    dxo = from_shareable(secagg_messages.reply_message(reply("submit")))
    dxo.data |= changed
    with pytest.raises(Refusal):
        secagg_messages.read_reply(dxo.to_shareable(), plaintext_messages.TRAIN)


@pytest.mark.parametrize("kind", FIELDS)
def test_the_meta_is_exactly_that_of_the_task(reply, kind):
    """One key more, one less, or one of another task: refused."""
    given, task = reply(kind), TASK_OF[kind]
    for meta in ({**given.meta, "cases": 3}, {"weight": 3.0}, dict(list(given.meta.items())[1:]) or {"x": 1}):
        with pytest.raises(ReleaseRefused):
            secagg_messages.read_reply(secagg_messages.reply_message(Reply(given.statement, given.payload, meta)), task)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("numbers", "loss", float("nan")),
        ("numbers", "loss", [1.0, 2.0]),
        ("numbers", "more", 1.0),
        ("facts", "label", "x" * 65),
        ("facts", "cases", 5),
        ("facts", "cases", {"train": -1, "val": 1, "test": 1}),
        ("facts", "device", None),
        ("facts", "patients", ["phantom-1"]),
    ],
)
def test_numbers_and_facts_are_read_strictly(reply, where, key, value):
    given = reply("submit")
    meta = {**given.meta, where: {**given.meta[where], key: value}}
    with pytest.raises(ReleaseRefused):
        secagg_messages.read_reply(
            secagg_messages.reply_message(Reply(given.statement, given.payload, meta)), plaintext_messages.TRAIN
        )


def test_facts_may_hide_their_counts(reply):
    given = reply("submit")
    meta = {**given.meta, "facts": plaintext.without_counts(given.meta["facts"])}
    message = secagg_messages.reply_message(Reply(given.statement, given.payload, meta))
    assert secagg_messages.read_reply(message, plaintext_messages.TRAIN).meta["facts"]["cases"] is None


def test_facts_without_counts():
    """Which sequences exist is told, how often is not; nothing else changes, and the facts given are not touched."""
    facts = facts_of("site-1")
    without = plaintext.without_counts(facts)
    assert without["cases"] is None
    assert without["modalities"] == {"t1": 1, "t1ce": 1, "t2": 0, "flair": 1}
    assert {key for key in facts if facts[key] != without[key]} == {"cases", "modalities"}
    assert facts == facts_of("site-1")


def test_scores_without_counts():
    scores = numbers() | {"val_score": 0.3, "seconds": 1.0}
    without = plaintext.scores_without_counts(scores)
    assert "cases" not in str(without)
    assert without["candidates"]["fedavg"]["gain"] == {"value": 0.1, "low": None, "high": None}
    assert {key: without[key] for key in ("deploy", "val_score", "seconds")} == {
        key: scores[key] for key in ("deploy", "val_score", "seconds")
    }
    strict_dxo.require_shape(without, plaintext_messages.SCORES, "scores")
    assert "cases" in str(scores)


def test_again_is_known_by_its_only_entry(reply):
    assert secagg_messages.read_again(secagg_messages.again_message(4)) == 4
    assert secagg_messages.read_again(travelled(secagg_messages.again_message(0))) == 0
    assert secagg_messages.read_again(secagg_messages.reply_message(reply("submit"))) is None
    update = plaintext_messages.Update({"model:w": np.ones(2, np.float32)}, 1.0, NUMBERS, facts_of("site-1"))
    assert secagg_messages.read_again(plaintext_messages.update_message(update)) is None
    assert secagg_messages.read_again(Shareable()) is None


def test_again_never_leaves():
    for task in secagg_messages.TASKS:
        with pytest.raises(ReleaseRefused):
            secagg_messages.read_reply(secagg_messages.again_message(0), task)


def test_a_statement_of_any_length_is_not_read():
    long = Signed("x" * (statements.LONGEST + 1), b"", b"")
    with pytest.raises(Refusal):
        secagg_messages.read_reply(secagg_messages.reply_message(Reply(long, b"", {})), secagg_messages.JOIN)
