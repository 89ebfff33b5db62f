"""Which of a site's federation events NVFlare's sender still takes, seen with NVFlare's own sender."""

import pytest
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo
from nvflare.private.event import fire_event
from nvflare.widgets.fed_event import FedEventRunner

from wardround.flare.curves import PROPERTY, Curves, CurveSender
from wardround.flare.site_parts import stream


class Sender(FedEventRunner):
    """NVFlare's sender up to the wire."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def fire_and_forget_request(self, request, fl_ctx, targets=None, secure=False):
        self.sent.append(request)


@pytest.fixture
def rig(context):
    """rig(properties) -> (context, sender): a job's sender of curves, the site's Curves, NVFlare's sender, in NVFlare's order"""

    def make(properties, listed=True):
        fl_ctx, sender = context("train", job="a1b2c3"), Sender()
        fl_ctx.set_prop(FLContextKey.SCOPE_PROPERTIES, properties)
        handlers = [CurveSender(), *([Curves()] if listed else []), sender]
        fl_ctx.get_engine().fire_event = lambda event, ctx: fire_event(event, handlers, ctx)
        return fl_ctx, sender

    return make


def curve(tag="loss", value=1.5, kind=AnalyticsDataType.SCALAR, **more):
    return create_analytic_dxo(tag, value, kind, global_step=3, **more)


def test_without_this_component_numbers_leave_whatever_the_scope_says(rig):
    fl_ctx, sender = rig({PROPERTY: "withheld"}, listed=False)
    stream(FLComponent(), {"val_score": 0.25}, 3, fl_ctx)
    assert len(sender.sent) == 1


def test_shown_our_numbers_leave(rig):
    fl_ctx, sender = rig({PROPERTY: "shown"})
    stream(FLComponent(), {"loss": 1.5, "val_score": 0.25, "seconds": 1.0}, 3, fl_ctx)
    assert [one["DXO"]["data"]["track_key"] for one in sender.sent] == ["loss", "val_score", "seconds"]


@pytest.mark.parametrize(
    "properties", [{PROPERTY: "withheld"}, {PROPERTY: "Shown"}, {PROPERTY: True}, {}, None, "shown"]
)
def test_withheld_nothing_leaves(rig, properties):
    fl_ctx, sender = rig(properties)
    stream(FLComponent(), {"loss": 1.5, "val_score": 0.25, "seconds": 1.0}, 3, fl_ctx)
    FLComponent().fire_fed_event("anything", Shareable(), fl_ctx)
    assert sender.sent == []


@pytest.mark.parametrize(
    "made",
    [
        curve("patients"),
        curve("loss", "phantom-north-001", AnalyticsDataType.TEXT),
        curve("loss", 1.0, path="/data/x.nii.gz"),
        DXO(DataKind.WEIGHTS, data={"loss": 1.0}),
        DXO(DataKind.ANALYTIC, data={"track_key": "loss", "track_value": 1.0}),
    ],
    ids=["another name", "a text", "a path", "another kind", "no round"],
)
def test_shown_is_our_numbers_alone(rig, made):
    fl_ctx, sender = rig({PROPERTY: "shown"})
    send_analytic_dxo(FLComponent(), made, fl_ctx)
    assert sender.sent == []


def test_nothing_rides_along(rig):
    for spoil in (
        lambda event: event.update(more="phantom-north-001"),
        lambda event: event.set_header("note", "phantom-north-001"),
        lambda event: event["DXO"]["meta"].update(note="phantom-north-001"),
    ):
        fl_ctx, sender = rig({PROPERTY: "shown"})
        event = curve().to_shareable()
        spoil(event)
        FLComponent().fire_fed_event("fed." + ANALYTIC_EVENT_TYPE, event, fl_ctx)
        assert sender.sent == []


@pytest.mark.parametrize("event_type", ["fed.other", "fed.analytix_log_stats.phantom-north-001", ANALYTIC_EVENT_TYPE])
def test_only_under_its_own_name(rig, event_type):
    fl_ctx, sender = rig({PROPERTY: "shown"})
    FLComponent().fire_fed_event(event_type, curve().to_shareable(), fl_ctx)
    assert sender.sent == []


def test_what_comes_from_the_server_is_not_touched(rig):
    fl_ctx, _ = rig({PROPERTY: "withheld"})
    event = curve().to_shareable()
    event.set_header("_direction", "in")
    FLComponent().fire_fed_event("fed." + ANALYTIC_EVENT_TYPE, event, fl_ctx)
    assert event.get_header("_direction") == "in"


def test_a_local_event_is_not_touched(rig):
    fl_ctx, _ = rig({PROPERTY: "withheld"}, listed=True)
    fl_ctx.set_prop(FLContextKey.EVENT_DATA, event := curve().to_shareable(), private=True, sticky=False)
    Curves().handle_event("local", fl_ctx)
    assert event.get_header("_direction") is None


def test_the_sender_of_curves_takes_no_settings_and_sends_one_name(rig):
    with pytest.raises(TypeError):
        CurveSender("hospital-secret")
    fl_ctx, sender = rig({PROPERTY: "shown"}, listed=False)
    for event_type in ("before_train", "hospital-secret", ANALYTIC_EVENT_TYPE):
        fl_ctx.set_prop(FLContextKey.EVENT_DATA, Shareable())
        FLComponent().fire_event(event_type, fl_ctx)
    assert sender.sent == []
