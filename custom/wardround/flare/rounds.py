"""The server's door to NVFlare: a Controller that runs the rounds, the final judgement, and writes the report.

Every round goes on with `min_sites` answers or more, and says who is missing and why, in the log and in the report. A site that
only missed rounds takes part again (asking.py) and makes a remark; one that is lost, is in no round at all, or does not judge the
final model makes a FAILED run, whatever the rest achieved: a job that lost a site never looks like a success.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.algorithms.rules import Rule
from wardround.arrays import size_bytes
from wardround.errors import ConfigRefused, Refusal, RoundRefused
from wardround.flare import places, progress, wire
from wardround.flare.asking import Asking, drop_late, require_patience
from wardround.flare.combine import Combine
from wardround.flare.last_resort import tried
from wardround.flare.record import RunRecord, absent, conclusion, flat
from wardround.hospital.global_model import GlobalModel


class Rounds(Controller):  # type: ignore[misc]
    """Broadcast, combine, apply the rule, `rounds` times; then ask every site for its judgement.

    banks: every bank that travels | home_roles: blocks of these roles stay at the sites, so that no update holds them
    min_sites: fewer updates than this end the run
    round_timeout_s: the deadline of a round and of the judgement (0: wait for ever)
    grace_s: how long the others may take once min_sites have answered; an update after that is dropped (asking.py)
    A state folder with an unfinished run is resumed.
    inputs: of a classifier, for its files of weights
    """

    def __init__(
        self,
        rule: Rule,
        model: Any,
        banks: list[str],
        home_roles: list[str],
        rounds: int,
        min_sites: int,
        round_timeout_s: int,
        grace_s: int,
        seed: int,
        about: dict[str, Any],
        aggregator_id: str = "combine",
        inputs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(task_check_period=0.05)
        given = rule and model and banks and home_roles is not None
        if not (rounds and rounds >= 1 and min_sites and min_sites >= 1 and given):
            raise ConfigRefused(
                "the job's server settings",
                found=f"rounds {rounds}, min_sites {min_sites}, banks {banks}",
                expected="rounds >= 1, min_sites >= 1, a rule, a model, its banks and home_roles ([] for none)",
                fix="print the job anew with `wardround jobs write`",
            )
        require_patience(grace_s)
        self.rule, self.model, self.banks, self.rounds = rule, model, banks, rounds
        self.home_roles = home_roles
        self.min_sites, self.round_timeout_s, self.seed = min_sites, round_timeout_s, seed
        self.grace_s = grace_s
        self.about = flat(about)
        self.aggregator_id = aggregator_id
        self.inputs = None if inputs is None else {key: one for key, one in inputs.items() if key != "config_type"}
        self._weights: dict[str, float] = {}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Find the aggregator; build or resume the server's model."""
        self.combine = self._engine.get_component(self.aggregator_id)
        if not isinstance(self.combine, Combine):
            self.system_panic(f"no Combine with id {self.aggregator_id!r} in config_fed_server.json", fl_ctx)
            return
        try:
            places.require_startable(fl_ctx)
            places.begin_anew(fl_ctx)
            folder = places.state_folder(fl_ctx)
            self.server = GlobalModel.open(
                folder, self.model, self.rule, self.banks, self.seed, self.about, self.inputs
            )
        except Refusal as refusal:
            self.system_panic(f"the run cannot start: {refusal}", fl_ctx)
            return
        self._travelling = self.server.travelling(self.home_roles)
        self.record = RunRecord.begin(self.about, self.server.facts, places.in_simulator(fl_ctx), self.server.history)
        self.sites = Asking(self, self.record, self.rounds, self.round_timeout_s, self.grace_s)
        if self.server.round:
            self.log_info(fl_ctx, f"RESUMED from round {self.server.round} of {self.rounds}")

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Say how far the run is when an admin asks."""
        super().handle_event(event_type, fl_ctx)
        if event_type == progress.ASKED and hasattr(self, "sites"):
            progress.tell(fl_ctx, self.sites.now(), self.record.run["rounds"])

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held open between rounds."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A late answer is dropped, and said so."""
        drop_late(self, client, task_name, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run all rounds that are left, then the judgement; write run.json and the report whatever happens."""
        if not hasattr(self, "sites"):
            return  # the start was refused, with the reason: there is nothing to add
        self.sites.begin(fl_ctx)
        self.record.note(tried(lambda: self._run(abort_signal, fl_ctx)), self.logger)
        self.record.note(tried(lambda: self._report(fl_ctx)), self.logger)
        if self.record.problems:
            self.system_panic("INCOMPLETE: " + "; ".join(self.record.problems), fl_ctx)

    def _run(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        require_sites(len(self.sites.configured), self.min_sites, places.in_simulator(fl_ctx))
        for round_ in range(self.server.round, self.rounds):
            self._round(round_, abort_signal, fl_ctx)
            if abort_signal.triggered:
                self.record.problem(f"the run was aborted in round {round_ + 1}")
                return
        self._finish(abort_signal, fl_ctx)

    def _report(self, fl_ctx: FLContext) -> None:
        page = self.record.close(places.run_folder(fl_ctx), self.server.best)
        for line in conclusion(page):
            self.log_info(fl_ctx, line)

    def _order(self, round_: int) -> Shareable:
        counted = last_counted(self.server.history)
        missed = {site: counted.get(site, 0) for site in self.sites.present() if counted.get(site, 0) != round_}
        return wire.order_message(wire.Order(self.server.wire(), round_, self.rounds, missed))

    def _take_update(self, site: str, result: Shareable, fl_ctx: FLContext) -> None:
        update = wire.read_update(result, self.about.get("names"))
        wire.require_version(site, update.facts)
        self.server.require_fits(site, update.facts["fingerprint"], update.delta, self._travelling)
        if not self.combine.accept(result, fl_ctx):
            raise RoundRefused(
                f"the update of {site}",
                found="what the aggregator did not add",
                expected="one that fits the others",
                fix="see the line of the aggregator above",
            )
        self.record.update(site, update.numbers, update.facts, size_bytes(update.delta))
        self._weights[site] = update.weight

    def _round(self, round_: int, abort_signal: Signal, fl_ctx: FLContext) -> None:
        begun, configured = time.monotonic(), self.sites.configured
        self.sites.begin_round(round_)
        self.log_info(fl_ctx, f"round {round_ + 1}/{self.rounds} begins with {len(self.sites.present())} sites")
        self.combine.reset(fl_ctx)
        self.record.begin_round(round_, size_bytes(self.server.wire()))

        def take(site: str, result: Shareable) -> None:
            self._take_update(site, result, fl_ctx)

        order = self._order(round_)
        done = self.sites.ask(wire.TRAIN, round_, order, take, abort_signal, fl_ctx, enough=self.min_sites)
        if abort_signal.triggered:
            return
        if len(done) < self.min_sites:
            raise RoundRefused(
                f"round {round_ + 1} has too few sites",
                found=f"{len(done)} of {len(configured)} sites; {absent(self.sites.missing)}",
                expected=f"at least {self.min_sites} (min_sites)",
                fix="mend the sites named in this log and run the job again",
            )
        mean = from_shareable(self.combine.aggregate(fl_ctx)).data
        seconds = time.monotonic() - begun
        entry = self.record.end_round(configured, done, seconds, missing=self.sites.missing)
        self.server.step(mean, self._participation(done, configured), entry)
        self.log_info(fl_ctx, self.record.line(self.rounds))

    def _participation(self, done: list[str], configured: list[str]) -> float:
        """Return the share of all patients that took part; a site that never answered counts as an average one."""
        known = [self._weights[site] for site in configured if site in self._weights]
        unknown = (len(configured) - len(known)) * sum(known) / len(known)
        return min(1.0, sum(self._weights[site] for site in done) / (sum(known) + unknown))

    def _finish(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.log_info(fl_ctx, "every site now judges the models on its own patients")
        self.sites.begin_round(self.rounds)
        asked = self.sites.present()

        def take(site: str, result: Shareable) -> None:
            self.record.scores(site, wire.read_scores(result, self.about.get("names")))

        judged = self.sites.ask(wire.FINISH, self.rounds, self._order(self.rounds), take, abort_signal, fl_ctx)
        self.server.finish(self.record.final_val_score(), places.run_folder(fl_ctx))
        if judged == asked and not abort_signal.triggered:
            places.finish(fl_ctx)


def require_sites(sites: int, min_sites: int, simulator: bool) -> None:
    """Raise RoundRefused before the first round of a run that can never have enough sites."""
    if sites < min_sites:
        words = f"{sites} site{'s' if sites != 1 else ''}, the job needs {min_sites} (min_sites)"
        advice = f"-n {min_sites}, or name so many sites with -c" if simulator else "start the sites that are missing"
        raise RoundRefused(words, found=f"{sites} in this run", expected=f"{min_sites} or more", fix=advice)


def last_counted(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return by site how many rounds had passed when its update last counted."""
    return {site: entry["round"] + 1 for entry in history for site in entry["aggregated"]}
