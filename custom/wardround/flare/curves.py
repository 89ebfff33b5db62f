"""Which numbers a site lets NVFlare's analytics events tell the server.

These events pass no filter, so a privacy scope alone does not hold them. A hospital
lists the component `Curves` once in `local/privacy.json`, and each scope says in its
properties `"curves": "shown"` or `"curves": "withheld"`. The component sees every
federation event before NVFlare's own sender does: a site's components come after the
job's and before that sender. It marks what must stay, because the sender takes no event
with another direction than "out".
"""

from __future__ import annotations

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.dxo import DataKind
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import EventScope, FedEventHeader, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.widgets.convert_to_fed_event import FED_EVENT_PREFIX

from wardround.core.errors import Refusal
from wardround.core.validate import COUNT, NUMBER, OneOf
from wardround.flare import few_patients, plaintext_messages, strict_dxo

ID = "wardround_curves"
PROPERTY = "curves"
SHOWN = "shown"
_OUT, _WITHHELD = "out", "withheld"
_CURVE = {
    "track_key": OneOf(tuple(plaintext_messages.NUMBERS)),
    "track_value": NUMBER,
    "global_step": COUNT,
    "analytics_kwargs": {"global_step": COUNT},
}
_HEADERS = {ReservedHeaderKey.CONTENT_TYPE, FedEventHeader.TARGETS, FedEventHeader.DIRECTION}


class CurveSender(FLComponent):  # type: ignore[misc]
    """Turns the numbers that our executors stream (site_parts.stream) into the one
    federation event that carries curves.

    It takes no settings: where a job chooses the name of an event, the name itself
    could carry what a site knows.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Send a number on. Anything else streamed under this name stays here."""
        event = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        local = fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) != EventScope.FEDERATION
        ours = event_type == ANALYTIC_EVENT_TYPE and local and isinstance(event, Shareable)
        if ours and _is_curve(event, few_patients.known(fl_ctx)):
            self.fire_fed_event(FED_EVENT_PREFIX + ANALYTIC_EVENT_TYPE, event, fl_ctx)


class Curves(FLComponent):  # type: ignore[misc]
    """Withholds a site's federation events.

    In a scope with "curves": "shown", the numbers of plaintext_messages.NUMBERS pass,
    one by one, as our executors stream them: no number of few patients
    (few_patients.py), and nothing else. With "withheld", with another word, with no
    word or without a scope, nothing passes.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Mark an event that is on its way out."""
        event = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        if fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) != EventScope.FEDERATION or not isinstance(event, Shareable):
            return
        if event.get_header(FedEventHeader.DIRECTION, _OUT) != _OUT:
            return
        # Withheld first, and shown only at the end: whatever fails in between stays
        # here.
        event.set_header(FedEventHeader.DIRECTION, _WITHHELD)
        properties = fl_ctx.get_prop(FLContextKey.SCOPE_PROPERTIES)
        shown = isinstance(properties, dict) and properties.get(PROPERTY) == SHOWN
        if (
            shown
            and event_type == FED_EVENT_PREFIX + ANALYTIC_EVENT_TYPE
            and _is_curve(event, few_patients.known(fl_ctx))
        ):
            event.set_header(FedEventHeader.DIRECTION, _OUT)


def _is_curve(event: Shareable, patients: few_patients.Patients) -> bool:
    """Tell whether an event is exactly what `site_parts.stream` makes of one number
    that may leave, with nothing beside it.
    """
    try:
        data = strict_dxo.data_of(event, DataKind.ANALYTIC)
        strict_dxo.require_shape(data, _CURVE, "a curve")
    except Refusal:
        return False
    tag = data["track_key"]
    value = data["track_value"]
    step = data["global_step"]
    if few_patients.numbers({tag: value}, patients) != {tag: value}:
        return False
    # The event is built once more from its three values: what differs rides along.
    same = create_analytic_dxo(tag, value, AnalyticsDataType.SCALAR, global_step=step).to_shareable()
    headers = set(event[ReservedHeaderKey.HEADERS])
    return headers <= _HEADERS and _content(event) == _content(same)


def _content(event: Shareable) -> dict[str, object]:
    return {key: value for key, value in event.items() if key != ReservedHeaderKey.HEADERS}
