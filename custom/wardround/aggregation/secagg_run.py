"""How does the server run a secure sum? As a generator that never has the model.

It asks, checks, adds and relays:

    join once
    in every round   [prepare]  train  [hop, hop, ...]  [unmask]
    finish

The steps in brackets happen where the secure sum needs them. A site that goes missing
after `prepare` is left out, and its masks are removed. If too few sites are present for
that, the round is run once more with those that are: they keep their integers, so
nothing is trained twice. In the next round a missing site is asked again and is handed
the sums that it lacks, so every site comes to the same model by the same sums. A late
update never counts in another round: its mask, and under differential privacy its
charge, belong to its own.

What is yielded and sent in is described in core/stages.py. The run knows neither
NVFlare nor a clock, and no folder but that of its state.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, final

from wardround.aggregation.secagg_attempt import Attempt
from wardround.aggregation.secagg_join import Joins, majority
from wardround.aggregation.secagg_state import SecAggState
from wardround.core.attendance import Attendance
from wardround.core.errors import RoundRefused
from wardround.core.rng import secret
from wardround.core.run_log import RunLog, absent
from wardround.core.stages import TRAINING, Ask, Replies, Run
from wardround.messages import statements
from wardround.messages.secagg import FINISH, Call, Reply, Revealed
from wardround.messages.statements import Moment
from wardround.secagg.roster import roster_digest
from wardround.secagg.server import SecAggServer
from wardround.secagg.spec import SecAggSpec

ATTEMPTS = 3
"""How often a round is tried. Every attempt has fewer sites than the one before."""

_log = logging.getLogger(__name__)


@final
class SecAggRun:
    """One run of the server; a ServerRun (core/stages.py).

    secagg: the job's settings of the sum, the same as at the sites.
    secagg_server: adds, and checks who says what.
    key_id: of the sum key in the server's own kit, "" without encryption.
    num_rounds: how many rounds the whole run has.
    fingerprint: of the network that every site must train.
    """

    def __init__(
        self,
        secagg: SecAggSpec,
        secagg_server: SecAggServer,
        key_id: str,
        state: SecAggState,
        record: RunLog,
        num_rounds: int,
        fingerprint: str,
    ) -> None:
        self.secagg = secagg
        self.secagg_server = secagg_server
        self.state = state
        self.record = record
        self.num_rounds = num_rounds
        self.fingerprint = fingerprint
        # Every start of the server is a run of its own, with keys of its own.
        self._name = secret(16).hex()
        self._joins = Joins(
            secagg,
            secagg_server.authority,
            key_id,
            self._name,
            num_rounds,
            begun=state.round,
        )
        self._reached = reached(state.history)

    @property
    def done(self) -> int:
        """Return how many rounds are done."""
        return self.state.round

    def best(self) -> dict[str, Any] | None:
        """Return the round whose incoming model scored best, with its score, or None."""
        return self.record.best(self.state.history, self.num_rounds)

    def run(self, attendance: Attendance) -> Run:
        """Have the sites join, run the remaining rounds, evaluate the final model.

        Fewer sites than a sum must hold, or more than it has room for, raise
        ConfigRefused.
        """
        self.secagg.require_enough(len(attendance.configured), "the sites of this run")
        yield from self._joins.ask(attendance.left(), attendance)
        for round_ in range(self.state.round, self.num_rounds):
            yield from self._round(round_, attendance)
        return (yield from self._judge(attendance))

    def _round(self, round_: int, attendance: Attendance) -> Generator[Ask, Replies, None]:
        self.record.begin_round(round_, 0)
        attendance.begin_round(round_)
        yield from self._join_again(attendance)
        for attempt in range(ATTEMPTS):
            there = attendance.present()
            words = f"round {round_ + 1}: the sites that are there ({absent(attendance.missing)})"
            self.secagg.require_enough(len(there), words)
            again = f", attempt {attempt + 1}" if attempt else ""
            _log.info(f"round {round_ + 1}/{self.num_rounds} begins with {len(there)} sites{again}")
            moment = Moment(self._name, round_, attempt)
            try:
                recovered = yield from self._attempt(moment, there, attendance).run()
                break
            except RoundRefused as refusal:
                # With the same sites it would fail the same way.
                if attempt + 1 == ATTEMPTS or len(attendance.present()) == len(there):
                    raise
                _log.warning(f"round {round_ + 1} is run again without the missing sites: {refusal}")
        self._close(moment, recovered, attendance)

    def _join_again(self, attendance: Attendance) -> Generator[Ask, Replies, None]:
        """Have sites join that were started again, or that were not present before."""
        self._joins.forget(attendance.returned)
        attendance.returned.clear()
        if strangers := self._joins.strangers(attendance.present()):
            yield from self._joins.ask(strangers, attendance)

    def _attempt(self, moment: Moment, there: Sequence[str], attendance: Attendance) -> Attempt:
        return Attempt(
            moment=moment,
            num_rounds=self.num_rounds,
            secagg=self.secagg,
            secagg_server=self.secagg_server,
            record=self.record,
            attendance=attendance,
            fingerprint=self.fingerprint,
            joins=self._joins.of(there),
            sums=self._sums(there),
        )

    def _sums(self, sites: Iterable[str]) -> tuple[Revealed, ...]:
        """Return the sums that one of these sites may lack."""
        behind = min((self._reached.get(site, 0) for site in sites), default=self.state.round)
        return self.state.since(behind)

    def _close(self, moment: Moment, recovered: Sequence[str], attendance: Attendance) -> None:
        """Write down the sum that lies open in the SecAggServer."""
        added = sorted(self.secagg_server.added)
        configured = attendance.configured
        _log.info(f"{len(added)} of {len(configured)} sites are in the sum")
        # Who voted on what the round starts from has its model, whether it is in the
        # sum or not.
        self._reached |= dict.fromkeys(self.secagg_server.agreed, moment.round)
        why = {site: reason for site, reason in attendance.missing.items() if site not in added}
        entry = self.record.end_round(
            configured,
            added,
            self.record.seconds(),
            attempts=moment.attempt + 1,
            recovered=recovered,
            missing=why,
        )
        revealed = Revealed(
            moment,
            tuple(added),
            len(configured),
            entry["val_score"],
            self.secagg_server.payload(),
            roster_digest(self.secagg_server.prepares),
        )
        oldest = min(
            (self._reached.get(site, 0) for site in attendance.left()),
            default=moment.round,
        )
        self.state.add(revealed, entry, oldest)
        _log.info(self.record.line(self.num_rounds))

    def _judge(self, attendance: Attendance) -> Generator[Ask, Replies, bool]:
        """Have every site evaluate the models, and compare their final digests."""
        _log.info("every site now evaluates the models on its own patients")
        attendance.begin_round(self.num_rounds)
        moment = Moment(self._name, self.num_rounds, 0)
        models: dict[str, str] = {}

        def take(site: str, reply: Reply) -> None:
            authority = self.secagg_server.authority
            said = statements.read_own(site, reply.statement, "judged", moment, authority)
            if said["job"] != self._joins.job:
                raise statements.refused(site, "the end of another job", "the job that it joined")
            models[site] = said["model"]
            self.record.scores(site, reply.meta["scores"])

        asked = attendance.present()
        call = Call(moment, self.num_rounds, revealed=self._sums(asked))
        replies = yield Ask(FINISH, call, take, deadline=TRAINING)
        most = majority(models, "the final model", "one model at every site")
        for site in sorted(site for site, model in models.items() if model != most):
            attendance.lose(site, "it holds another final model than most hospitals")
        self.record.run["model"]["sha256"] = most
        return list(replies.answered) == asked


def reached(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return by site the last round that it trained.

    It has the model with which this round began.
    """
    return {site: entry["round"] for entry in history for site in entry["trained"]}
