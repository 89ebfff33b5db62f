"""How the server of a plaintext job opens its run, and how its messages are written on the wire."""

from __future__ import annotations

from typing import Any, Literal, final

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.aggregation.collect import require_tolerates
from wardround.aggregation.plaintext_run import PlaintextRun
from wardround.algorithms.rules import Rule
from wardround.arrays import Layout
from wardround.compression.chosen import Compression
from wardround.compression.opening import Opening
from wardround.core.stages import Aggregation
from wardround.core.traits import require_fit
from wardround.errors import ConfigRefused
from wardround.flare import places, wire, wire_compressed
from wardround.flare.ranges import LARGEST_CHANGE
from wardround.flare.record import RunRecord
from wardround.hospital.global_model import GlobalModel


@final
class PlaintextServer:
    """The server reads the updates of single sites.

    aggregation: how one update is made of those of the sites
    compression: how updates get smaller on their way here, or "none"
    rule: what the server does with it
    model: the network; the server makes its first weights from `seed`
    banks: every bank that travels
    home_roles: blocks of these roles stay at the sites, so that no update holds them
    min_sites: fewer updates than this end the run
    inputs: what the network takes and tells, for its files of weights
    A state folder with an unfinished run is resumed.
    """

    def __init__(
        self,
        aggregation: Aggregation,
        compression: Compression | Literal["none"],
        rule: Rule,
        model: Any,
        banks: list[str],
        home_roles: list[str],
        min_sites: int,
        seed: int,
        inputs: dict[str, Any] | None = None,
    ) -> None:
        # NVFlare turns an undefined variable of a config into None.
        given = aggregation and compression and rule and model and banks and home_roles is not None and seed is not None
        if not (given and type(min_sites) is int and min_sites >= 1):
            raise ConfigRefused(
                "the job's server settings",
                found=f"min_sites {min_sites}, banks {banks}",
                expected="min_sites >= 1, and every part; home_roles [] and compression none where there is nothing",
                fix="print the job again with `wardround jobs write`",
            )
        self.compression = None if isinstance(compression, str) else compression
        require_fit([] if self.compression is None else [self.compression], aggregation)
        require_tolerates(aggregation, min_sites)
        self.aggregation = aggregation
        self.rule = rule
        self.model = model
        self.banks = banks
        self.home_roles = home_roles
        self.min_sites = min_sites
        self.seed = seed
        self.inputs = None if inputs is None else {key: one for key, one in inputs.items() if key != "config_type"}

        # The names that the job's task has, from `about`; until then the closed list of shipped tasks.
        self._names: list[str] | None = None

    def open(self, fl_ctx: FLContext, rounds: int, about: dict[str, Any]) -> PlaintextRun:
        """Return a new run, or the one that the state folder holds; that of another job: a Refusal."""
        self._names = about.get("names")
        folder = places.state_folder(fl_ctx)
        model = GlobalModel.open(folder, self.model, self.rule, self.banks, self.seed, about, self.inputs)
        record = RunRecord.begin(about, model.facts, places.in_simulator(fl_ctx), model.history)
        out = places.run_folder(fl_ctx)
        travelling = model.travelling(self.home_roles)
        opening = None
        if self.compression is not None:
            blocks = {name: block for name, block in model.wire().items() if name in travelling}
            opening = Opening(self.compression, Layout.of(blocks), model.memory, LARGEST_CHANGE)
        return PlaintextRun(model, travelling, self.aggregation, record, rounds, self.min_sites, out, opening)

    def encode(self, message: wire.Order) -> Shareable:
        return wire.order_message(message)

    def decode(self, task: str, reply: Shareable) -> wire.Update | dict[str, Any]:
        """Return what a site answers, strictly read: an update, or its scores."""
        if task != wire.TRAIN:
            return wire.read_scores(reply, self._names)
        if self.compression is None:
            return wire.read_update(reply, self._names)
        return wire_compressed.read_update(reply, self.compression.name, self._names)
