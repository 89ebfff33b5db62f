import pytest
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable

from wardround.core.errors import ConfigRefused, DataRefused, ModelRefused, ReleaseRefused, RoundRefused
from wardround.flare import plaintext_messages, site_parts
from wardround.flare.site_parts import guarded, require_given, stream
from wardround.flare.workspaces import SIMULATOR_JOB, private_folder

SAYS = "/data/phantom-north-001_t1.nii.gz"


def fails(failure):
    def work():
        raise failure

    return work


def refusal(kind):
    return kind(f"file {SAYS}", found="garbage", expected="NIfTI", fix="copy it again")


def test_work_that_succeeds_is_returned(context):
    done = Shareable()
    assert guarded(FLComponent(), context(), lambda: done) is done


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (refusal(DataRefused), "data"),
        (refusal(ConfigRefused), "config"),
        (refusal(ModelRefused), "model"),
        (refusal(ReleaseRefused), "release"),
        (refusal(RoundRefused), "round"),
        (MemoryError(SAYS), "memory"),
        (ValueError(SAYS), "failure"),
        (KeyError(SAYS), "failure"),
    ],
)
def test_of_a_failure_the_code_alone_leaves(context, failure, code):
    reply = guarded(FLComponent(), context(), fails(failure))
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert plaintext_messages.refusal_code(reply) == code
    assert SAYS not in str(reply)


@pytest.mark.parametrize("failure", [refusal(DataRefused), ValueError(SAYS)])
@pytest.mark.parametrize(("job", "logged"), [(SIMULATOR_JOB, True), ("a1b2c3", False)])
def test_the_reason_stays_in_the_run_folder(context, caplog, failure, job, logged):
    """NVFlare streams a site's error log to the server, so outside the simulator the log says only where to look."""
    fl_ctx = context(job=job)
    guarded(FLComponent(), fl_ctx, fails(failure))
    assert SAYS in (private_folder(fl_ctx) / site_parts.REASONS).read_text()
    assert (SAYS in caplog.text) == logged
    assert logged or site_parts.REASONS in caplog.text


def test_every_reason_is_kept(context):
    fl_ctx = context()
    for kind in (DataRefused, RoundRefused):
        guarded(FLComponent(), fl_ctx, fails(refusal(kind)))
    text = (private_folder(fl_ctx) / site_parts.REASONS).read_text()
    assert [code for code in ("(data)", "(round)") if code in text] == ["(data)", "(round)"]


def test_an_interrupt_is_no_failure(context):
    with pytest.raises(KeyboardInterrupt):
        guarded(FLComponent(), context(), fails(KeyboardInterrupt()))


def test_missing_settings_are_named():
    require_given(seed=0, server_optimizer="", variables=[])
    with pytest.raises(ConfigRefused, match="no seed, variables"):
        require_given(seed=None, server_optimizer=1, variables=None)


def test_numbers_are_streamed_one_by_one(context):
    fl_ctx, seen = context(), []
    fl_ctx.get_engine().fire_event = lambda event, ctx: seen.append(ctx.get_prop("__event_data__"))
    stream(FLComponent(), {"loss": 1.5, "val_score": 0.25}, 3, fl_ctx)
    curves = [event["DXO"]["data"] for event in seen if isinstance(event, Shareable)]
    assert [(curve["track_key"], curve["track_value"], curve["global_step"]) for curve in curves] == [
        ("loss", 1.5, 4),
        ("val_score", 0.25, 4),
    ]
