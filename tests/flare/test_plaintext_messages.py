import copy
import json

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from wardround.core.errors import ReleaseRefused
from wardround.flare import orders, plaintext_messages

BLOCKS = {"model:a": np.arange(6, dtype=np.float32).reshape(2, 3), "control:a": np.zeros((2, 3), np.float32)}


def message(kind, data, meta):
    return DXO(kind, data=data, meta=meta).to_shareable()


def meta_of(update):
    return {"weight": update.weight, "numbers": dict(update.numbers), "facts": copy.deepcopy(dict(update.facts))}


def test_an_order_arrives_as_it_was_sent():
    read = orders.read_order(orders.order_message(orders.Order(BLOCKS, round=2, num_rounds=5)))
    assert (read.round, read.num_rounds) == (2, 5)
    assert read.weights.keys() == BLOCKS.keys()
    assert all(np.array_equal(read.weights[name], BLOCKS[name]) for name in BLOCKS)


def test_an_update_arrives_as_it_was_sent(update):
    given = update(BLOCKS)
    read = plaintext_messages.read_update(plaintext_messages.update_message(given))
    assert (read.weight, read.numbers, read.facts) == (given.weight, given.numbers, given.facts)
    assert all(np.array_equal(read.delta[name], BLOCKS[name]) for name in BLOCKS)


def test_scores_arrive_as_they_were_sent(scores):
    assert plaintext_messages.read_scores(plaintext_messages.scores_message(scores)) == scores


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"round": 1},
        {"round": 1, "num_rounds": 2, "more": 3},
        {"round": -1, "num_rounds": 2},
        {"round": "1", "num_rounds": 2},
    ],
)
def test_an_order_has_exactly_two_counts(meta):
    with pytest.raises(ReleaseRefused):
        orders.read_order(message(DataKind.WEIGHTS, BLOCKS, meta))


def test_an_order_sends_no_site_back_to_a_state_that_lies_ahead():
    """From the state after this very round a site's own memory would count its work twice."""
    assert orders.read_order(orders.order_message(orders.Order(BLOCKS, 2, 5, {"site-1": 2}))).since("site-1") == 2
    with pytest.raises(ReleaseRefused, match="a later round"):
        orders.read_order(orders.order_message(orders.Order(BLOCKS, 2, 5, {"site-1": 3})))


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.METRICS, DataKind.COLLECTION, DataKind.ANALYTIC, "mine"])
def test_an_update_is_a_weight_diff(kind, update):
    with pytest.raises(ReleaseRefused, match="data kind"):
        plaintext_messages.read_update(message(kind, BLOCKS, meta_of(update())))


@pytest.mark.parametrize("payload", [Shareable(), Shareable({"x": 1}), make_reply(ReturnCode.OK)])
def test_a_message_without_a_dxo_is_refused(payload):
    for read in (orders.read_order, plaintext_messages.read_update, plaintext_messages.read_scores):
        with pytest.raises(ReleaseRefused, match="no readable data"):
            read(payload)


def test_an_error_reply_is_no_update(update):
    reply = plaintext_messages.update_message(update())
    reply.set_return_code(ReturnCode.TASK_ABORTED)
    with pytest.raises(ReleaseRefused, match="error reply"):
        plaintext_messages.read_update(reply)


@pytest.mark.parametrize("part", ["weight", "numbers", "facts"])
def test_every_part_of_an_update_must_be_there(part, update):
    meta = meta_of(update())
    del meta[part]
    with pytest.raises(ReleaseRefused, match=part):
        plaintext_messages.read_update(message(DataKind.WEIGHT_DIFF, BLOCKS, meta))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("extra",), 1.0),
        (("numbers", "accuracy"), 0.5),
        (("facts", "patients"), "a list"),
        (("facts", "cases", "north-001"), 1),
        (("facts", "modalities", "a" * 65), 1),
        (("facts", "label_kind"), "brats2"),
        (("facts", "phantoms"), "yes"),
        (("facts", "cases"), [1, 2, 3]),
        (("facts", "cases", "train"), -1),
        (("facts", "label"), "x" * 65),
        (("facts", "label"), "two\nlines"),
        (("facts", "label"), b"bytes"),
        (("facts", "device"), {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}),
        (("numbers",), [0.1]),
        (("numbers", "loss"), float("nan")),
        (("numbers", "loss"), float("inf")),
        (("numbers", "seconds"), "2 s"),
        (("numbers", "loss"), "0.1"),
        (("numbers", "loss"), 10**400),
        (("numbers", "loss"), np.ones(1000, np.float32)),
        (("numbers", "loss"), 1e308),
        (("numbers", "loss"), -1e-9),
        (("numbers", "val_score"), 1.0000001),
        (("numbers", "val_score"), -1e308),
        (("numbers", "seconds"), 1e8),
        (("numbers", "seconds"), -1.0),
        (("facts", "cases", "train"), 10**7),
        (("facts", "modalities", "t1"), 2**52),
        (("weight",), 1e308),
        (("weight",), 1_000_001),
        (("weight",), 2.5),
        (("weight",), 0.0),
        (("weight",), -3.0),
        (("weight",), float("nan")),
        (("weight",), "3"),
        (("weight",), True),
    ],
    ids=str,
)
def test_what_an_update_must_not_carry(path, value, update):
    meta = meta_of(update())
    assert plaintext_messages.read_update(message(DataKind.WEIGHT_DIFF, BLOCKS, meta)).weight == 3.0
    place = meta
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_update(message(DataKind.WEIGHT_DIFF, BLOCKS, meta))


@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"model:a": np.zeros(3, np.float64)},
        {"model:a": np.zeros(3, np.int64)},
        {"model:a": np.array([object()])},
        {"model:a": [0.0, 1.0]},
        {"model:a": np.float32(1)},
        {"a": np.zeros(3, np.float32)},
        {3: np.zeros(3, np.float32)},
        {"model:" + "a" * 300: np.zeros(3, np.float32)},
        {"model:a\nb": np.zeros(3, np.float32)},
        {"model:a": np.array([1, np.nan], np.float32)},
        {"model:a": np.array([1, -np.inf], np.float32)},
    ],
    ids=lambda blocks: f"{list(blocks)[:1]}"[:20] + str(type(next(iter(blocks.values()), None)).__name__),
)
def test_what_a_block_of_weights_must_not_be(blocks, update):
    meta = meta_of(update())
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_update(message(DataKind.WEIGHT_DIFF, blocks, meta))
    with pytest.raises(ReleaseRefused):
        orders.read_order(message(DataKind.WEIGHTS, blocks, {"round": 0, "num_rounds": 1}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows",), [{"dice": 0.5}]),
        (("candidates", "secret"), {"val": 1.0}),
        (("candidates", "local", "patients"), "phantom-north-001"),
        (("candidates", "local", "test", "dice_of_patient_3"), {"value": 0.5}),
        (("candidates", "local", "val"), float("nan")),
        (("candidates", "local", "k"), 1.5),
        (("candidates", "local", "val"), 1e308),
        (("candidates", "local", "val"), -0.1),
        (("candidates", "local", "k"), 10**10),
        (("candidates", "local", "test", "dice_mean", "value"), 1.01),
        (("candidates", "local", "test", "dice_mean", "low"), -1e300),
        (("candidates", "local", "test", "dice_mean", "cases"), 10**12),
        (("candidates", "local", "test", "hd95_mm_ET"), {"value": 1e5}),
        (("candidates", "local", "test", "log_loss"), {"value": 1e4}),
        (("candidates", "fedavg", "gain", "value"), 1.5),
        (("val_score",), 1e308),
        (("seconds",), 1e300),
        (("deploy",), "the best"),
        (("val_score",), "high"),
    ],
    ids=str,
)
def test_what_scores_must_not_carry(path, value, scores):
    place = scores
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_scores(plaintext_messages.scores_message(scores))


@pytest.mark.parametrize("value", [1.1e6, -1e30, 3e38])
def test_a_change_of_a_weight_that_no_training_makes_is_refused(value, update):
    """One such value would be in the mean, and so in the model that all hospitals are handed."""
    blocks = {"model:a": np.array([0.5, value], np.float32)}
    with pytest.raises(ReleaseRefused, match="no training makes"):
        plaintext_messages.read_update(message(DataKind.WEIGHT_DIFF, blocks, meta_of(update())))


def test_scores_have_no_meta(scores):
    with pytest.raises(ReleaseRefused, match="meta"):
        plaintext_messages.read_scores(message(DataKind.METRICS, scores, {"initial_metrics": 1}))


def test_a_refusal_never_repeats_the_data(update):
    diagnosis = "phantom-north-001 has a tumour of 31 mm"
    meta = meta_of(update())
    meta["numbers"]["loss"] = diagnosis
    with pytest.raises(ReleaseRefused) as caught:
        plaintext_messages.read_update(message(DataKind.WEIGHT_DIFF, BLOCKS, meta))
    assert diagnosis not in str(caught.value)


def test_a_refusal_carries_its_code_only():
    reply = plaintext_messages.refusal_message("data")
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert {key: value for key, value in reply.items() if not key.startswith("__")} == {
        plaintext_messages.REFUSAL: "data"
    }
    assert plaintext_messages.refusal_code(reply) == "data"


@pytest.mark.parametrize(
    "code", ["refused", "data", "config", "model", "release", "round", "memory", "failure", "error"]
)
def test_known_codes_pass(code):
    assert plaintext_messages.refusal_code(plaintext_messages.refusal_message(code)) == code


@pytest.mark.parametrize("code", ["/data/patients/x.nii.gz", "", "DATA", 3, None, ["data"], "a" * 10**6])
def test_any_other_word_is_an_error(code):
    assert plaintext_messages.refusal_code(plaintext_messages.refusal_message(code)) == "error"


def test_the_return_code_of_nvflare_serves_where_no_refusal_is():
    assert (
        plaintext_messages.refusal_code(make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR))
        == ReturnCode.TASK_RESULT_FILTER_ERROR
    )
    odd = Shareable()
    odd.set_return_code("patient 31")
    assert plaintext_messages.refusal_code(odd) == "error"


def test_messages_are_plain(update, scores):
    """Everything but the arrays survives JSON: nothing hides in a type."""
    for made in (plaintext_messages.update_message(update()), plaintext_messages.scores_message(scores)):
        dxo = from_shareable(made)
        values = dxo.meta if dxo.data_kind == DataKind.WEIGHT_DIFF else dxo.data
        assert json.loads(json.dumps(values)) == values


def test_a_loss_may_be_left_untold(update):
    """Under patient-level differential privacy: it was computed on patients without noise."""
    made = update()
    told = plaintext_messages.read_update(
        plaintext_messages.update_message(
            plaintext_messages.Update(made.delta, 1.0, {**made.numbers, "loss": None}, made.facts)
        )
    )
    assert told.numbers["loss"] is None


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("device", "cuda:0 of phantom-north-001"),
        ("device", "cuda:north"),
        ("version", "phantom"),
        ("version", "0.1.0 north"),
        ("fingerprint", "phantom-north-01"),
        ("fingerprint", "5acd15f8a253db65f"),
    ],
)
def test_a_fact_with_a_form_is_no_free_word(fact, value, update):
    with pytest.raises(ReleaseRefused, match=fact) as caught:
        plaintext_messages.read_update(plaintext_messages.update_message(update(**{fact: value})))
    assert value not in str(caught.value)


@pytest.mark.parametrize("key", plaintext_messages.NAMED)
def test_only_names_that_a_job_lists_may_leave(key):
    told = {key: {"t1": 1, "phantom-north-001": 2}}
    plaintext_messages.require_named(told, ["t1", "phantom-north-001", "flair"])
    plaintext_messages.require_named({key: None}, [])
    with pytest.raises(ReleaseRefused, match="1 names") as caught:
        plaintext_messages.require_named(told, ["t1"])
    assert "phantom" not in str(caught.value)
