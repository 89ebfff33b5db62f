"""The server's door to NVFlare in jobs with a hidden sum: it orders, checks, adds and relays, and never has the model.

    join once; then in every round   [prepare]  train  [hop, hop, ...]  [unmask]      [..]: where the protection needs it

A site that is lost after `prepare` is left out and its masks are removed; where too few are left to do that, the round is
run again with those that are left: they keep their integers, so nothing is trained twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.errors import ConfigRefused, Refusal, RoundRefused
from wardround.flare import places, sealed, wire
from wardround.flare.asking import Asking, drop_late
from wardround.flare.record import RunRecord, flat
from wardround.flare.secure_state import SecureState
from wardround.flare.secure_sum import startup_folder
from wardround.models.fingerprint import fingerprint
from wardround.privacy import simulated_kits, statements, sum_key
from wardround.privacy.collector import Collector
from wardround.privacy.identity import Authority
from wardround.privacy.participant import joined, ring_order
from wardround.privacy.protection import Protection
from wardround.privacy.statements import Moment, Signed
from wardround.rng import secret

ATTEMPTS = 3


class SecureRounds(Controller):  # type: ignore[misc]
    """The rounds of a hidden sum, then the judgement.

    protection: the job's promise, the same as at the sites | round_timeout_s: for training; step_timeout_s: for all else
    a secret key in the server's folders, a missing or foreign key file: the run does not start
    """

    def __init__(
        self,
        protection: Protection,
        model: Any,
        rounds: int,
        round_timeout_s: int,
        step_timeout_s: int,
        about: dict[str, Any],
    ) -> None:
        super().__init__(task_check_period=0.05)
        if not (protection and model and rounds and rounds >= 1 and step_timeout_s):
            raise ConfigRefused(
                "the job's server settings",
                found=f"rounds {rounds}, step_timeout_s {step_timeout_s}",
                expected="rounds >= 1, step_timeout_s >= 1, a protection and a model",
                fix="print the job anew with `wardround jobs write`",
            )
        self.protection, self.model, self.rounds = protection, model, rounds
        self.round_timeout_s, self.step_timeout_s = round_timeout_s, step_timeout_s
        self.about = flat(about)
        self._joins: dict[str, Signed] = {}
        self._run = secret(16).hex()
        self._models: dict[str, str] = {}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Check the keys, build or resume the server's state."""
        try:
            self.collector = Collector(self.protection, self._authority(fl_ctx))
            self.state = SecureState.open(places.state_folder(fl_ctx), self.about)
            module = self.model.build(0)
        except Refusal as refusal:
            self.system_panic(f"the run cannot start: {refusal}", fl_ctx)
            return
        size = sum(block.numel() for block in module.parameters())
        self.fingerprint = fingerprint(module)
        facts = {"name": type(self.model).__name__, "parameters": size, "fingerprint": self.fingerprint}
        self.record = RunRecord.begin(self.about, facts, places.in_simulator(fl_ctx), self.state.history)
        self.sites = Asking(self, self.record, self.rounds, self.round_timeout_s)
        if self.state.round:
            self.log_info(fl_ctx, f"RESUMED from round {self.state.round} of {self.rounds}")

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held open between rounds."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A late answer is dropped, and said so."""
        drop_late(self, client, task_name, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Join, run all rounds that are left, ask for the judgement; write run.json and the report whatever happens."""
        self.sites.begin(fl_ctx)
        self._abort, self._context = abort_signal, fl_ctx
        try:
            self.protection.require_enough(len(self.sites.configured), "the sites of this run")
            self._join()
            for round_ in range(self.state.round, self.rounds):
                self._round(round_)
            self._finish()
        except Refusal as refusal:
            self.record.problem(str(refusal).splitlines()[0] + f" ({refusal.found})")
            self.log_error(fl_ctx, f"the run stops: {refusal}")
        page = self.record.close(places.run_folder(fl_ctx), self.record.best(self.state.history, self.rounds))
        self.log_info(fl_ctx, f"report: {page}")
        if self.record.problems:
            self.system_panic("INCOMPLETE: " + "; ".join(self.record.problems), fl_ctx)

    def _authority(self, fl_ctx: FLContext) -> Authority:
        startup = startup_folder(fl_ctx)
        sum_key.require_no_key([startup, startup.parent / "local"])
        if places.in_simulator(fl_ctx):
            simulated_kits.server_kit(places.simulated_kits_folder(fl_ctx), startup)
        self._key_id = sum_key.read_server(startup) if self.protection.encryption else ""
        return Authority.load(startup)

    def _join(self) -> None:
        moment = joined(self._run)

        def take(site: str, result: Shareable) -> None:
            signed = sealed.read_reply(result, sealed.JOIN).statement
            said = statements.read_own(site, signed, "join", moment, self.collector.authority)
            if said["key_id"] != self._key_id:
                raise ConfigRefused(
                    f"the sum key of {site}",
                    found=f"key {said['key_id'] or 'none'} in its startup/{sum_key.SITE_FILE}",
                    expected=f"key {self._key_id or 'none'}, as in the server's startup/{sum_key.SERVER_FILE}",
                    fix=f"install at {site} the startup kit of this project",
                )
            self._joins[site] = signed

        self._ask(sealed.JOIN, sealed.Call(moment, self.rounds), take)

    def _round(self, round_: int) -> None:
        begun = time.monotonic()
        self.record.begin_round(round_, 0)
        for attempt in range(ATTEMPTS):
            left = len(self.sites.left())
            self.protection.require_enough(left, f"round {round_ + 1}: the sites that are left")
            again = f", attempt {attempt + 1}" if attempt else ""
            self.log_info(self._context, f"round {round_ + 1}/{self.rounds} begins with {left} sites{again}")
            try:
                recovered = self._attempt(Moment(self._run, round_, attempt))
                break
            except RoundRefused as refusal:
                if attempt + 1 == ATTEMPTS or len(self.sites.left()) == left:
                    raise
                self.log_warning(self._context, f"round {round_ + 1} is run again without the lost sites: {refusal}")
        self._close(round_, attempt, recovered, time.monotonic() - begun)

    def _attempt(self, moment: Moment) -> list[str]:
        """Run one attempt until its sum is open in the collector; return the sites whose masks were removed."""
        joins = tuple(self._joins[site] for site in self.sites.left() if site in self._joins)
        prepares = self._prepare(moment, joins) if self.protection.masks else ()
        self.collector.begin(moment, prepares)
        call = sealed.Call(moment, self.rounds, joins, prepares, self.state.revealed)
        trained = self._ask(wire.TRAIN, call, self._take_update, self.round_timeout_s)
        self.record.traffic(down=len(trained) * (len(call.revealed.payload) if call.revealed else 0))
        self.collector.require_agreement()
        if self.protection.ring:
            self._around(call, trained)
        added, least = self.collector.added, self.protection.min_sites
        self.log_info(self._context, f"{len(added)} of {len(self.sites.configured)} sites are in the sum")
        if self.protection.masks:
            least = max(least, self.protection.threshold_of(len(joins)))
        if len(added) < least:
            raise RoundRefused(
                f"round {moment.round + 1} has too few sites",
                found=f"{len(added)} sites in the sum",
                expected=f"at least {least} (min_sites; with masks, those that open them)",
                fix="mend the sites named in this log and run the job again",
            )
        return self._unmask(call) if self.protection.masks else []

    def _prepare(self, moment: Moment, joins: tuple[Signed, ...]) -> tuple[Signed, ...]:
        found: dict[str, Signed] = {}

        def take(site: str, result: Shareable) -> None:
            signed = sealed.read_reply(result, sealed.PREPARE).statement
            said = statements.read_own(site, signed, "prepare", moment, self.collector.authority)
            peers = {statements.peek(one)["site"] for one in joins}
            if set(said["shares"]) != peers:
                raise statements.refused(site, f"shares for {len(said['shares'])} sites", "for those that joined")
            found[site] = signed

        self._ask(sealed.PREPARE, sealed.Call(moment, self.rounds, joins), take)
        return tuple(found[site] for site in sorted(found))

    def _take_update(self, site: str, result: Shareable) -> None:
        reply = sealed.read_reply(result, wire.TRAIN)
        facts = reply.meta["facts"]
        if facts["fingerprint"] != self.fingerprint:
            raise statements.refused(site, f"fingerprint {facts['fingerprint']}", self.fingerprint)
        if self.protection.ring:
            self.collector.ready(site, reply.statement)
        else:
            self.collector.submit(site, reply.statement, reply.payload)
        self.record.update(site, reply.meta["numbers"], facts, len(reply.payload))

    def _around(self, call: sealed.Call, ready: Sequence[str]) -> None:
        """Pass the sum round the ring; a site that does not answer is passed over."""
        last: list[tuple[Signed, bytes]] = []

        def take(site: str, result: Shareable) -> None:
            reply = sealed.read_reply(result, sealed.HOP)
            self.collector.hop(site, reply.statement, reply.payload)
            last[:] = [(reply.statement, reply.payload)]
            self.record.traffic(up=len(reply.payload))

        for site in ring_order(ready, call.prepares):
            statement, payload = last[0] if last else (None, b"")
            done = tuple(self.collector.added)
            hop = sealed.Call(
                call.moment, self.rounds, (), call.prepares, None, (), tuple(ready), done, statement, payload
            )
            self.record.traffic(down=len(payload))
            self._ask(sealed.HOP, hop, take, sites=[site])

    def _unmask(self, call: sealed.Call) -> list[str]:
        answers: dict[str, Signed] = {}

        def take(site: str, result: Shareable) -> None:
            signed = sealed.read_reply(result, sealed.UNMASK).statement
            said = statements.read_own(site, signed, "unmask", call.moment, self.collector.authority)
            if set(said["shares"]) != set(self.collector.roster):
                raise statements.refused(site, f"shares of {len(said['shares'])} sites", "of those that prepared")
            answers[site] = signed

        asked = sealed.Call(
            call.moment, self.rounds, call.joins, call.prepares, survivors=tuple(sorted(self.collector.added))
        )
        self._ask(
            sealed.UNMASK, asked, take, sites=[site for site in self.collector.added if site not in self.sites.lost]
        )
        try:
            return self.collector.unmask(answers)
        except RoundRefused as refusal:  # who answered has given its shares for THIS sum and refuses any other
            raise ConfigRefused(
                f"round {call.moment.round + 1} cannot be opened, nor run again: {refusal.what}",
                found=refusal.found,
                expected=refusal.expected,
                fix="mend the sites named in this log and start the job anew",
            ) from refusal

    def _close(self, round_: int, attempt: int, recovered: list[str], seconds: float) -> None:
        added = sorted(self.collector.added)
        entry = self.record.end_round(self.sites.configured, added, seconds, attempt + 1, recovered)
        payload, configured = self.collector.payload(), len(self.sites.configured)
        moment = Moment(self._run, round_, attempt)
        self.state.done(sealed.Revealed(moment, tuple(added), configured, entry["val_score"], payload), entry)
        self.log_info(self._context, self.record.line(self.rounds))

    def _finish(self) -> None:
        self.log_info(self._context, "every site now judges the models on its own patients")
        moment = Moment(self._run, self.rounds, 0)

        def take(site: str, result: Shareable) -> None:
            reply = sealed.read_reply(result, wire.FINISH)
            said = statements.read_own(site, reply.statement, "judged", moment, self.collector.authority)
            self._models[site] = said["model"]
            self.record.scores(site, reply.meta["scores"])

        self._ask(
            wire.FINISH, sealed.Call(moment, self.rounds, revealed=self.state.revealed), take, self.round_timeout_s
        )
        models = list(self._models.values())
        most = max(models, key=models.count, default=None)
        strangers = sorted(site for site, model in self._models.items() if model != most)
        if strangers:
            raise RoundRefused(
                "two sites hold different final models",
                found=f"others at {', '.join(strangers)}",
                expected="one model at every site",
                fix="start the job anew",
            )
        self.record.run["model"]["sha256"] = most

    def _ask(
        self, task: str, call: sealed.Call, take: Any, timeout_s: int | None = None, sites: Sequence[str] | None = None
    ) -> list[str]:
        timeout_s = self.step_timeout_s if timeout_s is None else timeout_s
        message = sealed.call_message(call)
        answered = self.sites.ask(task, call.moment.round, message, take, self._abort, self._context, sites, timeout_s)
        if self._abort.triggered:
            raise ConfigRefused(
                "the run",
                found="aborted",
                expected="a run to its end",
                fix="start it again; with a state folder it goes on",
            )
        return answered
