"""How does the server run a plaintext job? It reads the updates of single sites.

It also holds the model.

    in every round   train    the order: weights, round, and whose last update did not
                              count; every update is read once, and folded in or held
                              as the aggregation needs it
                     step     the server optimizer applies the aggregate; then all is
                              on the disk
    at the end       finish   the final weights; every site evaluates them on its own
                              patients

A round closes with `min_clients` updates or more. The run is a generator
(core/stages.py): whoever sends the Asks notes in `Attendance` which sites are silent,
late or refuse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

from wardround.core.arrays import Array, Arrays, size_bytes
from wardround.core.attendance import Attendance
from wardround.core.errors import RoundRefused
from wardround.core.run_log import RunLog, absent
from wardround.core.stages import (
    Aggregate,
    Aggregation,
    Ask,
    Replies,
    Rounds,
    Run,
    Update,
)
from wardround.messages import plaintext
from wardround.messages.plaintext import Order
from wardround.messages.versions import require_version

_log = logging.getLogger(__name__)


class ServerModel(Protocol):
    """The model at the server, and what is kept so that the run can be resumed.

    It is training/global_model.py.

    round: how many rounds are done.
    history: the entries of these rounds.
    memory: numbers and arrays that the aggregation keeps between rounds.
    best: the round whose incoming model scored best.
    """

    round: int
    history: list[dict[str, Any]]
    memory: dict[str, Any]
    best: dict[str, Any] | None

    def wire(self) -> Arrays:
        """Return every variable under its wire names, as the next round starts from it."""
        ...

    def final(self) -> Arrays:
        """Return every variable of the final model, once all rounds are done."""
        ...

    def require_fits(self, site: str, found: str, delta: Arrays, travelling: Collection[str]) -> None:
        """Raise a Refusal unless a site's network is this one and its update fits.

        The update must hold exactly the blocks that travel.
        """
        ...

    def step(self, mean: Mapping[str, Array], participation: float, entry: dict[str, Any]) -> None:
        """Apply the server optimizer, and write model, history and memory at once."""
        ...

    def finish(self, val_score: float | None, out: Path) -> None:
        """Write the final model and the best one."""
        ...


class Opener(Protocol):
    """Opens compressed updates (compression/opening.py)."""

    def opened(self, site: str, payload: Mapping[str, Any], round_: int) -> Mapping[str, Array]:
        """Return the update that a message stands for, or raise a Refusal."""
        ...

    def settle(self, counted: Collection[str]) -> None:
        """Continue from the messages of these sites. Those of all others did not count."""
        ...


@dataclass(frozen=True)
class RoundContext:
    """What an aggregation is given of one round (collect.Context)."""

    message: Order
    need: int
    read: Callable[[str, Any], Update]
    memory: dict[str, Any]


@final
class PlaintextRun:
    """The run of a plaintext job.

    travelling: the names of the blocks that an update holds.
    aggregation: how one update is made of those of the sites.
    num_rounds: how many rounds the run has.
    min_clients: how many updates each round needs.
    out: the folder for the final and the best model.
    opening: opens compressed updates; None means that they come as float32.
    """

    def __init__(
        self,
        model: ServerModel,
        travelling: Collection[str],
        aggregation: Aggregation,
        record: RunLog,
        num_rounds: int,
        min_clients: int,
        out: Path,
        opening: Opener | None = None,
    ) -> None:
        self.model = model
        self.record = record
        self._travelling = travelling
        self._aggregation = aggregation
        self._rounds = num_rounds
        self._min_sites = min_clients
        self._out = out
        self._opening = opening
        # Site -> its patients, as it last said: what share of all patients a round has.
        self._weights: dict[str, float] = {}

    @property
    def done(self) -> int:
        """Return how many rounds are done."""
        return self.model.round

    def best(self) -> dict[str, Any] | None:
        """Return the round whose incoming model scored best, with its score, or None."""
        return self.model.best

    def run(self, attendance: Attendance) -> Run:
        """Run the remaining rounds, and then the final evaluation.

        A run with too few sites raises RoundRefused before its first round.
        """
        require_sites(len(attendance.configured), self._min_sites, self.record.simulator)
        for round_ in range(self.model.round, self._rounds):
            yield from self._round(round_, attendance)
        return (yield from self._finish(attendance))

    def _round(self, round_: int, there: Attendance) -> Rounds:
        there.begin_round(round_)
        _log.info(f"round {round_ + 1}/{self._rounds} begins with {len(there.present())} sites")
        self.record.begin_round(round_, size_bytes(self.model.wire()))

        def read(site: str, reply: plaintext.Update) -> Update:
            return self._read(site, reply, round_)

        context = RoundContext(self._order(round_, self.model.wire(), there), self._min_sites, read, self.model.memory)
        done: list[str] = []
        aggregate = yield from self._asked(self._aggregation.round(context), there, done)
        for site, why in sorted(aggregate.flagged.items()):
            _log.warning(f"FLAGGED {site} in round {round_ + 1} by {self._aggregation.name}: {why}")
        entry = self.record.end_round(
            there.configured,
            done,
            self.record.seconds(),
            missing=there.missing,
            flagged=aggregate.flagged,
        )
        if self._opening is not None:
            # Before the step, which writes the memory down: a site hears from `missed`
            # whether its message counted.
            self._opening.settle(done)
        # The step is refused, and the model of the round before stays, where the
        # aggregate is not finite.
        self.model.step(aggregate.params, self._participation(done, there.configured), entry)
        _log.info(self.record.line(self._rounds))
        return aggregate

    def _order(self, round_: int, weights: Arrays, there: Attendance) -> Order:
        counted = last_counted(self.model.history)
        missed = {site: counted.get(site, 0) for site in there.present() if counted.get(site, 0) != round_}
        return Order(weights, round_, self._rounds, missed)

    def _read(self, site: str, reply: plaintext.Update, round_: int) -> Update:
        """Return a site's update.

        It was read strictly from the wire. Here it must be of this job and version.
        """
        require_version(site, reply.facts)
        delta = reply.delta
        if self._opening is not None:
            delta = self._opening.opened(site, delta, round_)
        self.model.require_fits(site, reply.facts["fingerprint"], delta, self._travelling)
        return Update(delta, reply.weight, reply.numbers)

    def _asked(self, num_rounds: Rounds, there: Attendance, done: list[str]) -> Rounds:
        """Pass on what an aggregation asks, and note what it accepts.

        Too few updates raise RoundRefused.

        done: is filled with the sites whose updates were accepted.
        """
        ask = next(num_rounds)
        while True:
            # Noted after the aggregation has accepted it: what it refuses is in no log
            # entry.
            replies = yield replace(ask, take=self._noting(ask.take))
            done[:] = replies.answered
            if len(done) < self._min_sites:
                num_rounds.close()
                raise self._too_few(done, there)
            try:
                ask = num_rounds.send(replies)
            except StopIteration as end:
                aggregate: Aggregate = end.value
                return aggregate

    def _noting(self, take: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
        def taken(site: str, reply: plaintext.Update) -> None:
            take(site, reply)
            sent = sum(int(array.nbytes) for array in reply.delta.values())
            self.record.update(site, reply.numbers, reply.facts, sent)
            self._weights[site] = reply.weight

        return taken

    def _too_few(self, done: Sequence[str], there: Attendance) -> RoundRefused:
        return RoundRefused(
            f"{there.when()} has too few sites",
            found=f"{len(done)} of {len(there.configured)} sites; {absent(there.missing)}",
            expected=f"at least {self._min_sites} (min_clients)",
            fix="mend the sites named in this log and run the job again",
        )

    def _participation(self, done: Sequence[str], configured: Sequence[str]) -> float:
        """Return the share of all patients that took part.

        A site that never answered counts as an average one.
        """
        known = [self._weights[site] for site in configured if site in self._weights]
        unknown = (len(configured) - len(known)) * sum(known) / len(known)
        return min(1.0, sum(self._weights[site] for site in done) / (sum(known) + unknown))

    def _finish(self, there: Attendance) -> Run:
        _log.info("every site now evaluates the models on its own patients")
        there.begin_round(self._rounds)
        asked = tuple(there.present())
        replies = Replies(())
        try:
            order = self._order(self._rounds, self.model.final(), there)
            replies = yield Ask(plaintext.FINISH, order, self.record.scores)
        finally:
            # Also where the run is aborted here: all rounds are done, and the model is
            # there.
            self.model.finish(self.record.final_val_score(), self._out)
        return replies.answered == asked


def require_sites(sites: int, min_clients: int, simulator: bool) -> None:
    """Raise RoundRefused before a run that can never have enough sites."""
    if sites < min_clients:
        words = f"{sites} site{'s' if sites != 1 else ''}, the job needs {min_clients} (min_clients)"
        advice = f"-n {min_clients}, or name so many sites with -c" if simulator else "start the sites that are missing"
        raise RoundRefused(
            words,
            found=f"{sites} in this run",
            expected=f"{min_clients} or more",
            fix=advice,
        )


def last_counted(history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return by site how many rounds had passed when its update last counted."""
    return {site: entry["round"] + 1 for entry in history for site in entry["aggregated"]}
