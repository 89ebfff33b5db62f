"""The executor in a simulator's workspace with phantoms: what it answers, and above all what it does not."""

import numpy as np
import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from outbounds import leaving, outbound

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import in_variable
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.flare import orders, plaintext_messages, workspaces
from wardround.flare.executor import SiteExecutor
from wardround.flare.outbound import ID
from wardround.flare.site_parts import REASONS
from wardround.models.nets import UNet3d
from wardround.training.client import Hospital
from wardround.training.evaluation import ModelSelection
from wardround.training.global_model import initial_arrays
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling

SPEC = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)
MASKS = KLMask("kl", (), 1, 1, 0.5, 1.0, 0.5, 0.3, 1)
SAYS = "/data/phantom-north-001_t1.nii.gz"


def trainer(**changed):
    promise = {
        "algorithm": FedAvg(),
        "sharing": EVERYTHING,
        "model": SPEC,
        "schedule": Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine"),
        "sampling": Sampling((8, 8, 8), 2, 0.5, False),
        "model_selection": ModelSelection([0, 1], 0.01),
        "phantoms": Phantoms([16, 16, 16], 5),
        "seed": 0,
    }
    return SiteExecutor(**promise | changed)


def order(round_=0):
    return orders.order_message(orders.Order(in_variable("model", initial_arrays(SPEC, 0)), round_, 2))


def execute(task, message, fl_ctx, **changed):
    fl_ctx.get_engine().components.setdefault(ID, outbound())
    return trainer(**changed).execute(task, message, fl_ctx, Signal())


def test_a_round_and_the_judgement_pass_the_exit(context):
    """What the executor builds is exactly what the exit knows: nothing of it is refused there."""
    fl_ctx = context("train")
    out = leaving(execute("train", order(), fl_ctx), fl_ctx)
    update = plaintext_messages.read_update(out)
    assert update.weight == update.facts["cases"]["train"]
    assert update.facts["label"] == "north"
    assert any(block.any() for block in update.delta.values())
    assert {name: block.shape for name, block in update.delta.items()} == {
        name: block.shape for name, block in in_variable("model", initial_arrays(SPEC, 0)).items()
    }
    execute("train", order(1), fl_ctx)
    done = context("finish")
    scores = plaintext_messages.read_scores(leaving(execute("finish", order(2), done), done))
    assert set(scores["candidates"]) == {"local", "fedavg", "fedavg_finetuned"}


def test_curves_hold_only_the_numbers_of_the_update(context):
    fl_ctx = context("train")
    engine, seen = fl_ctx.get_engine(), []
    engine.fire_event = lambda event, ctx: seen.append(ctx.get_prop("__event_data__"))
    update = plaintext_messages.read_update(execute("train", order(), fl_ctx))
    curves = [event["DXO"]["data"] for event in seen if isinstance(event, Shareable)]
    assert {curve["track_key"]: curve["track_value"] for curve in curves} == update.numbers
    known = {"track_key", "track_value", "global_step", "analytics_kwargs"}
    assert all(set(curve) == known and curve["analytics_kwargs"] == {"global_step": 1} for curve in curves)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (DataRefused(f"case 1, file {SAYS}", found="garbage", expected="NIfTI", fix="copy it"), "data"),
        (MemoryError(SAYS), "memory"),
        (ValueError(SAYS), "failure"),
        (ZeroDivisionError(), "failure"),
    ],
)
@pytest.mark.parametrize("task", ["train", "finish"])
def test_a_failure_becomes_one_word(failure, code, task, context, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise failure

    monkeypatch.setattr(Hospital, "open", fails)
    reply = execute(task, order(), context(task))
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert plaintext_messages.refusal_code(reply) == code
    assert SAYS not in str(reply)
    assert "REFUSED" in caplog.text or "FAILED" in caplog.text


def test_the_reason_is_in_the_sites_own_log(context, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise DataRefused(f"case 1, file {SAYS}", found="garbage", expected="NIfTI", fix="copy it")

    monkeypatch.setattr(Hospital, "open", fails)
    execute("train", order(), context("train"))
    assert SAYS in caplog.text


@pytest.mark.parametrize("task", ["validate", "submit_model", ""])
def test_an_unknown_task_is_refused(task, context):
    assert plaintext_messages.refusal_code(execute(task, order(), context(task))) == "config"


@pytest.mark.parametrize("message", [Shareable(), plaintext_messages.refusal_message("data")])
def test_what_is_no_order_is_refused(message, context):
    assert plaintext_messages.refusal_code(execute("train", message, context("train"))) == "release"


def test_weights_of_another_network_are_refused(context):
    other = {name: np.zeros((3, 3), np.float32) for name in in_variable("model", initial_arrays(SPEC, 0))}
    message = orders.order_message(orders.Order(other, 0, 2))
    assert plaintext_messages.refusal_code(execute("train", message, context("train"))) == "round"


def test_a_provisioned_site_without_data_refuses_and_keeps_the_reason_out_of_the_log(context, caplog):
    """NVFlare streams a site's error log to the server by default: the reason lies in a file of the site."""
    fl_ctx = context("train", job="a1b2c3")
    reply = execute("train", order(), fl_ctx)
    assert plaintext_messages.refusal_code(reply) == "config"
    assert "wardround.json" not in caplog.text
    assert REASONS in caplog.text
    assert "wardround.json" in (workspaces.private_folder(fl_ctx) / REASONS).read_text()


def test_the_simulator_shows_the_reason(context, caplog):
    execute("no-task", order(), context("no-task"))
    assert "expected: train, finish" in caplog.text


@pytest.mark.parametrize(
    "name", ["algorithm", "sharing", "model", "schedule", "sampling", "model_selection", "phantoms", "seed"]
)
def test_a_promise_that_is_missing_is_refused(name):
    """NVFlare turns an undefined variable of a config into None."""
    with pytest.raises(ConfigRefused, match=r"(?s)the job's site settings.*" + name):
        trainer(**{name: None})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"algorithm": Scaffold(), "sharing": MASKS}, "has taken home"),
        ({"algorithm": Alternating(0.5)}, "keeps nothing at home"),
        ({"algorithm": PerFedAvg(0.01, "HF", 0.001)}, "a multiple of 4"),
    ],
)
def test_what_is_not_sound_is_refused_when_the_job_is_loaded(changed, words):
    with pytest.raises(ConfigRefused, match=words):
        trainer(**changed)


@pytest.mark.parametrize("task", ["train", "finish"])
def test_without_a_promise_about_what_leaves_nothing_is_done(task, context, monkeypatch):
    """Not even the data are opened."""
    monkeypatch.setattr(Hospital, "open", None)
    reply = trainer().execute(task, order(), context(task), Signal())
    assert plaintext_messages.refusal_code(reply) == "config"
