"""How the server of a secure sum opens its run, with the keys of its kit.

And which of sealed.py's messages its Asks are on the wire.
"""

from __future__ import annotations

from typing import Any, final

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.aggregation.secagg_run import SecaggRun
from wardround.aggregation.secagg_state import SecaggState
from wardround.errors import ConfigRefused
from wardround.flare import places, sealed
from wardround.flare.record import RunRecord
from wardround.flare.secagg_session import startup_folder
from wardround.models.fingerprint import fingerprint
from wardround.models.roles import update_layout
from wardround.privacy import simulated_kits, sum_key
from wardround.privacy.calls import Call, Reply
from wardround.privacy.collector import Collector
from wardround.privacy.fixed_point import fields_of
from wardround.privacy.identity import Authority
from wardround.privacy.protection import Protection


@final
class SecaggServer:
    """The server adds what it cannot read, and never has a model.

    protection: the job's promise, the same as at the sites
    model: the network; how long an update is follows from it, and nothing else does
    banks: every bank that travels
    home_roles: blocks of these roles stay at the sites, so that no update holds them
    allowed_names: the names that a reply may hold, as the sites' component `outbound` lists them
    A state folder with an unfinished run is resumed.
    """

    def __init__(
        self,
        protection: Protection,
        model: Any,
        banks: list[str],
        home_roles: list[str],
        allowed_names: list[str],
    ) -> None:
        # NVFlare turns an undefined variable of a config into None.
        if not (protection and model and banks) or home_roles is None or allowed_names is None:
            raise ConfigRefused(
                "the job's server settings",
                found=f"protection {protection}, banks {banks}, home_roles {home_roles}",
                expected="a protection, a model, its banks, home_roles and allowed_names ([] for none)",
                fix="print the job again with `wardround jobs write`",
            )
        self.protection = protection
        self.model = model
        self.banks = banks
        self.home_roles = home_roles
        self.allowed_names = list(allowed_names)

    def open(self, fl_ctx: FLContext, rounds: int, about: dict[str, Any]) -> SecaggRun:
        """Return a new run, or the one that the state folder holds.

        another job's state, a secret key in the server's folders, a missing or foreign key file:
        a Refusal
        """
        startup = startup_folder(fl_ctx)
        # A report is read with the same list, and a resumed run must have it too.
        about = {**about, "names": self.allowed_names}
        sum_key.require_no_key([startup, startup.parent / "local"])
        if places.in_simulator(fl_ctx):
            simulated_kits.server_kit(places.simulated_kits_folder(fl_ctx), startup)
        key_id = sum_key.read_server(startup) if self.protection.encryption else ""
        module = self.model.build(0)
        layout = update_layout(module, self.banks, self.home_roles)
        fields = fields_of(layout, self.protection.bits, weighted=self.protection.weighted)
        collector = Collector(self.protection, Authority.load(startup), fields)
        state = SecaggState.open(places.state_folder(fl_ctx), about)
        facts = {
            "name": type(self.model).__name__,
            "parameters": sum(block.numel() for block in module.parameters()),
            "fingerprint": fingerprint(module),
        }
        record = RunRecord.begin(about, facts, places.in_simulator(fl_ctx), state.history)
        return SecaggRun(
            self.protection,
            collector,
            key_id,
            state,
            record,
            rounds,
            facts["fingerprint"],
        )

    def encode(self, message: Call) -> Shareable:
        """Return the task data of a call."""
        return sealed.call_message(message)

    def decode(self, task: str, reply: Shareable) -> Reply:
        """Return what a site answers, strictly read."""
        return sealed.read_reply(reply, task, self.allowed_names)
