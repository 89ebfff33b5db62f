"""One attempt at one hidden sum, at the server: [prepare] train [hop, hop, ...] [unmask]; its sum is then in the collector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from nvflare.apis.shareable import Shareable

from wardround.errors import ConfigRefused, RoundRefused
from wardround.flare import sealed, wire
from wardround.flare.asking import Take
from wardround.flare.record import RunRecord, absent
from wardround.privacy import statements
from wardround.privacy.collector import Collector
from wardround.privacy.participant import ring_order
from wardround.privacy.protection import Protection
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

    @property
    def least(self) -> int:
        """Return how many sites a sum must hold: min_sites; with masks, those that open them."""
        opens = self.protection.threshold_of(len(self.joins)) if self.protection.masks else 0
        return max(self.protection.min_sites, opens)

    def run(self, round_timeout_s: int) -> list[str]:
        """Run the attempt until its sum is open in the collector; return the sites whose masks were removed."""
        prepares = self._prepare() if self.protection.masks else ()
        self.collector.begin(self.moment, prepares)
        call = sealed.Call(self.moment, self.rounds, self.joins, prepares, self.sums)
        trained = self.ask(wire.TRAIN, call, self._take_update, round_timeout_s, enough=self.least)
        self.record.traffic(down=len(trained) * sum(len(one.payload) for one in self.sums))
        self.collector.require_agreement()
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
            peers = {statements.peek(one)["site"] for one in self.joins}
            if set(said["shares"]) != peers:
                raise statements.refused(site, f"shares for {len(said['shares'])} sites", "for those that joined")
            found[site] = signed

        self.ask(sealed.PREPARE, sealed.Call(self.moment, self.rounds, self.joins), take, enough=self.least)
        return tuple(found[site] for site in sorted(found))

    def _take_update(self, site: str, result: Shareable) -> None:
        reply = sealed.read_reply(result, wire.TRAIN)
        facts = reply.meta["facts"]
        wire.require_version(site, facts)
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
            said = statements.read_own(site, signed, "unmask", call.moment, self.collector.authority)
            if set(said["shares"]) != set(self.collector.roster):
                raise statements.refused(site, f"shares of {len(said['shares'])} sites", "of those that prepared")
            answers[site] = signed

        asked = sealed.Call(
            call.moment, self.rounds, call.joins, call.prepares, survivors=tuple(sorted(self.collector.added))
        )
        enough = self.protection.threshold_of(len(call.joins))
        self.ask(sealed.UNMASK, asked, take, sites=list(self.collector.added), enough=enough)
        try:
            return self.collector.unmask(answers)
        except RoundRefused as refusal:  # who answered has given its shares for THIS sum and refuses any other
            raise ConfigRefused(
                f"round {call.moment.round + 1} cannot be opened, nor run again: {refusal.what}",
                found=refusal.found,
                expected=refusal.expected,
                fix="mend the sites named in this log and start the job anew",
            ) from refusal
