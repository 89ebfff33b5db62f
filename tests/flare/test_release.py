import hashlib
import json

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from wardround.arrays import digest
from wardround.data.cases import MODALITIES
from wardround.errors import ReleaseRefused
from wardround.flare import wire
from wardround.flare.places import run_folder
from wardround.flare.release import InTheClear, Release


class Halved:
    """A mechanism whose effect is easy to see."""

    def release(self, delta):
        return {name: block / 2 for name, block in delta.items()}, {"mechanism": "halved", "guarantee": "a test"}


class Broken:
    def release(self, delta):
        raise ReleaseRefused("an update", found="NaN", expected="numbers", fix="none")


def receipts(fl_ctx):
    path = run_folder(fl_ctx) / "releases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_in_the_clear_changes_nothing_and_says_so(update, context):
    given, fl_ctx = update(), context("train")
    out = wire.read_update(Release(InTheClear(), MODALITIES).process(wire.update_message(given), fl_ctx))
    assert np.array_equal(out.delta["model:w"], given.delta["model:w"])
    assert (out.weight, out.numbers, out.facts) == (given.weight, given.numbers, given.facts)
    (receipt,) = receipts(fl_ctx)
    assert receipt["mechanism"] == "none"
    assert "the server reads" in receipt["guarantee"]


def test_what_leaves_is_what_the_mechanism_returned(update, context):
    fl_ctx = context("train")
    out = wire.read_update(Release(Halved(), MODALITIES).process(wire.update_message(update()), fl_ctx))
    assert np.array_equal(out.delta["model:w"], np.full((2, 3), 0.5, np.float32))
    (receipt,) = receipts(fl_ctx)
    assert receipt["bytes"] == 24
    assert receipt["sha256"] == digest(out.delta)
    assert receipt["task"] == "train"


def test_the_digest_of_a_receipt_can_be_checked_by_hand():
    block = np.array([1.0, 2.0], np.float32)
    assert digest({"model:w": block}) == hashlib.sha256(b"model:w(2,)" + block.tobytes()).hexdigest()


def test_the_receipt_is_written_before_the_message_exists(update, context, monkeypatch):
    fl_ctx, seen = context("train"), []
    real = wire.update_message
    monkeypatch.setattr(wire, "update_message", lambda made: (seen.append(receipts(fl_ctx)), real(made))[1])
    message = real(update())
    Release(InTheClear(), MODALITIES).process(message, fl_ctx)
    assert [len(lines) for lines in seen] == [1]


def test_no_receipt_no_release(update, context, workspace):
    fl_ctx = context("train")
    (run_folder(fl_ctx) / "releases.jsonl").mkdir()
    with pytest.raises(OSError, match="releases"):
        Release(InTheClear(), MODALITIES).process(wire.update_message(update()), fl_ctx)


def test_nothing_rides_along(update, scores, context):
    for task, made in (("train", wire.update_message(update())), ("finish", wire.scores_message(scores))):
        made["patients"] = ["phantom-north-001"]
        made.set_header("note", "phantom-north-001")
        out = Release(InTheClear(), MODALITIES).process(made, context(task))
        assert "patients" not in out
        assert out.get_header("note") is None
        assert "phantom" not in str({key: value for key, value in out.items() if key != "DXO"})


def test_scores_pass_with_a_receipt(scores, context):
    fl_ctx = context("finish")
    assert wire.read_scores(Release(InTheClear(), MODALITIES).process(wire.scores_message(scores), fl_ctx)) == scores
    assert [line["task"] for line in receipts(fl_ctx)] == ["finish"]


@pytest.mark.parametrize("task", ["validate", "submit_model", "", None, "TRAIN"])
def test_an_unknown_task_is_refused(task, update, context):
    fl_ctx = context(task)
    with pytest.raises(ReleaseRefused, match="task"):
        Release(InTheClear(), MODALITIES).process(wire.update_message(update()), fl_ctx)
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
        Release(InTheClear(), MODALITIES).process(made, fl_ctx)
    assert receipts(fl_ctx) == []


def test_an_update_is_no_score_and_a_score_no_update(update, scores, context):
    with pytest.raises(ReleaseRefused):
        Release(InTheClear(), MODALITIES).process(wire.update_message(update()), context("finish"))
    with pytest.raises(ReleaseRefused):
        Release(InTheClear(), MODALITIES).process(wire.scores_message(scores), context("train"))


def test_a_mechanism_that_refuses_stops_the_release(update, context):
    fl_ctx = context("train")
    with pytest.raises(ReleaseRefused):
        Release(Broken(), MODALITIES).process(wire.update_message(update()), fl_ctx)
    assert receipts(fl_ctx) == []


@pytest.mark.parametrize("task", ["train", "finish", "unknown"])
def test_an_error_reply_is_reduced_to_its_code(task, context):
    reply = wire.refusal_message("data")
    reply["why"] = "/data/phantom-north-001_t1.nii.gz is truncated"
    reply.set_header("trace", "phantom-north-001")
    out = Release(InTheClear(), MODALITIES).process(reply, context(task))
    assert "phantom" not in str(out)
    assert wire.refusal_code(out) == "data"
    assert out.get_return_code() != ReturnCode.OK


def test_an_error_reply_cannot_smuggle_a_sentence(context):
    reply = wire.refusal_message("phantom north has a tumour")
    reply["DXO"] = {"weights": np.ones(3)}
    out = Release(InTheClear(), MODALITIES).process(reply, context("train"))
    assert wire.refusal_code(out) == "error"
    assert "DXO" not in out


@pytest.mark.parametrize("words", [(), None, MODALITIES[:3]])
def test_a_sequence_that_the_job_does_not_list_keeps_the_update_at_the_site(words, update, context):
    fl_ctx = context("train")
    with pytest.raises(ReleaseRefused, match="modalities"):
        Release(InTheClear(), words).process(wire.update_message(update()), fl_ctx)
    assert receipts(fl_ctx) == []


def test_classes_and_personal_blocks_leave_only_by_the_names_of_the_job(update, scores, context):
    exit_ = Release(InTheClear(), [*MODALITIES, "glioma", "head"])
    made = exit_.process(wire.update_message(update(classes={"glioma": 30})), context("train"))
    assert wire.read_update(made).facts["classes"] == {"glioma": 30}
    assert wire.read_scores(exit_.process(wire.scores_message(scores | {"personal": {"head": 1}}), context("finish")))
    with pytest.raises(ReleaseRefused, match="classes"):
        exit_.process(wire.update_message(update(classes={"J. Smith": 3})), context("train"))
    with pytest.raises(ReleaseRefused, match="personal"):
        exit_.process(wire.scores_message(scores | {"personal": {"J. Smith": 1}}), context("finish"))


def test_the_receipt_says_how_many_blocks_left(update, context):
    fl_ctx = context("train")
    out = wire.read_update(Release(InTheClear(), MODALITIES).process(wire.update_message(update()), fl_ctx))
    assert set(out.delta) == {"model:w"}
    (receipt,) = receipts(fl_ctx)
    assert receipt["blocks"] == 1
