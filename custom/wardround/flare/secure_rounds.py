"""The server's door to NVFlare in jobs with a hidden sum: it orders, checks, adds and relays, and never has the model.

    join once; then in every round   [prepare]  train  [hop, hop, ...]  [unmask]      [..]: where the protection needs it

A site that goes missing after `prepare` is left out and its masks are removed; where too few are there to do that, the round is
run again with those that are: they keep their integers, so nothing is trained twice. In the next round it is asked again and
handed the sums that it missed: every site comes to the same model by the same sums. A late update never counts in another
round: its mask, and under differential privacy its charge, belong to its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.errors import ConfigRefused, Refusal, RoundRefused
from wardround.flare import places, progress, sealed, wire
from wardround.flare.asking import Asking, drop_late, require_patience
from wardround.flare.last_resort import tried
from wardround.flare.record import RunRecord, absent, conclusion, flat
from wardround.flare.secure_attempt import Attempt
from wardround.flare.secure_state import SecureState
from wardround.flare.secure_sum import startup_folder
from wardround.models.fingerprint import fingerprint
from wardround.models.roles import update_layout
from wardround.privacy import simulated_kits, statements, sum_key
from wardround.privacy.collector import Collector
from wardround.privacy.fixed_point import fields_of
from wardround.privacy.identity import Authority
from wardround.privacy.protection import Protection
from wardround.privacy.roster import JOINED, joined, require_join, roster_digest
from wardround.privacy.statements import Moment, Signed
from wardround.rng import secret

ATTEMPTS = 3


class SecureRounds(Controller):  # type: ignore[misc]
    """The rounds of a hidden sum, then the judgement.

    protection: the job's promise, the same as at the sites | round_timeout_s: for training; step_timeout_s: for all else;
    grace_s: how long the others may take once enough for a sum have answered; a later answer is dropped, because a mask,
    and a charge, belong to the round that they were made for
    banks, home_roles: every bank that travels, and the roles of the blocks that do not: how long an update is follows from them
    a secret key in the server's folders, a missing or foreign key file: the run does not start
    """

    def __init__(
        self,
        protection: Protection,
        model: Any,
        rounds: int,
        round_timeout_s: int,
        step_timeout_s: int,
        grace_s: int,
        banks: list[str],
        home_roles: list[str],
        about: dict[str, Any],
    ) -> None:
        super().__init__(task_check_period=0.05)
        given = protection and model and banks and home_roles is not None
        if not (given and rounds and rounds >= 1 and step_timeout_s):
            raise ConfigRefused(
                "the job's server settings",
                found=f"rounds {rounds}, step_timeout_s {step_timeout_s}, banks {banks}",
                expected="rounds >= 1, step_timeout_s >= 1, a protection, a model, its banks and home_roles ([] for none)",
                fix="print the job anew with `wardround jobs write`",
            )
        require_patience(grace_s)
        self.protection, self.model, self.rounds = protection, model, rounds
        self.round_timeout_s, self.step_timeout_s = round_timeout_s, step_timeout_s
        self.grace_s = grace_s
        self.banks, self.home_roles = banks, home_roles
        self.about = flat(about)
        self._joins: dict[str, Signed] = {}
        self._run = secret(16).hex()
        self._models: dict[str, str] = {}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Check the keys, build or resume the server's state."""
        try:
            places.require_startable(fl_ctx)
            places.begin_anew(fl_ctx)
            module = self.model.build(0)
            layout = update_layout(module, self.banks, self.home_roles)
            fields = fields_of(layout, self.protection.bits, weighted=self.protection.weighted)
            self.collector = Collector(self.protection, self._authority(fl_ctx), fields)
            self.state = SecureState.open(places.state_folder(fl_ctx), self.about)
        except Refusal as refusal:
            self.system_panic(f"the run cannot start: {refusal}", fl_ctx)
            return
        size = sum(block.numel() for block in module.parameters())
        self.fingerprint = fingerprint(module)
        facts = {"name": type(self.model).__name__, "parameters": size, "fingerprint": self.fingerprint}
        self.record = RunRecord.begin(self.about, facts, places.in_simulator(fl_ctx), self.state.history)
        self.sites = Asking(self, self.record, self.rounds, self.round_timeout_s, self.grace_s)
        self._begun, self._reached = self.state.round, reached(self.state.history)
        if self.state.round:
            self.log_info(fl_ctx, f"RESUMED from round {self.state.round} of {self.rounds}")

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
        """Join, run all rounds that are left, ask for the judgement; write run.json and the report whatever happens."""
        if not hasattr(self, "sites"):
            return  # the start was refused, with the reason: there is nothing to add
        self.sites.begin(fl_ctx)
        self._abort, self._context = abort_signal, fl_ctx
        self.record.note(tried(self._run_all), self.logger)
        self.record.note(tried(self._report), self.logger)
        if self.record.problems:
            self.system_panic("INCOMPLETE: " + "; ".join(self.record.problems), fl_ctx)

    def _run_all(self) -> None:
        self.protection.require_enough(len(self.sites.configured), "the sites of this run")
        self._join(self.sites.left())
        for round_ in range(self.state.round, self.rounds):
            self._round(round_)
        self._finish()

    def _report(self) -> None:
        best = self.record.best(self.state.history, self.rounds)
        page = self.record.close(places.run_folder(self._context), best)
        for line in conclusion(page):
            self.log_info(self._context, line)

    def _authority(self, fl_ctx: FLContext) -> Authority:
        startup = startup_folder(fl_ctx)
        sum_key.require_no_key([startup, startup.parent / "local"])
        if places.in_simulator(fl_ctx):
            simulated_kits.server_kit(places.simulated_kits_folder(fl_ctx), startup)
        self._key_id = sum_key.read_server(startup) if self.protection.encryption else ""
        return Authority.load(startup)

    def _join(self, sites: Sequence[str]) -> None:
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
            require_join(said)
            self._joins[site] = signed

        call = sealed.Call(moment, self.rounds, begun=self._begun)
        self._ask(sealed.JOIN, call, take, sites=sites, enough=self.protection.min_sites)
        self._require_one_job()

    def _majority(self, told: Mapping[str, str], what: str, expected: str) -> str:
        """Return what more than half of the sites told, "" of none; no such thing: ConfigRefused, nobody is blamed."""
        values = list(told.values())
        most = max(values, key=values.count, default="")
        if values and 2 * values.count(most) <= len(values):
            groups = f"{len(set(values))} different ones, none at more than half of {len(values)} sites"
            fix = "deploy one job folder to all sites, and start the job anew"
            raise ConfigRefused(what, found=groups, expected=expected, fix=fix)
        return most

    def _require_one_job(self) -> None:
        """Lose the sites that serve another job, or other settings of it, than most; no majority: ConfigRefused."""
        jobs = {site: statements.peek(signed)["job"] for site, signed in self._joins.items()}
        most = self._majority(jobs, "the job that the hospitals serve, by its id and settings", "one job everywhere")
        self._job = most
        for site in [site for site, job in jobs.items() if job != most]:
            del self._joins[site]
            self.sites.lose(site, JOINED, "it serves another job, or other settings of it, than most hospitals")

    def _round(self, round_: int) -> None:
        begun = time.monotonic()
        self.record.begin_round(round_, 0)
        self.sites.begin_round(round_)
        for site in self.sites.returned:
            self._joins.pop(site, None)
        self.sites.returned.clear()
        if strangers := [site for site in self.sites.present() if site not in self._joins]:
            self._join(strangers)
        for attempt in range(ATTEMPTS):
            left = len(self.sites.present())
            words = f"round {round_ + 1}: the sites that are there ({absent(self.sites.missing)})"
            self.protection.require_enough(left, words)
            again = f", attempt {attempt + 1}" if attempt else ""
            self.log_info(self._context, f"round {round_ + 1}/{self.rounds} begins with {left} sites{again}")
            try:
                recovered = self._attempt(Moment(self._run, round_, attempt)).run(self.round_timeout_s)
                break
            except RoundRefused as refusal:
                if attempt + 1 == ATTEMPTS or len(self.sites.present()) == left:
                    raise
                self.log_warning(self._context, f"round {round_ + 1} is run again without the missing sites: {refusal}")
        self._close(round_, attempt, recovered, time.monotonic() - begun)

    def _attempt(self, moment: Moment) -> Attempt:
        there = self.sites.present()
        joins = tuple(self._joins[site] for site in there if site in self._joins)
        sums, missing = self._sums(there), self.sites.missing
        made = (moment, self.rounds, self.protection, self.collector, self.record, self.fingerprint)
        return Attempt(
            *made, joins, sums, missing, self._ask, lambda site, why: self.sites.lose(site, moment.round, why)
        )

    def _sums(self, sites: Sequence[str]) -> tuple[sealed.Revealed, ...]:
        return self.state.since(min((self._reached.get(site, 0) for site in sites), default=self.state.round))

    def _close(self, round_: int, attempt: int, recovered: list[str], seconds: float) -> None:
        added = sorted(self.collector.added)
        self.log_info(self._context, f"{len(added)} of {len(self.sites.configured)} sites are in the sum")
        self._reached |= dict.fromkeys(self.collector.agreed, round_)
        why = {site: reason for site, reason in self.sites.missing.items() if site not in added}
        entry = self.record.end_round(self.sites.configured, added, seconds, attempt + 1, recovered, why)
        payload, configured = self.collector.payload(), len(self.sites.configured)
        moment = Moment(self._run, round_, attempt)
        oldest = min((self._reached.get(site, 0) for site in self.sites.left()), default=round_)
        roster = roster_digest(self.collector.prepares)
        revealed = sealed.Revealed(moment, tuple(added), configured, entry["val_score"], payload, roster)
        self.state.done(revealed, entry, oldest)
        self.log_info(self._context, self.record.line(self.rounds))

    def _finish(self) -> None:
        self.log_info(self._context, "every site now judges the models on its own patients")
        self.sites.begin_round(self.rounds)
        moment = Moment(self._run, self.rounds, 0)

        def take(site: str, result: Shareable) -> None:
            reply = sealed.read_reply(result, wire.FINISH, self.about.get("names"))
            said = statements.read_own(site, reply.statement, "judged", moment, self.collector.authority)
            if said["job"] != self._job:
                raise statements.refused(site, "the end of another job", "the job that it joined")
            self._models[site] = said["model"]
            self.record.scores(site, reply.meta["scores"])

        asked = self.sites.present()
        call = sealed.Call(moment, self.rounds, revealed=self._sums(asked))
        judged = self._ask(wire.FINISH, call, take, self.round_timeout_s)
        most = self._majority(self._models, "the final model", "one model at every site")
        for site in sorted(site for site, model in self._models.items() if model != most):
            self.sites.lose(site, self.rounds, "it holds another final model than most hospitals")
        self.record.run["model"]["sha256"] = most
        if judged == asked:
            places.finish(self._context)

    def _ask(
        self,
        task: str,
        call: sealed.Call,
        take: Any,
        timeout_s: int | None = None,
        sites: Sequence[str] | None = None,
        enough: int | None = None,
    ) -> list[str]:
        timeout_s = self.step_timeout_s if timeout_s is None else timeout_s
        message = sealed.call_message(call)
        round_, ask = call.moment.round, self.sites.ask
        answered = ask(task, round_, message, take, self._abort, self._context, sites, timeout_s, enough)
        if self._abort.triggered:
            raise ConfigRefused(
                "the run",
                found="aborted",
                expected="a run to its end",
                fix="start it again; with a state folder it goes on",
            )
        return answered


def reached(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return by site the last round that it trained: it has the model that this round began with."""
    return {site: entry["round"] for entry in history for site in entry["trained"]}
