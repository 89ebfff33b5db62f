"""How does the server run one attempt at one secure sum? As a generator of Asks.

    [prepare]  train  [hop, hop, ...]  [unmask]

The steps in brackets happen where the secure sum needs them. When the generator
returns, the sum lies open in the SecAggServer. It knows neither network, clock nor
files.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wardround.core.attendance import Attendance
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.run_log import RunLog, absent
from wardround.core.stages import STEP, TRAINING, Ask, Replies
from wardround.messages import statements
from wardround.messages.secagg import HOP, PREPARE, TRAIN, UNMASK, Call, Reply, Revealed
from wardround.messages.statements import Moment, Signed
from wardround.messages.versions import require_version
from wardround.secagg.roster import require_prepare, ring_order
from wardround.secagg.server import SecAggServer
from wardround.secagg.spec import SecAggSpec

Steps = Generator[Ask, Replies, None]


@final
@dataclass(frozen=True)
class Attempt:
    """One attempt.

    num_rounds: how many rounds the run has.
    fingerprint: of the network that every site must train.
    joins: the statements of the sites that are present.
    sums: the earlier sums that one of these sites may lack.
    """

    moment: Moment
    num_rounds: int
    secagg: SecAggSpec
    secagg_server: SecAggServer
    record: RunLog
    attendance: Attendance
    fingerprint: str
    joins: tuple[Signed, ...]
    sums: tuple[Revealed, ...]

    @property
    def least(self) -> int:
        """Return how many sites a sum must hold.

        It is min_clients or, with masks, the number of sites that open them, if that is
        more.
        """
        opens = self.secagg.threshold_of(len(self.joins)) if self.secagg.masks else 0
        return max(self.secagg.min_clients, opens)

    def run(self) -> Generator[Ask, Replies, list[str]]:
        """Run the attempt, and return the prepared sites whose masks were removed.

        Too few sites, or shares that do not open, raise RoundRefused, and the round may
        be run a second time. Shares that were handed out and opened nothing raise
        ConfigRefused, and the round must not be run a second time.
        """
        prepares = self.joins
        if self.secagg.masks:
            prepares = yield from self._prepare()
        self.secagg_server.begin(self.moment, prepares)
        call = Call(self.moment, self.num_rounds, self.joins, prepares, self.sums)
        trained = yield from self._train(call)
        # Before anything is opened: a round that stops here has shown nothing.
        if self.secagg_server.complaints:
            yield from self._resolve(call)
        for site, reason in self.secagg_server.settle().items():
            self.attendance.lose(site, reason)
        if self.secagg.ring:
            missing = self.attendance.missing
            yield from self._pass_around(call, [site for site in trained if site not in missing])
        self._require_enough()
        if not self.secagg.masks:
            return []
        return (yield from self._unmask(call))

    def _prepare(self) -> Generator[Ask, Replies, tuple[Signed, ...]]:
        """Collect the mask keys and the sealed shares of this attempt."""
        found: dict[str, Signed] = {}

        def take(site: str, reply: Reply) -> None:
            said = self._read(site, reply, PREPARE)
            require_prepare(said, self.joins)
            found[site] = reply.statement

        yield Ask(
            PREPARE,
            Call(self.moment, self.num_rounds, self.joins),
            take,
            need=self.least,
            deadline=STEP,
        )
        return tuple(found[site] for site in sorted(found))

    def _train(self, call: Call) -> Generator[Ask, Replies, tuple[str, ...]]:
        """Have the sites train. In a star their payloads are added as they come."""
        replies = yield Ask(TRAIN, call, self._take_update, need=self.least, deadline=TRAINING)
        handed = sum(len(one.payload) for one in self.sums)
        self.record.traffic(down=len(replies.answered) * handed)
        return replies.answered

    def _take_update(self, site: str, reply: Reply) -> None:
        if statements.peek(reply.statement)["kind"] == "complain":
            self.secagg_server.complain(site, reply.statement)
            return
        facts = reply.meta["facts"]
        require_version(site, facts)
        if facts["fingerprint"] != self.fingerprint:
            raise statements.refused(site, f"fingerprint {facts['fingerprint']}", self.fingerprint)
        if self.secagg.ring:
            self.secagg_server.ready(site, reply.statement)
        else:
            self.secagg_server.submit(site, reply.statement, reply.payload)
        self.record.update(site, reply.meta["numbers"], facts, len(reply.payload))

    def _resolve(self, call: Call) -> Steps:
        """Find out who lied where a share did not open, and take that site out.

        It always raises RoundRefused: the round is run without the liar. Nothing was
        opened yet, and the next attempt has fresh keys, so what is shown here reveals
        nothing more.
        """
        answers: dict[str, Signed] = {}

        def take(site: str, reply: Reply) -> None:
            self._read(site, reply, "justify")
            answers[site] = reply.statement

        for accused, accusers in self.secagg_server.accused().items():
            complaints = tuple(self.secagg_server.complaints[accuser] for accuser in accusers)
            asked = Call(
                self.moment,
                self.num_rounds,
                prepares=call.prepares,
                complaints=complaints,
            )
            yield Ask(UNMASK, asked, take, to=(accused,), deadline=STEP)
        for site, reason in self.secagg_server.judge(self.joins, answers).items():
            self.attendance.lose(site, reason)
        raise RoundRefused(
            f"the shares of round {self.moment.round + 1}",
            found=f"shares that do not open; {absent(self.attendance.missing)}",
            expected="a share from every site that opens at every other",
            fix="the round is run again without the sites that lied; ask them what they run",
        )

    def _pass_around(self, call: Call, ready: Sequence[str]) -> Steps:
        """Pass the sum round the ring. A site that does not answer is passed over."""
        last: Reply | None = None

        def take(site: str, reply: Reply) -> None:
            nonlocal last
            self.secagg_server.hop(site, reply.statement, reply.payload)
            last = reply
            self.record.traffic(up=len(reply.payload))

        for site in ring_order(ready, call.prepares):
            hop = Call(
                self.moment,
                self.num_rounds,
                prepares=call.prepares,
                ready=tuple(ready),
                done=tuple(self.secagg_server.added),
                hop=last.statement if last else None,
                payload=last.payload if last else b"",
            )
            self.record.traffic(down=len(hop.payload))
            yield Ask(HOP, hop, take, to=(site,), deadline=STEP)

    def _require_enough(self) -> None:
        added = len(self.secagg_server.added)
        if added < self.least:
            raise RoundRefused(
                f"round {self.moment.round + 1} has too few sites",
                found=f"{added} sites in the sum; {absent(self.attendance.missing)}",
                expected=f"at least {self.least} (min_clients; with masks, those that open them)",
                fix="mend the sites named in this log and run the job again",
            )

    def _unmask(self, call: Call) -> Generator[Ask, Replies, list[str]]:
        """Have the sites that are in the sum open its masks."""
        answers: dict[str, Signed] = {}

        def take(site: str, reply: Reply) -> None:
            self.secagg_server.read_shares(site, reply.statement)
            answers[site] = reply.statement

        inside = self.secagg_server.added
        asked = Call(
            self.moment,
            self.num_rounds,
            self.joins,
            call.prepares,
            survivors=tuple(sorted(inside)),
        )
        enough = self.secagg.threshold_of(len(self.joins))
        yield Ask(UNMASK, asked, take, to=tuple(inside), need=enough, deadline=STEP)
        try:
            return self.secagg_server.unmask(answers)
        except RoundRefused as refusal:
            for site, reason in self.secagg_server.blamed.items():
                self.attendance.lose(site, reason)
            # Who answered has given its shares for THIS sum and refuses any other one
            # of this round: the difference of two sums is the update of one hospital.
            raise ConfigRefused(
                f"round {self.moment.round + 1} cannot be opened, nor run again: {refusal.what}",
                found=refusal.found,
                expected=refusal.expected,
                fix="mend the sites named in this log and start the job again",
            ) from refusal

    def _read(self, site: str, reply: Reply, kind: str) -> Mapping[str, object]:
        authority = self.secagg_server.authority
        return statements.read_own(site, reply.statement, kind, self.moment, authority)
