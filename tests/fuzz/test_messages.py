"""Mutants of everything that comes over the network, at every door that reads it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from mutants import WEIRD, flipped, hold, mutant
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.shareable import Shareable
from nvflare_federation import facts_of, numbers
from site_policies import open_policy, under

from wardround import __version__
from wardround.compression.chosen import HalfPrecision, LargestValues, Quantisation, RandomSlices
from wardround.compression.opening import Opening
from wardround.core.arrays import Layout
from wardround.core.errors import Refusal
from wardround.core.rng import stream
from wardround.core.stages import Update as Sent
from wardround.data.cases import MODALITIES
from wardround.flare import compressed_messages, orders, plaintext_messages, secagg_calls, secagg_messages
from wardround.flare.outbound import Outbound
from wardround.flare.outbound_filter import OutboundFilter
from wardround.messages import statements
from wardround.messages.statements import Moment, Signed

BLOCKS = {"model:a": np.arange(6, dtype=np.float32).reshape(2, 3), "control:a": np.zeros((2, 3), np.float32)}
NUMBERS = {"loss": 1.5, "val_score": 0.25, "seconds": 2.0}
FACTS = facts_of("site-1") | {"version": __version__}
SCORES = numbers() | {"val_score": 0.3, "seconds": 1.0}


def wild(rng, message):
    """Return a message with its content, and now and then its frame, changed."""
    made = Shareable()
    made.clear()
    made.update(mutant(rng, dict(message)))
    if rng.integers(20) == 0:
        made[["__headers__", "DXO", "kind"][int(rng.integers(3))]] = WEIRD[int(rng.integers(len(WEIRD)))]()
    return made


def same(a, b):
    """Compare values that hold arrays."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def twice(read, write):
    """Return a door: what is read, written and read again is the same."""

    def door(message):
        found = read(message)
        again = read(write(found))
        assert same(
            vars(found) if hasattr(found, "__dict__") else found, vars(again) if hasattr(again, "__dict__") else again
        )

    return door


UPDATE = plaintext_messages.update_message(plaintext_messages.Update(BLOCKS, 3.0, NUMBERS, FACTS))
CLEAR = {
    "order": (
        orders.order_message(orders.Order(BLOCKS, 2, 5, {"site-2": 1})),
        twice(orders.read_order, orders.order_message),
    ),
    "update": (UPDATE, twice(plaintext_messages.read_update, plaintext_messages.update_message)),
    "scores": (
        plaintext_messages.scores_message(SCORES),
        twice(plaintext_messages.read_scores, plaintext_messages.scores_message),
    ),
}


@pytest.mark.parametrize("which", CLEAR)
def test_messages_in_plaintext(which):
    message, door = CLEAR[which]
    door(message)
    assert 0 < hold(1500, 1, lambda rng: wild(rng, message), door) < 1500


COMPRESSIONS = [HalfPrecision(), Quantisation(8, 256, 0), LargestValues(0.1), RandomSlices(2, 0)]


@pytest.mark.parametrize("chosen", COMPRESSIONS, ids=lambda one: one.name)
def test_compressed_updates(chosen):
    """What is read from the wire and opened is finite numbers of the job's blocks, or a refusal."""
    rng = stream(0, "blocks")
    given = {name: rng.normal(0, 0.01, (20, 20)).astype(np.float32) for name in ("model:v", "model:w")}
    blocks = Layout.of(given)
    sent, _ = chosen.stage(blocks, "site-1").outbound(Sent(given, 3.0), 0, {})
    message = compressed_messages.update_message(
        plaintext_messages.Update(sent.params, 3.0, NUMBERS, FACTS), chosen.name
    )

    def door(message):
        arrays = compressed_messages.read_update(message, chosen.name).delta
        found = Opening(chosen, blocks, {}, 1e6).opened("site-1", arrays, 0)
        assert found.keys() == given.keys()
        assert all(np.abs(block).max() <= 1e6 for block in found.values())

    door(message)
    assert 0 < hold(1000, 4, lambda rng: wild(rng, message), door) < 1000


def test_the_code_of_a_refusal():
    message = plaintext_messages.refusal_message("data")

    def door(given):
        assert plaintext_messages.refusal_code(given) in {*plaintext_messages._CODES, *plaintext_messages._RETURN_CODES}

    hold(300, 2, lambda rng: wild(rng, message), door)


@pytest.fixture(scope="module")
def spoken(project, tmp_path_factory):
    """Every message of one honest run in a ring and one under masks: (task, who says it, message)."""
    from nvflare_federation import Federation

    found = []
    for mode in ("masked", "ring"):
        played = Federation(tmp_path_factory.mktemp(mode) / "ws", project, mode).run()
        assert played.problems == []
        found += played.messages
    return found


def test_calls(spoken):
    calls = [message for _, who, message in spoken if who == "server"]
    door = twice(secagg_calls.read_call, secagg_calls.call_message)
    for call in calls:
        door(call)
    assert 0 < hold(2000, 3, lambda rng: wild(rng, calls[int(rng.integers(len(calls)))]), door) < 2000


def test_replies(spoken):
    replies = [(task, message) for task, who, message in spoken if who != "server"]

    def make(rng):
        task, message = replies[int(rng.integers(len(replies)))]
        return (task if rng.integers(10) else replies[int(rng.integers(len(replies)))][0]), wild(rng, message)

    def door(given):
        task, message = given
        twice(lambda one: secagg_messages.read_reply(one, task), secagg_messages.reply_message)(message)

    assert 0 < hold(2000, 4, make, door) < 2000


def test_the_marker_of_a_repeated_attempt():
    message = secagg_messages.again_message(3)

    def door(given):
        found = secagg_messages.read_again(given)
        assert found is None or secagg_messages.read_again(secagg_messages.again_message(found)) == found

    hold(300, 5, lambda rng: wild(rng, message), door)


def test_statements(spoken):
    texts = sorted({from_shareable(message).data["text"] for _, who, message in spoken if who != "server"})

    def make(rng):
        text = texts[int(rng.integers(len(texts)))]
        if rng.integers(2):
            return flipped(rng, text)
        try:
            return json.dumps(mutant(rng, json.loads(text)), sort_keys=True, separators=(",", ":"))
        except (TypeError, ValueError):
            return text[:-1]

    def door(text):
        said = statements.peek(Signed(text, b"", b""))
        assert json.dumps(said, sort_keys=True, separators=(",", ":")) == text

    assert 0 < hold(2000, 6, make, door) < 2000


# --- whole parties: a site that is told nonsense, a server that hears nonsense


@pytest.mark.parametrize("mode", ["masked", "he"])
def test_a_server_that_hears_nonsense_loses_its_sender_and_nobody_else(federation, mode):
    """Every answer of one site is a mutant, signed or not; the run goes on with the others and ends with a report."""
    lost = 0
    for seed in range(3):
        played = federation(mode)
        rng = np.random.default_rng([7, seed])

        def meddle(task, site, call, reply, rng=rng):
            return wild(rng, reply) if site == "site-1" and rng.integers(2) else reply

        played.run(meddle=meddle)
        assert all(problem.startswith("site-1") for problem in played.problems), played.problems
        assert len(played.record["rounds"]) == 2
        assert set(played.record["final"]) >= {"site-2", "site-3", "site-4"}
        lost += bool(played.problems)
        for path in sorted(played.root.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert lost >= 1


def test_a_site_that_is_told_nonsense_answers_with_a_code_or_a_statement(federation, spoken):
    site = federation("masked").sites["site-1"]
    calls = [(task, message) for task, who, message in spoken if who == "server" and task != "finish"]

    def make(rng):
        task, message = calls[int(rng.integers(len(calls)))]
        return task, wild(rng, message)

    def door(given):
        task, message = given
        reply = site.answer(task, message)
        if reply.get_return_code() == "OK":
            secagg_messages.read_reply(reply, task)
        else:
            assert plaintext_messages.refusal_code(reply) != plaintext_messages.FAILURE, (
                site.folder / "refusals.txt"
            ).read_text()[-3000:]

    hold(600, 8, make, door)


# --- what leaves


def leaving(party, filter_, task):
    made = party(outbound=Outbound("none", "none", "none", MODALITIES))
    fl_ctx = made.context(task)
    table = {f"{name}/out": [OutboundFilter()] for name in secagg_messages.TASKS}
    fl_ctx.set_prop(FLContextKey.RUNNER, SimpleNamespace(task_result_filters=table))
    fl_ctx.set_prop(FLContextKey.FILTER_DIRECTION, FilterKey.OUT, private=True, sticky=False)
    return filter_.process, under(fl_ctx, open_policy())


@pytest.mark.parametrize("filter_", [OutboundFilter(), open_policy()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    ("task", "message"), [("train", UPDATE), ("finish", plaintext_messages.scores_message(SCORES))]
)
def test_exits_let_out_what_is_described_and_nothing_else(party, monkeypatch, filter_, task, message):
    monkeypatch.setattr("wardround.flare.policy_checks.is_log_streaming_allowed", lambda fl_ctx: False)
    process, fl_ctx = leaving(party, filter_, task)
    read = plaintext_messages.read_update if task == "train" else plaintext_messages.read_scores

    def door(given):
        out = process(given, fl_ctx)
        if out.get_return_code() == "OK":
            read(out)

    hold(300, 9, lambda rng: wild(rng, message), door)


def test_a_collector_reads_or_refuses_every_statement(spoken):
    """Mutants in the hands of who checks them, with signatures that fit no more."""
    from nvflare_federation import secagg

    from wardround.messages.identity import Authority
    from wardround.secagg.server import SecAggServer

    calls = [secagg_calls.read_call(m) for task, who, m in spoken if who == "server" and task == "train"]
    masked = next(call for call in calls if call.prepares)
    authority = Authority(_root_of(masked.joins[0]))
    secagg_server = SecAggServer(secagg("masked"), authority, 1000)
    said = [one for call in calls for one in (*call.joins, *call.prepares)]

    def make(rng):
        one = said[int(rng.integers(len(said)))]
        parts = mutant(rng, {"text": one.text, "signature": one.signature, "certificate": one.certificate})
        return int(rng.integers(4)), parts

    def door(given):
        which, parts = given
        one = secagg_messages.read_signed(parts)
        secagg_server.prepares, secagg_server.moment, secagg_server.roster = [], Moment(masked.moment.run, 0, 0), {}
        secagg_server.agreed, secagg_server.complaints, secagg_server.blamed = {}, {}, {}
        secagg_server._sums, secagg_server._chosen = {}, None
        acts = [
            lambda: secagg_server.begin(secagg_server.moment, [one]),
            lambda: secagg_server.submit("site-1", one, b"12345678"),
            lambda: secagg_server.complain("site-1", one),
            lambda: secagg_server.read_shares("site-1", one),
        ]
        acts[which]()

    hold(600, 10, make, door)


def _root_of(signed):
    """Return any certificate: no mutant's signature is to be accepted here."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(signed.certificate)


def test_a_refusal_is_a_refusal():
    """The control of all tests here: the property can fail."""

    def broken(given):
        raise KeyError("x")

    with pytest.raises(AssertionError, match="KeyError"):
        hold(1, 0, lambda rng: None, broken)
    with pytest.raises(Refusal):
        plaintext_messages.read_update(DXO(DataKind.METRICS, data={}).to_shareable())
