import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from outbounds import leaving, outbound

from wardround.compression.chosen import RandomSlices
from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.traits import Traits
from wardround.data.cases import MODALITIES
from wardround.flare import compressed_messages, plaintext_messages, stage_memory
from wardround.flare.outbound import ID, TREATED, Asked, Outbound, outbound_digest
from wardround.flare.outbound_filter import OutboundFilter
from wardround.flare.workspaces import run_folder, state_folder


class Halved:
    """A stage whose effect is easy to see."""

    name, traits, leaves = "halved", Traits(), "as halves"

    def __repr__(self):
        return self.name  # what is remembered is bound to all that a compression states

    def stage(self, blocks, site):
        return self

    def outbound(self, update, round_, memory):
        halved = {name: block / 2 for name, block in update.params.items()}
        return replace(update, params=halved), {"of": len(halved)}

    def inbound(self, aggregate, round_, memory):
        return aggregate

    def layout(self, round_):
        raise NotImplementedError("the reader's half; these tests look at the sender")

    def opened(self, payload, round_, memory):
        raise NotImplementedError("the reader's half; these tests look at the sender")

    def settle(self, memory, counted):
        """Nothing is kept."""


class Remembers(Halved):
    """Counts its messages and adds up what it was handed; notes what it found."""

    def __init__(self, seen):
        self._seen = seen

    def outbound(self, update, round_, memory):
        left = memory.get("left", np.zeros(1, np.float32))
        self._seen.append((round_, memory.get("count", 0), float(left.sum())))
        memory["count"] = memory.get("count", 0) + 1
        memory["left"] = left + sum(block.sum() for block in update.params.values())
        return update, {}

    def settle(self, memory, counted):
        self._seen.append("counted" if counted else "lost")


class Broken(Halved):
    def outbound(self, update, round_, memory):
        raise ReleaseRefused("an update", found="NaN", expected="numbers", fix="none")


def receipts(fl_ctx):
    path = run_folder(fl_ctx) / "releases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_in_plaintext_changes_nothing_and_says_so(update, context):
    given, fl_ctx = update(), context("train")
    out = plaintext_messages.read_update(leaving(plaintext_messages.update_message(given), fl_ctx))
    assert np.array_equal(out.delta["model:w"], given.delta["model:w"])
    assert (out.weight, out.numbers, out.facts) == (given.weight, given.numbers, given.facts)
    (receipt,) = receipts(fl_ctx)
    assert receipt["mechanism"] == "none"
    assert "the server reads" in receipt["guarantee"]


def test_what_leaves_is_what_the_mechanism_returned(update, context):
    fl_ctx = context("train")
    made = outbound(compression=Halved())
    out = compressed_messages.read_update(leaving(plaintext_messages.update_message(update()), fl_ctx, made), "halved")
    assert np.array_equal(out.delta["model:w"], np.full((2, 3), 0.5, np.float32))
    (receipt,) = receipts(fl_ctx)
    assert receipt["bytes"] == 24
    assert receipt["compression"] == {"method": "halved", "of": 1}
    assert receipt["sha256"] == digest(out.delta)
    assert receipt["task"] == "train"


def test_the_digest_of_a_receipt_can_be_checked_by_hand():
    block = np.array([1.0, 2.0], np.float32)
    assert digest({"model:w": block}) == hashlib.sha256(b"model:w(2,)" + block.tobytes()).hexdigest()


def test_the_receipt_is_written_before_the_message_exists(update, context, monkeypatch):
    fl_ctx, seen = context("train"), []
    real = plaintext_messages.update_message
    monkeypatch.setattr(
        plaintext_messages, "update_message", lambda made: (seen.append(receipts(fl_ctx)), real(made))[1]
    )
    message = real(update())
    leaving(message, fl_ctx)
    assert [len(lines) for lines in seen] == [1]


def test_no_receipt_no_release(update, context, workspace):
    fl_ctx = context("train")
    (run_folder(fl_ctx) / "releases.jsonl").mkdir()
    with pytest.raises(OSError, match="releases"):
        leaving(plaintext_messages.update_message(update()), fl_ctx)


def test_nothing_rides_along(update, scores, context):
    for task, made in (
        ("train", plaintext_messages.update_message(update())),
        ("finish", plaintext_messages.scores_message(scores)),
    ):
        made["patients"] = ["phantom-north-001"]
        made.set_header("note", "phantom-north-001")
        out = leaving(made, context(task))
        assert "patients" not in out
        assert out.get_header("note") is None
        assert "phantom" not in str({key: value for key, value in out.items() if key != "DXO"})


def test_scores_pass_with_a_receipt(scores, context):
    fl_ctx = context("finish")
    assert plaintext_messages.read_scores(leaving(plaintext_messages.scores_message(scores), fl_ctx)) == scores
    assert [line["task"] for line in receipts(fl_ctx)] == ["finish"]


@pytest.mark.parametrize("task", ["validate", "submit_model", "", None, "TRAIN"])
def test_an_unknown_task_is_refused(task, update, context):
    fl_ctx = context(task)
    with pytest.raises(ReleaseRefused, match="task"):
        leaving(plaintext_messages.update_message(update()), fl_ctx)
    assert receipts(fl_ctx) == []


def others():
    block = {"model:w": np.ones(2, np.float32)}
    yield "no DXO", Shareable({"weights": block})
    yield "empty", make_reply(ReturnCode.OK)
    for kind in (DataKind.WEIGHTS, DataKind.METRICS, DataKind.ANALYTIC, DataKind.COLLECTION, "mine"):
        yield kind, DXO(kind, data=block).to_shareable()
    yield "collection", DXO(DataKind.COLLECTION, data={"a": DXO(DataKind.WEIGHT_DIFF, data=block)}).to_shareable()
    yield "bare weights", DXO(DataKind.WEIGHT_DIFF, data=block).to_shareable()


@pytest.mark.parametrize(("kind", "made"), list(others()))
@pytest.mark.parametrize("task", ["train", "finish"])
def test_any_other_payload_is_refused(kind, made, task, context):
    fl_ctx = context(task)
    with pytest.raises(ReleaseRefused):
        leaving(made, fl_ctx)
    assert receipts(fl_ctx) == []


def test_an_update_is_no_score_and_a_score_no_update(update, scores, context):
    with pytest.raises(ReleaseRefused):
        leaving(plaintext_messages.update_message(update()), context("finish"))
    with pytest.raises(ReleaseRefused):
        leaving(plaintext_messages.scores_message(scores), context("train"))


def test_a_mechanism_that_refuses_stops_the_release(update, context):
    fl_ctx = context("train")
    with pytest.raises(ReleaseRefused):
        leaving(plaintext_messages.update_message(update()), fl_ctx, outbound(compression=Broken()))
    assert receipts(fl_ctx) == []


@pytest.mark.parametrize("task", ["train", "finish", "unknown"])
def test_an_error_reply_is_reduced_to_its_code(task, context):
    reply = plaintext_messages.refusal_message("data")
    reply["why"] = "/data/phantom-north-001_t1.nii.gz is truncated"
    reply.set_header("trace", "phantom-north-001")
    out = leaving(reply, context(task))
    assert "phantom" not in str(out)
    assert plaintext_messages.refusal_code(out) == "data"
    assert out.get_return_code() != ReturnCode.OK


def test_an_error_reply_cannot_smuggle_a_sentence(context):
    reply = plaintext_messages.refusal_message("phantom north has a tumour")
    reply["DXO"] = {"weights": np.ones(3)}
    out = leaving(reply, context("train"))
    assert plaintext_messages.refusal_code(out) == "error"
    assert "DXO" not in out


@pytest.mark.parametrize("words", [(), MODALITIES[:3]])
def test_a_sequence_that_the_job_does_not_list_keeps_the_update_at_the_site(words, update, context):
    fl_ctx = context("train")
    with pytest.raises(ReleaseRefused, match="modalities"):
        leaving(plaintext_messages.update_message(update()), fl_ctx, outbound(names=words))
    assert receipts(fl_ctx) == []


def test_classes_and_personal_blocks_leave_only_by_the_names_of_the_job(update, scores, context):
    promised = outbound(names=[*MODALITIES, "glioma", "head"])
    made = leaving(plaintext_messages.update_message(update(classes={"glioma": 30})), context("train"), promised)
    assert plaintext_messages.read_update(made).facts["classes"] == {"glioma": 30}
    personal = plaintext_messages.scores_message(scores | {"personal": {"head": 1}})
    assert plaintext_messages.read_scores(leaving(personal, context("finish"), promised))
    with pytest.raises(ReleaseRefused, match="classes"):
        leaving(plaintext_messages.update_message(update(classes={"J. Smith": 3})), context("train"), promised)
    with pytest.raises(ReleaseRefused, match="personal"):
        leaving(plaintext_messages.scores_message(scores | {"personal": {"J. Smith": 1}}), context("finish"), promised)


def test_the_receipt_says_how_many_blocks_left(update, context):
    fl_ctx = context("train")
    out = plaintext_messages.read_update(leaving(plaintext_messages.update_message(update()), fl_ctx))
    assert set(out.delta) == {"model:w"}
    (receipt,) = receipts(fl_ctx)
    assert receipt["blocks"] == 1


@pytest.mark.parametrize("found", [None, object(), OutboundFilter()])
@pytest.mark.parametrize("task", ["train", "finish"])
def test_without_the_component_nothing_leaves(found, task, update, scores, context):
    """No promise is not the promise of nothing."""
    fl_ctx = context(task, **({} if found is None else {ID: found}))
    message = (
        plaintext_messages.update_message(update()) if task == "train" else plaintext_messages.scores_message(scores)
    )
    with pytest.raises(ConfigRefused, match="component 'outbound'"):
        OutboundFilter().process(message, fl_ctx)
    assert receipts(fl_ctx) == []


def test_stages_run_only_for_an_order_that_the_executor_is_answering(update, context):
    made = Outbound("none", Halved(), "none", list(MODALITIES))
    with pytest.raises(ConfigRefused, match="no order to answer"):
        leaving(plaintext_messages.update_message(update()), context("train"), made)


def test_what_a_stage_remembers_is_there_in_the_next_round_and_after_a_restart(update, context):
    """A round that is asked twice begins from the same, and is not settled twice; the filter is new in every round."""
    fl_ctx, seen = context("train"), []
    asked = [Asked(0, "a", 0), Asked(1, "b", 0), Asked(1, "b", 0), Asked(2, "c", 2)]
    # The update of round 3 is the last one that counted when round 5 is asked: this site missed round 4.
    for one in [*asked, Asked(3, "d", 3), Asked(5, "f", 4)]:
        made = outbound(compression=Remembers(seen))
        made.begin(one)
        leaving(plaintext_messages.update_message(update()), fl_ctx, made)
    first = [(0, 0, 0.0), "lost", (1, 1, 6.0), (1, 1, 6.0), "counted", (2, 2, 12.0)]
    assert seen == [*first, "counted", (3, 3, 18.0), "counted", (5, 4, 24.0)]


def test_what_is_remembered_of_an_update_under_another_policy_of_the_site_stays(update, context):
    """What is owed leaves after a policy has done its work, so it must have gone through the same one."""
    fl_ctx, seen = context("train"), []
    for round_, policy in enumerate(["", "", "clip 1", "clip 1", "clip 2"]):
        made = outbound(compression=Remembers(seen))
        made.begin(Asked(round_, "a", round_))
        fl_ctx.set_prop(TREATED, policy, private=True, sticky=False)
        leaving(plaintext_messages.update_message(update()), fl_ctx, made)
    first = [(0, 0, 0.0), "counted", (1, 1, 6.0)]
    assert seen == [*first, (2, 0, 0.0), "counted", (3, 1, 6.0), (4, 0, 0.0)]


def test_what_is_remembered_under_another_promise_stays(context):
    fl_ctx, stage = context("train"), Remembers([])
    for round_, promised in enumerate([RandomSlices(2, 0), RandomSlices(3, 0)]):
        made = outbound(compression=promised)
        made.begin(Asked(round_, "a", round_))
        found = stage_memory.of_round(state_folder(fl_ctx), stage, made.asked, outbound_digest(made, fl_ctx))
        assert found.after == {}
        found.after["count"] = 1
        stage_memory.keep(state_folder(fl_ctx), found)


def test_a_new_run_remembers_nothing(update, context):
    fl_ctx, seen = context("train"), []
    for round_ in (0, 1, 0):
        made = outbound(compression=Remembers(seen))
        made.begin(Asked(round_, "a", round_))
        leaving(plaintext_messages.update_message(update()), fl_ctx, made)
    assert seen == [(0, 0, 0.0), "counted", (1, 1, 6.0), (0, 0, 0.0)]
