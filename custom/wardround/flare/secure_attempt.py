"""One attempt at one hidden sum, at the server: [prepare] train [hop, hop, ...] [unmask]; its sum is then in the collector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from nvflare.apis.shareable import Shareable

from wardround.core.run_log import absent
from wardround.errors import ConfigRefused, RoundRefused
from wardround.flare import sealed, wire
from wardround.flare.asking import Take
from wardround.flare.record import RunRecord
from wardround.messages.versions import require_version
from wardround.privacy import statements
from wardround.privacy.collector import Collector
from wardround.privacy.protection import Protection
from wardround.privacy.roster import require_prepare, ring_order
from wardround.privacy.statements import Moment, Signed


class Ask(Protocol):
    """How the sites are asked (asking.py): whom, how long (None: as for every step), how many are enough."""

    def __call__(
        self,
        task: str,
        call: sealed.Call,
        take: Take,
        timeout_s: int | None = None,
        sites: Sequence[str] | None = None,
        enough: int | None = None,
    ) -> list[str]:
        """Return the sites whose answer was accepted."""


@final
@dataclass(frozen=True)
class Attempt:
    """moment: which one | rounds: of the whole run | fingerprint: of the network that every site must train

    joins: of the sites that are there | sums: those that one of them may lack | missing: why, by site, as it changes
    lose: take a site that lied out of the run, with the reason
    """

    moment: Moment
    rounds: int
    protection: Protection
    collector: Collector
    record: RunRecord
    fingerprint: str
    joins: tuple[Signed, ...]
    sums: tuple[sealed.Revealed, ...]
    missing: Mapping[str, str]
    ask: Ask
    lose: Callable[[str, str], None]

    @property
    def least(self) -> int:
        """Return how many sites a sum must hold: min_sites; with masks, those that open them."""
        opens = self.protection.threshold_of(len(self.joins)) if self.protection.masks else 0
        return max(self.protection.min_sites, opens)

    def run(self, round_timeout_s: int) -> list[str]:
        """Run the attempt until its sum is open in the collector; return the sites whose masks were removed."""
        prepares = self._prepare() if self.protection.masks else self.joins
        self.collector.begin(self.moment, prepares)
        call = sealed.Call(self.moment, self.rounds, self.joins, prepares, self.sums)
        trained = self.ask(wire.TRAIN, call, self._take_update, round_timeout_s, enough=self.least)
        self.record.traffic(down=len(trained) * sum(len(one.payload) for one in self.sums))
        if self.collector.complaints:
            self._resolve(call)
        for site, reason in self.collector.settle().items():
            self.lose(site, reason)
        trained = [site for site in trained if site not in self.missing]
        if self.protection.ring:
            self._around(call, trained)
        added = len(self.collector.added)
        if added < self.least:
            raise RoundRefused(
                f"round {self.moment.round + 1} has too few sites",
                found=f"{added} sites in the sum; {absent(self.missing)}",
                expected=f"at least {self.least} (min_sites; with masks, those that open them)",
                fix="mend the sites named in this log and run the job again",
            )
        return self._unmask(call) if self.protection.masks else []

    def _prepare(self) -> tuple[Signed, ...]:
        found: dict[str, Signed] = {}

        def take(site: str, result: Shareable) -> None:
            signed = sealed.read_reply(result, sealed.PREPARE).statement
            said = statements.read_own(site, signed, "prepare", self.moment, self.collector.authority)
            require_prepare(said, self.joins)
            found[site] = signed

        self.ask(sealed.PREPARE, sealed.Call(self.moment, self.rounds, self.joins), take, enough=self.least)
        return tuple(found[site] for site in sorted(found))

    def _resolve(self, call: sealed.Call) -> None:
        """Find out who lied where a share did not open, take that site out, and have the round run again without it.

        Nothing was opened yet, and an attempt that is run again has fresh keys: what is shown here tells nothing more.
        """
        answers: dict[str, Signed] = {}

        def take(site: str, result: Shareable) -> None:
            signed = sealed.read_reply(result, sealed.UNMASK).statement
            statements.read_own(site, signed, "justify", call.moment, self.collector.authority)
            answers[site] = signed

        for accused, accusers in self.collector.accused().items():
            complaints = tuple(self.collector.complaints[accuser] for accuser in accusers)
            asked = sealed.Call(call.moment, self.rounds, prepares=call.prepares, complaints=complaints)
            self.ask(sealed.UNMASK, asked, take, sites=[accused])
        liars = self.collector.judge(call.joins, answers)
        for site, reason in liars.items():
            self.lose(site, reason)
        raise RoundRefused(
            f"the shares of round {call.moment.round + 1}",
            found=f"shares that do not open; {absent(self.missing)}",
            expected="a share from every site that opens at every other",
            fix="the round is run again without the sites that lied; ask them what they run",
        )

    def _take_update(self, site: str, result: Shareable) -> None:
        reply = sealed.read_reply(result, wire.TRAIN)
        if statements.peek(reply.statement)["kind"] == "complain":
            self.collector.complain(site, reply.statement)
            return
        facts = reply.meta["facts"]
        require_version(site, facts)
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
                call.moment, self.rounds, (), call.prepares, (), (), tuple(ready), done, statement, payload
            )
            self.record.traffic(down=len(payload))
            self.ask(sealed.HOP, hop, take, sites=[site])

    def _unmask(self, call: sealed.Call) -> list[str]:
        answers: dict[str, Signed] = {}

        def take(site: str, result: Shareable) -> None:
            signed = sealed.read_reply(result, sealed.UNMASK).statement
            self.collector.read_shares(site, signed)
            answers[site] = signed

        asked = sealed.Call(
            call.moment, self.rounds, call.joins, call.prepares, survivors=tuple(sorted(self.collector.added))
        )
        enough = self.protection.threshold_of(len(call.joins))
        self.ask(sealed.UNMASK, asked, take, sites=list(self.collector.added), enough=enough)
        try:
            return self.collector.unmask(answers)
        except RoundRefused as refusal:  # who answered has given its shares for THIS sum and refuses any other
            for site, reason in self.collector.blamed.items():
                self.lose(site, reason)
            raise ConfigRefused(
                f"round {call.moment.round + 1} cannot be opened, nor run again: {refusal.what}",
                found=refusal.found,
                expected=refusal.expected,
                fix="mend the sites named in this log and start the job anew",
            ) from refusal
