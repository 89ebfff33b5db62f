"""The exit of a secure sum with a real site behind it: what it lets out, and what it writes down first."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare_federation import MODES, SECAGG, Private, facts_of, numbers

from wardround import __version__
from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused, Refusal, ReleaseRefused, RoundRefused
from wardround.core.traits import Traits
from wardround.dp.releases import SampledGaussianRelease
from wardround.flare import few_patients, orders, plaintext_messages, secagg_messages
from wardround.flare.outbound import TREATED
from wardround.flare.secagg_messages import Call, Reply
from wardround.messages import statements
from wardround.messages.statements import Moment, Signed
from wardround.secagg import grids
from wardround.secagg.incoming_hop import Incoming

RUN = "ab" * 16
NUMBERS = {"loss": 1.5, "val_score": 0.25, "seconds": 2.0}
SCORED = {"candidates": {}, "deploy": None, "val_score": None, "seconds": 12.5678}
BLOCKS = {"model:w": np.linspace(-0.01, 0.01, 600, dtype=np.float32), "model:b": np.ones(3, np.float32) / 50}


class Halved:
    """A stage that costs budget, and whose effect is easy to see."""

    name, traits, unit = "halved", Traits(), "patient"
    num_rounds, delta, accept_vacuous = 2, 1e-5, False

    def cost(self):
        return SampledGaussianRelease("patient", 2.0, 0.25, 1)

    def plan(self):
        return SampledGaussianRelease("patient", 2.0, 0.25, 2)

    def outbound(self, update, round_, memory):
        halved = {name: block / 2 for name, block in update.params.items()}
        return replace(update, params=halved), {"mechanism": "halved", "guarantee": "a test"}

    def inbound(self, aggregate, round_, memory):
        return aggregate


class Rig:
    """site-1 in a room of three that have joined and prepared: what its executor would hand to the exit."""

    def __init__(self, federation):
        self.promise, self.site, self.sites = federation.promise, federation.sites["site-1"], federation.sites
        self.names = ("site-1", "site-2", "site-3")
        self.joins = tuple(self.of(name).agreement.join(RUN) for name in self.names)
        self.moment(0)

    def of(self, name):
        return self.sites[name].secure.open(self.sites[name].context())

    def moment(self, round_, attempt=0):
        """Begin another attempt."""
        self.at, masks = Moment(RUN, round_, attempt), self.promise.masks
        prepares = [self.of(name).agreement.prepare(self.at, self.joins) for name in self.names if masks] or self.joins
        self.site.secure.begin(Call(self.at, 2, self.joins, tuple(prepares)), "", 0)
        self.site.secure.model, self.site.secure.initial = "aa" * 32, BLOCKS

    def exit(self, message, task="train"):
        return self.site.exit.process(message, self.site.context(task))

    @property
    def held(self):
        return sorted(path.name for path in self.site.root.rglob("held-*.npz"))


@pytest.fixture
def rig(federation):
    """rig(mode, **promises) -> Rig"""
    return lambda mode, **changed: Rig(federation(mode, **changed))


def update(blocks=None, weight=3.0, loss=1.5, **changed):
    facts = facts_of("site-1") | {"version": __version__} | changed
    return plaintext_messages.update_message(
        plaintext_messages.Update(BLOCKS if blocks is None else blocks, weight, NUMBERS | {"loss": loss}, facts)
    )


def judged(scores):
    """The reply to `finish` as the executor makes it."""
    common = {
        "kind": "judged",
        "site": "site-1",
        "run": "ab",
        "round": 0,
        "attempt": 0,
        "model": "bb",
        "job": "cc" * 32,
    }
    signed = Signed(json.dumps(common, sort_keys=True, separators=(",", ":")), b"s", b"c")
    return secagg_messages.reply_message(Reply(signed, b"", {"scores": scores}))


@pytest.mark.parametrize("mode", MODES)
def test_an_update_leaves_as_a_statement(rig, mode):
    made = rig(mode)
    few_patients.keep(made.site.context("train"), few_patients.Patients(30, 12, 12))
    reply = secagg_messages.read_reply(made.exit(update()), plaintext_messages.TRAIN)
    said = statements.peek(reply.statement)
    assert said["kind"] == ("ready" if mode == "ring" else "submit")
    assert (said["model"] == "aa" * 32) == (mode in ("fixed", "masked"))  # under encryption it is keyed
    assert reply.meta["numbers"] == NUMBERS | {"seconds": None}
    assert bool(reply.payload) == (mode != "ring")
    assert made.held == ["held-00000.npz"]
    (receipt,) = made.site.receipts
    assert receipt["kind"] == said["kind"]
    assert receipt["bytes"] == len(reply.payload)
    assert receipt["update"] == digest(BLOCKS)
    assert (receipt["secagg"], receipt["round"], receipt["attempt"]) == (mode, 0, 0)
    assert receipt["mechanism"] == "none"
    assert (receipt["clipped"], receipt["bits"]) == (0, 8)
    if mode != "ring":
        assert receipt["sha256"] == said["sha256"] == hashlib.sha256(reply.payload).hexdigest()


@pytest.mark.parametrize("mode", SECAGG)
def test_no_block_of_the_update_is_in_the_message(rig, mode):
    made = rig(mode)
    dxo = from_shareable(made.exit(update()))
    assert dxo.data_kind == DataKind.APP_DEFINED
    assert set(dxo.data) == {"text", "signature", "certificate", "payload"}
    assert set(dxo.meta) == {"numbers", "facts"}
    assert "model:w" not in str(dxo.data)
    plain = made.promise.packing.pack(made.of("site-1").fields(0)).tobytes()
    assert plain[:16] not in dxo.data["payload"]


def test_in_the_open_the_payload_is_the_plain_integers(rig):
    made = rig("fixed")
    dxo = from_shareable(made.exit(update()))
    assert dxo.data["payload"] == made.promise.packing.pack(made.of("site-1").fields(0)).tobytes()


@pytest.mark.parametrize("mode", ["masked", "he", "ring"])
def test_another_attempt_hides_the_same_integers_anew(rig, mode):
    made = rig(mode)
    first = secagg_messages.read_reply(made.exit(update()), plaintext_messages.TRAIN)
    kept = made.of("site-1").fields(0)
    made.moment(0, attempt=1)
    second = secagg_messages.read_reply(made.exit(secagg_messages.again_message(0)), plaintext_messages.TRAIN)
    assert statements.peek(second.statement)["attempt"] == 1
    assert np.array_equal(made.of("site-1").fields(0), kept)
    assert second.meta == first.meta
    assert mode == "ring" or second.payload != first.payload
    assert [line["attempt"] for line in made.site.receipts] == [0, 1]


def test_a_hop_adds_only_integers_that_this_exit_and_this_policy_made(rig):
    """A server that skips `train` would have kept integers added, of a job that ran before the site's policy was stricter."""
    made = rig("ring")
    made.exit(update())
    site, call = made.of("site-1"), made.site.secure.call
    signed, payload = site.hop(made.at, call.prepares, Incoming(made.names, (), None, b""))
    hop = secagg_messages.reply_message(Reply(signed, payload, {}))
    assert secagg_messages.read_reply(made.exit(hop, secagg_messages.HOP), secagg_messages.HOP).payload == payload
    treated = made.site.context(secagg_messages.HOP)
    treated.set_prop(TREATED, "noise of the site's own policy", private=True, sticky=False)
    with pytest.raises(ReleaseRefused, match="another outbound filter, sum or policy"):
        made.site.exit.process(hop, treated)


def test_an_update_for_a_round_that_is_coded_does_not_replace_it(rig):
    made = rig("he")
    made.exit(update())
    kept = made.of("site-1").fields(0)
    made.exit(update({name: -block for name, block in BLOCKS.items()}))
    assert np.array_equal(made.of("site-1").fields(0), kept)


def test_nothing_to_hide_again_is_refused(rig):
    made = rig("he")
    with pytest.raises(RoundRefused, match="no readable held-00000"):
        made.exit(secagg_messages.again_message(0))
    assert made.site.receipts == []


def test_stages_come_before_the_codec(rig):
    plain, halved = rig("fixed"), rig("fixed", private=Private(Halved()))
    plain.exit(update({name: block / 2 for name, block in BLOCKS.items()}))
    halved.exit(update(loss=None))
    assert np.array_equal(plain.of("site-1").fields(0), halved.of("site-1").fields(0))
    (receipt,) = halved.site.receipts
    assert receipt["mechanism"] == "halved"
    assert receipt["update"] == digest({name: block / 2 for name, block in BLOCKS.items()})


@pytest.mark.parametrize(
    ("weights", "in_sum"), [("equal", False), ("patients_plaintext", False), ("patients_in_sum", True)]
)
def test_counts_are_hidden_where_the_job_says_so(rig, weights, in_sum):
    reply = secagg_messages.read_reply(rig("he", weights=weights).exit(update()), plaintext_messages.TRAIN)
    assert (reply.meta["facts"]["cases"] is None) == in_sum
    assert reply.meta["facts"]["modalities"]["t1"] == (1 if in_sum else 9)
    assert (reply.meta["numbers"]["seconds"] is None) == in_sum
    out = rig("he", weights=weights).exit(judged(SCORED), plaintext_messages.FINISH)
    told = secagg_messages.read_reply(out, plaintext_messages.FINISH).meta["scores"]
    assert told["seconds"] == (None if in_sum else 13.0)
    again = rig("he", weights=weights)
    again.exit(update())
    said = json.dumps(again.of("site-1").said(0))
    assert ('"train"' in said) != in_sum


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "blocks",
    [
        {"model:w": np.array([1.0, np.nan], np.float32)},
        {"model:w": np.array([1.0, np.inf], np.float32)},
        {"model:w": np.ones(2, np.float64)},
        {"w": np.ones(2, np.float32)},
        {"model:w": [1.0, 2.0]},
        {},
    ],
)
def test_an_update_that_is_none_stays(rig, mode, blocks):
    made = rig(mode)
    with pytest.raises(ReleaseRefused):
        made.exit(DXO(DataKind.WEIGHT_DIFF, data=blocks, meta=from_shareable(update()).meta).to_shareable())
    assert (made.held, made.site.receipts) == ([], [])


def test_other_blocks_than_in_round_0_stay(rig):
    made = rig("masked")
    made.exit(update())
    grids.write(made.of("site-1").folder, 1, made.of("site-1").grid(0))
    made.moment(1)
    with pytest.raises(ReleaseRefused, match="cannot be coded"):
        made.exit(update({"model:w": BLOCKS["model:w"]}))
    assert made.held == ["held-00000.npz"]


def test_more_patients_than_the_sum_has_digits_for(rig):
    made = rig("he", bits=4)
    with pytest.raises(ReleaseRefused, match="patients"):
        made.exit(update(weight=600.0))
    assert made.site.receipts == []


def test_a_mask_is_used_for_one_update_only(rig):
    """The same moment, other integers: two texts under one mask would tell their difference."""
    made = rig("masked")
    made.exit(update())
    (held,) = made.site.root.rglob("held-00000.npz")
    held.unlink()
    with pytest.raises(RoundRefused, match="a mask that was used for another update"):
        made.exit(update({name: block * 2 for name, block in BLOCKS.items()}))
    assert len(made.site.receipts) == 1


@pytest.mark.parametrize("task", ["validate", "submit_model", "", None, "*"])
def test_an_unknown_task_lets_nothing_out(rig, task):
    made = rig("he")
    with pytest.raises(ReleaseRefused, match="one of join, prepare"):
        made.exit(update(), task)
    assert made.site.receipts == []


@pytest.mark.parametrize("task", [task for task in secagg_messages.TASKS if task != plaintext_messages.TRAIN])
@pytest.mark.parametrize("what", ["an update", "weights", "again", "nothing"])
def test_only_replies_leave_the_other_tasks(rig, task, what):
    message = {
        "an update": update(),
        "weights": orders.order_message(orders.Order(BLOCKS, 0, 2)),
        "again": secagg_messages.again_message(0),
        "nothing": Shareable(),
    }[what]
    made = rig("he")
    with pytest.raises(Refusal):
        made.exit(message, task)
    assert made.site.receipts == []


@pytest.mark.parametrize("what", ["weights", "metrics", "nothing", "a reply"])
def test_only_an_update_is_trained(rig, what):
    made = rig("he")
    message = {
        "weights": orders.order_message(orders.Order(BLOCKS, 0, 2)),
        "metrics": plaintext_messages.scores_message(numbers()),
        "nothing": Shareable(),
        "a reply": secagg_messages.reply_message(Reply(made.joins[0], b"", {})),
    }[what]
    with pytest.raises(ReleaseRefused):
        made.exit(message)
    assert made.held == []


def test_a_reply_is_built_anew(rig):
    """What rides along in headers or extra keys of the message stays."""
    made = rig("he")
    message = secagg_messages.reply_message(Reply(made.joins[0], b"", {}))
    message["more"] = "/data/x.nii.gz"
    message.set_header("note", "patient 7")
    out = made.exit(message, secagg_messages.JOIN)
    assert secagg_messages.read_reply(out, secagg_messages.JOIN).statement == made.joins[0]
    assert "x.nii" not in str(out)
    assert "patient 7" not in str(out)
    (receipt,) = made.site.receipts
    assert (receipt["task"], receipt["kind"], receipt["bytes"]) == ("join", "join", 0)


def test_which_blocks_are_this_hospitals_own_is_not_told(rig):
    """With it, the sum of a block could be known to hold one hospital."""
    made = rig("he")
    scores = {"candidates": {}, "deploy": None, "val_score": 0.5, "seconds": 1.0}
    for told in (scores, scores | {"personal": {"head": 1}}):
        out = made.exit(judged(told), plaintext_messages.FINISH)
        assert secagg_messages.read_reply(out, plaintext_messages.FINISH).meta == {
            "scores": scores | {"val_score": None, "seconds": None}
        }


@pytest.mark.parametrize("kind", ["brats", "classes", "organs of patient 3", "ct"])
def test_a_kind_of_labels_that_the_job_does_not_list_stays(rig, kind):
    made = rig("he")
    made.site.outbound.allowed_names = ("t1", "t1ce", "t2", "flair", "labels organs", "dice_spleen")
    with pytest.raises(ReleaseRefused):
        made.exit(update(label_kind=kind))
    assert (made.held, made.site.receipts) == ([], [])
    made.exit(update(label_kind="organs"))


@pytest.mark.parametrize("name", ["dice_of_patient_3", "dice_WT", "accuracy", "ct"])
def test_a_score_that_the_job_does_not_list_stays(rig, name):
    made = rig("he")
    made.site.outbound.allowed_names = ("ct", "labels organs", "dice_spleen")
    scores = {
        "candidates": {"local": {"test": {name: {"value": 0.5}}}},
        "deploy": None,
        "val_score": None,
        "seconds": None,
    }
    with pytest.raises(ReleaseRefused):
        made.exit(judged(scores), plaintext_messages.FINISH)
    assert made.site.receipts == []
    scores["candidates"]["local"]["test"] = {"dice_spleen": {"value": 0.5}}
    made.exit(judged(scores), plaintext_messages.FINISH)


@pytest.mark.parametrize("code", ["data", "memory", "failure"])
@pytest.mark.parametrize("task", secagg_messages.TASKS)
def test_of_a_refusal_the_code_alone_leaves(rig, task, code):
    made, message = rig("he"), plaintext_messages.refusal_message(code)
    message["reason"] = "/data/x.nii.gz"
    out = made.exit(message, task)
    assert plaintext_messages.refusal_code(out) == code
    assert "x.nii" not in str(out)
    assert made.exit(make_reply(ReturnCode.EXECUTION_EXCEPTION), task).get_return_code() != ReturnCode.OK
    assert made.site.receipts == []


def test_the_receipt_is_written_before_the_message_exists(rig, monkeypatch):
    made, seen = rig("he"), []
    build = secagg_messages.reply_message

    def built(reply):
        seen.append(len(made.site.receipts))
        return build(reply)

    monkeypatch.setattr(secagg_messages, "reply_message", built)
    made.exit(update())
    assert seen[-1] == 1


def test_a_receipt_that_cannot_be_written_stops_the_message(rig):
    made = rig("he")
    (made.site.folder / "releases.jsonl").mkdir()
    with pytest.raises(OSError, match="releases"):
        made.exit(update())


def test_no_component_no_exit(rig):
    made = rig("he")
    made.site.engine.components = {}
    with pytest.raises(ConfigRefused, match="outbound"):
        made.exit(update())


def test_no_call_no_exit(rig):
    made = rig("he")
    made.site.restart()
    with pytest.raises(ConfigRefused, match="no call to answer"):
        made.exit(update())
    assert made.held == []


def test_a_run_that_this_site_did_not_join(rig):
    made = rig("masked")
    made.site.secure.begin(Call(Moment("cd" * 16, 0, 0), 2, made.joins, made.site.secure.call.prepares), "", 0)
    with pytest.raises(RoundRefused):
        made.exit(update())
    assert made.site.receipts == []
