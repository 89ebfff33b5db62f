"""The server's door to NVFlare: a Controller that runs the rounds, the final judgement, and writes the report.

A site that is lost or refuses is named, with its reason code, in the log and in the report; the run goes on while `min_sites`
remain and then ends as a FAILED run all the same: a job that lost a site never looks like a success.
"""

from __future__ import annotations

import time
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.aggregator import Aggregator

from wardround.algorithms.rules import Rule
from wardround.arrays import size_bytes
from wardround.errors import ConfigRefused, Refusal, RoundRefused
from wardround.flare import places, wire
from wardround.flare.record import RunRecord
from wardround.flare.server_model import ServerModel


class Rounds(Controller):  # type: ignore[misc]
    """Broadcast, combine, apply the rule, `rounds` times; then ask every site for its judgement.

    banks: every bank that travels | min_sites: fewer updates than this end the run | round_timeout_s: a site that has not
    answered by then is lost (0: wait for ever); a lost site is asked no more | a state folder with an unfinished run: resumed
    """

    def __init__(
        self,
        rule: Rule,
        model: Any,
        banks: list[str],
        rounds: int,
        min_sites: int,
        round_timeout_s: int,
        seed: int,
        about: dict[str, Any],
        aggregator_id: str = "combine",
    ) -> None:
        super().__init__(task_check_period=0.05)
        if not (rounds and rounds >= 1 and min_sites and min_sites >= 1 and rule and model and banks):
            raise ConfigRefused(
                "the job's server settings",
                found=f"rounds {rounds}, min_sites {min_sites}, banks {banks}",
                expected="rounds >= 1, min_sites >= 1, a rule, a model and its banks",
                fix="print the job anew with `wardround jobs write`",
            )
        self.rule, self.model, self.banks, self.rounds = rule, model, banks, rounds
        self.min_sites, self.round_timeout_s, self.seed = min_sites, round_timeout_s, seed
        self.about = {key: value for key, value in about.items() if key != "config_type"}
        self.aggregator_id = aggregator_id
        self._failed: dict[str, str] = {}
        self._replies: dict[str, Shareable] = {}
        self._weights: dict[str, float] = {}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Find the aggregator; build or resume the server's model."""
        self.combine = self._engine.get_component(self.aggregator_id)
        if not isinstance(self.combine, Aggregator):
            self.system_panic(f"no aggregator with id {self.aggregator_id!r} in config_fed_server.json", fl_ctx)
            return
        folder = places.state_folder(fl_ctx)
        try:
            self.server = ServerModel.open(folder, self.model, self.rule, self.banks, self.seed, self.about)
        except Refusal as refusal:
            self.system_panic(f"the run cannot start: {refusal}", fl_ctx)
            return
        self.record = RunRecord.begin(self.about, self.server.facts, places.in_simulator(fl_ctx), self.server.history)
        if self.server.round:
            self.log_info(fl_ctx, f"RESUMED from round {self.server.round} of {self.rounds}")

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held open between rounds."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A late answer is dropped, and said so."""
        self.log_warning(fl_ctx, f"DROPPED a late answer of {client.name} to task {task_name}")

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run all rounds that are left, then the judgement; write run.json and the report whatever happens."""
        configured = self._configured(fl_ctx)
        try:
            for round_ in range(self.server.round, self.rounds):
                self._round(round_, configured, abort_signal, fl_ctx)
                if abort_signal.triggered:
                    self.record.problem(f"the run was aborted in round {round_ + 1}")
                    break
            else:
                self._finish(configured, abort_signal, fl_ctx)
        except Refusal as refusal:
            self.record.problem(str(refusal).splitlines()[0] + f" ({refusal.found})")
            self.log_error(fl_ctx, f"the run stops: {refusal}")
        page = self.record.close(places.run_folder(fl_ctx), self.server.best)
        self.log_info(fl_ctx, f"report: {page}")
        if self.record.problems:
            self.system_panic("INCOMPLETE: " + "; ".join(self.record.problems), fl_ctx)

    def _configured(self, fl_ctx: FLContext) -> list[str]:
        meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
        named = [str(client["name"]) for client in meta.get(JobMetaKey.JOB_CLIENTS.value, []) if "name" in client]
        return sorted(set(named) | {client.name for client in self._engine.get_clients()})

    def _ask(
        self, task_name: str, round_: int, configured: list[str], abort_signal: Signal, fl_ctx: FLContext
    ) -> list[str]:
        """Send one task to every site that is not out of the run; return the sites that answered usefully."""
        self._replies = {}
        alive = {client.name for client in self._engine.get_clients()}
        for site in configured:
            if site not in alive:
                self._lose(site, round_, "not connected")
        targets = [site for site in configured if site in alive and site not in self._failed]
        if not targets:
            return []
        order = wire.order_message(wire.Order(self.server.wire(), round_, self.rounds))
        task = Task(task_name, order, timeout=self.round_timeout_s, result_received_cb=self._received)
        self.broadcast_and_wait(task, fl_ctx, targets=targets, min_responses=len(targets), abort_signal=abort_signal)
        for site in targets:
            if site not in self._replies and site not in self._failed and not abort_signal.triggered:
                self._lose(site, round_, "no answer in time")
        return [site for site in targets if site in self._replies]

    def _received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Take one site's answer as it arrives; updates go straight into the sum and are not kept."""
        site, result = client_task.client.name, client_task.result
        if result.get_return_code() != ReturnCode.OK:
            self._lose(site, self.server.round, f"refused: {wire.refusal_code(result)}")
        elif client_task.task.name == wire.FINISH:
            self._replies[site] = result
        else:
            self._take_update(site, result, fl_ctx)
        client_task.result = None

    def _take_update(self, site: str, result: Shareable, fl_ctx: FLContext) -> None:
        try:
            update = wire.read_update(result)
            self.server.require_fits(site, update.facts["fingerprint"], update.delta)
        except Refusal as refusal:
            self.log_error(fl_ctx, f"REJECTED the update of {site}: {refusal}")
            self._lose(site, self.server.round, f"rejected: {refusal.code}")
            return
        if self.combine.accept(result, fl_ctx):
            self.record.update(site, update.numbers, update.facts, size_bytes(update.delta))
            self._replies[site] = Shareable()
            self._weights[site] = update.weight
        else:
            self._lose(site, self.server.round, "rejected: its update does not fit")

    def _lose(self, site: str, round_: int, reason: str) -> None:
        if site not in self._failed:
            self._failed[site] = reason
            when = f"round {round_ + 1}" if round_ < self.rounds else "the final judgement"
            self.record.problem(f"{site} was lost in {when}: {reason} (see that site's own log)")
            self.logger.error(f"LOST {site} in {when}: {reason}")

    def _round(self, round_: int, configured: list[str], abort_signal: Signal, fl_ctx: FLContext) -> None:
        begun = time.monotonic()
        self.log_info(
            fl_ctx, f"round {round_ + 1}/{self.rounds} begins with {len(configured) - len(self._failed)} sites"
        )
        self.combine.reset(fl_ctx)
        self.record.begin_round(round_, size_bytes(self.server.wire()))
        done = self._ask(wire.TRAIN, round_, configured, abort_signal, fl_ctx)
        if abort_signal.triggered:
            return
        if len(done) < self.min_sites:
            raise RoundRefused(
                f"round {round_ + 1} has too few sites",
                found=f"{len(done)} of {len(configured)} sites",
                expected=f"at least {self.min_sites} (min_sites)",
                fix="mend the sites named in this log and run the job again",
            )
        mean = from_shareable(self.combine.aggregate(fl_ctx)).data
        entry = self.record.end_round(configured, done, time.monotonic() - begun)
        self.server.step(mean, self._participation(done, configured), entry)
        self.log_info(fl_ctx, self.record.line(self.rounds))

    def _participation(self, done: list[str], configured: list[str]) -> float:
        """Return the share of all patients that took part; a site that never answered counts as an average one."""
        known = [self._weights[site] for site in configured if site in self._weights]
        unknown = (len(configured) - len(known)) * sum(known) / len(known)
        return min(1.0, sum(self._weights[site] for site in done) / (sum(known) + unknown))

    def _finish(self, configured: list[str], abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.log_info(fl_ctx, "every site now judges the models on its own patients")
        for site in self._ask(wire.FINISH, self.rounds, configured, abort_signal, fl_ctx):
            try:
                self.record.scores(site, wire.read_scores(self._replies[site]))
            except Refusal as refusal:
                self.log_error(fl_ctx, f"REJECTED the scores of {site}: {refusal}")
                self._lose(site, self.rounds, f"rejected: {refusal.code}")
        self.server.finish(self.record.final_val_dice(), places.run_folder(fl_ctx))
