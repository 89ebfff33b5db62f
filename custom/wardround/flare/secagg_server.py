"""How the server of a secure sum opens its run, with the keys of its kit, and how its
messages are written on the wire.
"""

from __future__ import annotations

from typing import Any, Literal, final

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.aggregation.secagg_run import SecAggRun
from wardround.aggregation.secagg_state import SecAggState
from wardround.compression.chosen import Compression
from wardround.compression.linear import layouts
from wardround.core.errors import ConfigRefused
from wardround.core.traits import leaving, require_fit
from wardround.flare import secagg_calls, secagg_messages, workspaces
from wardround.flare.run_report import RunReport
from wardround.flare.secagg_session import startup_folder
from wardround.messages.identity import Authority
from wardround.messages.secagg import Call, Reply
from wardround.models.fingerprint import fingerprint
from wardround.models.roles import update_layout
from wardround.secagg import encryption_key, simulated_kits
from wardround.secagg.fixed_point import fields_of
from wardround.secagg.server import SecAggServer
from wardround.secagg.spec import SecAggSpec


@final
class SecAggJobServer:
    """The server of a job in which it adds what it cannot read, and never has a model.

    A state folder with an unfinished run is resumed.

    secagg: the job's settings of secure aggregation, the same as at the sites.
    compression: how updates get smaller before they enter the sum, or "none". Only the
        length of an update follows from it.
    model: the network. Only the length of an update follows from it.
    variables: every variable that travels.
    home_roles: blocks of these roles stay at the sites, so that no update holds them.
    allowed_names: the names that a reply may hold, as the sites' component `outbound`
        lists them.
    """

    def __init__(
        self,
        secagg: SecAggSpec,
        model: Any,
        variables: list[str],
        home_roles: list[str],
        allowed_names: list[str],
        compression: Compression | Literal["none"],
    ) -> None:
        # NVFlare turns an undefined variable of a config into None.
        if not (secagg and model and variables and compression) or home_roles is None or allowed_names is None:
            raise ConfigRefused(
                "the job's server settings",
                found=f"secagg {secagg}, variables {variables}, home_roles {home_roles}",
                expected="a `secagg`, a model, its variables, home_roles and allowed_names ([] for none), and a "
                "compression or none",
                fix="print the job again with `wardround jobs write`",
            )
        self.compression = compression
        require_fit(leaving(None, self.compresses, secagg))
        self.secagg = secagg
        self.model = model
        self.variables = variables
        self.home_roles = home_roles
        self.allowed_names = list(allowed_names)

    @property
    def compresses(self) -> Compression | None:
        """Return the compression, or None where whole updates are added."""
        return None if isinstance(self.compression, str) else self.compression

    def open(self, fl_ctx: FLContext, num_rounds: int, about: dict[str, Any]) -> SecAggRun:
        """Return a new run, or the run that the state folder holds.

        Another job's state, a secret key in the server's folders, and a key file that
        is missing or foreign are a Refusal.
        """
        startup = startup_folder(fl_ctx)
        # A report is read with the same list, and a resumed run must have the same
        # list.
        about = {**about, "names": self.allowed_names}
        # A server that held the sum key could read what the sites encrypt.
        encryption_key.require_no_key([startup, startup.parent / "local"])
        if workspaces.in_simulator(fl_ctx):
            simulated_kits.server_kit(workspaces.simulated_kits_folder(fl_ctx), startup)
        key_id = encryption_key.read_server(startup) if self.secagg.encryption else ""
        module = self.model.build(0)
        layout = update_layout(module, self.variables, self.home_roles)
        found = [layout] if self.compresses is None else layouts(self.compresses, layout)
        fields = [fields_of(one, self.secagg.bits, weighted=self.secagg.weighted) for one in found]
        secagg_server = SecAggServer(self.secagg, Authority.load(startup), *fields)
        state = SecAggState.open(workspaces.state_folder(fl_ctx), about)
        facts = {
            "name": type(self.model).__name__,
            "parameters": sum(block.numel() for block in module.parameters()),
            "fingerprint": fingerprint(module),
        }
        record = RunReport.begin(about, facts, workspaces.in_simulator(fl_ctx), state.history)
        return SecAggRun(
            self.secagg,
            secagg_server,
            key_id,
            state,
            record,
            num_rounds,
            facts["fingerprint"],
        )

    def encode(self, message: Call) -> Shareable:
        """Return the task data of a call."""
        return secagg_calls.call_message(message)

    def decode(self, task: str, reply: Shareable) -> Reply:
        """Return what a site answers, strictly read."""
        return secagg_messages.read_reply(reply, task, self.allowed_names)
