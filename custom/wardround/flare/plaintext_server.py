"""How the server of a plaintext job opens its run, and how its messages are written on
the wire.
"""

from __future__ import annotations

from typing import Any, Literal, final

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.aggregation.collect import require_tolerates
from wardround.aggregation.plaintext_run import PlaintextRun
from wardround.algorithms.final_model import FinalModel, Kind
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.compression.chosen import Compression
from wardround.compression.opening import Opening
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.stages import Aggregation
from wardround.core.traits import leaving, require_fit
from wardround.flare import compressed_messages, orders, plaintext_messages, workspaces
from wardround.flare.run_report import RunReport
from wardround.messages.ranges import LARGEST_CHANGE
from wardround.training.global_model import GlobalModel


@final
class PlaintextServer:
    """The server of a job in which it reads the updates of single sites.

    A state folder with an unfinished run is resumed.

    aggregation: how one update is made of those of the sites.
    compression: how updates get smaller on their way here, or "none".
    server_optimizer: what the server does with the aggregated update.
    model: the network. The server makes its first weights from `seed`.
    variables: every variable that travels.
    home_roles: blocks of these roles stay at the sites, so that no update holds them.
    min_clients: a round with fewer updates than this ends the run.
    seed: of the first weights.
    allowed_names: the names that a reply may hold, as the sites' component `outbound`
        lists them.
    inputs: what the network reads and predicts, for its files of weights.
    final_model: which model the run ends with, as the sites' schedule says.
    """

    def __init__(
        self,
        aggregation: Aggregation,
        compression: Compression | Literal["none"],
        server_optimizer: ServerOptimizer,
        model: Any,
        variables: list[str],
        home_roles: list[str],
        min_clients: int,
        seed: int,
        allowed_names: list[str],
        inputs: dict[str, Any] | None = None,
        final_model: Kind = "last",
    ) -> None:
        # NVFlare turns an undefined variable of a config into None.
        given = aggregation and compression and server_optimizer and model and variables
        given = given and None not in (home_roles, seed, allowed_names)
        if not (given and type(min_clients) is int and min_clients >= 1):
            raise ConfigRefused(
                "the job's server settings",
                found=f"min_clients {min_clients}, variables {variables}",
                expected="min_clients >= 1, and every part; home_roles and allowed_names [], "
                "and compression none, where there is nothing",
                fix="print the job again with `wardround jobs write`",
            )
        self.compression = compression
        require_fit(leaving(None, self.compresses, None), aggregation)
        require_tolerates(aggregation, min_clients)
        self.aggregation = aggregation
        self.server_optimizer = server_optimizer
        self.model = model
        self.variables = variables
        self.home_roles = home_roles
        self.min_clients = min_clients
        self.seed = seed
        self.allowed_names = list(allowed_names)
        self.final_model = final_model
        self.inputs = None if inputs is None else {key: one for key, one in inputs.items() if key != "config_type"}

    @property
    def compresses(self) -> Compression | None:
        """Return the compression, or None where updates come as float32."""
        return None if isinstance(self.compression, str) else self.compression

    def open(self, fl_ctx: FLContext, num_rounds: int, about: dict[str, Any]) -> PlaintextRun:
        """Return a new run, or the run that the state folder holds. The state of
        another job is a Refusal.
        """
        folder = workspaces.state_folder(fl_ctx)
        # A report is read with the same list, and a resumed run must have the same
        # list.
        about = {**about, "names": self.allowed_names}
        # A run that has lost hospitals may go on with fewer; all else must be the same.
        promise = {key: value for key, value in about.items() if key != "min_clients"}
        final = FinalModel(self.final_model, num_rounds)
        model = GlobalModel.open(
            folder, self.model, self.server_optimizer, self.variables, self.seed, promise, self.inputs, final
        )
        record = RunReport.begin(about, model.facts, workspaces.in_simulator(fl_ctx), model.history)
        out = workspaces.run_folder(fl_ctx)
        travelling = model.travelling(self.home_roles)
        opening = None
        if self.compresses is not None:
            blocks = {name: block for name, block in model.wire().items() if name in travelling}
            opening = Opening(self.compresses, Layout.of(blocks), model.memory, LARGEST_CHANGE)
        return PlaintextRun(model, travelling, self.aggregation, record, num_rounds, self.min_clients, out, opening)

    def encode(self, message: orders.Order) -> Shareable:
        return orders.order_message(message)

    def decode(self, task: str, reply: Shareable) -> plaintext_messages.Update | dict[str, Any]:
        """Return what a site answers, strictly read: an update, or its scores."""
        if task != plaintext_messages.TRAIN:
            return plaintext_messages.read_scores(reply, self.allowed_names)
        if self.compresses is None:
            return plaintext_messages.read_update(reply, self.allowed_names)
        return compressed_messages.read_update(reply, self.compresses.name, self.allowed_names)
