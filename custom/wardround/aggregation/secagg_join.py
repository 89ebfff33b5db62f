"""The first step of a secure sum: which key and which job does a site have?

A site says it once in a run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import final

from wardround.core.attendance import Attendance
from wardround.core.errors import ConfigRefused
from wardround.core.stages import STEP, Ask, Replies
from wardround.messages import statements
from wardround.messages.identity import Authority
from wardround.messages.secagg import JOIN, Call, Reply
from wardround.messages.statements import Signed
from wardround.secagg import encryption_key
from wardround.secagg.roster import JOINED, joined, require_join
from wardround.secagg.spec import SecAggSpec


@final
class Joins:
    """The `join` statements of one run, all of one job and one sum key.

    key_id: of the sum key in the server's own kit, "" without encryption.
    run: the name of this run, fresh whenever the server starts.
    num_rounds: how many rounds the run has.
    begun: how many rounds were done when the server began.
    """

    def __init__(
        self,
        secagg: SecAggSpec,
        authority: Authority,
        key_id: str,
        run: str,
        num_rounds: int,
        begun: int,
    ) -> None:
        self.job = ""
        self._protection = secagg
        self._authority = authority
        self._key_id = key_id
        self._moment = joined(run)
        self._call = Call(self._moment, num_rounds, begun=begun)
        self._signed: dict[str, Signed] = {}

    def ask(self, sites: Sequence[str], attendance: Attendance) -> Generator[Ask, Replies, None]:
        """Have these sites join, and take out those of another job than most.

        If no job is served by more than half of the sites, it raises ConfigRefused.
        """
        yield Ask(
            JOIN,
            self._call,
            self._take,
            to=tuple(sites),
            need=self._protection.min_clients,
            deadline=STEP,
            round_=JOINED,
        )
        self._require_one_job(attendance)

    def of(self, sites: Iterable[str]) -> tuple[Signed, ...]:
        """Return the statements of those of these sites that have joined."""
        return tuple(self._signed[site] for site in sites if site in self._signed)

    def strangers(self, sites: Iterable[str]) -> list[str]:
        """Return those of these sites that have not joined."""
        return [site for site in sites if site not in self._signed]

    def forget(self, sites: Iterable[str]) -> None:
        """Forget the statements of restarted sites: their keys may be gone."""
        for site in sites:
            self._signed.pop(site, None)

    def _take(self, site: str, reply: Reply) -> None:
        said = statements.read_own(site, reply.statement, "join", self._moment, self._authority)
        if said["key_id"] != self._key_id:
            raise ConfigRefused(
                f"the sum key of {site}",
                found=f"key {said['key_id'] or 'none'} in its startup/{encryption_key.SITE_FILE}",
                expected=f"key {self._key_id or 'none'}, as in the server's startup/{encryption_key.SERVER_FILE}",
                fix=f"install at {site} the startup kit of this project",
            )
        require_join(said)
        self._signed[site] = reply.statement

    def _require_one_job(self, attendance: Attendance) -> None:
        jobs = {site: statements.peek(signed)["job"] for site, signed in self._signed.items()}
        self.job = majority(
            jobs,
            "the job that the hospitals serve, by its id and settings",
            "one job everywhere",
        )
        for site in [site for site, job in jobs.items() if job != self.job]:
            del self._signed[site]
            reason = "it serves another job, or other settings of it, than most hospitals"
            attendance.lose(site, reason, JOINED)


def majority(said: Mapping[str, str], what: str, expected: str) -> str:
    """Return what more than half of the sites said, or "" if none said anything.

    Without a majority it raises ConfigRefused, and no site is blamed.
    """
    values = list(said.values())
    most = max(values, key=values.count, default="")
    if values and 2 * values.count(most) <= len(values):
        raise ConfigRefused(
            what,
            found=f"{len(set(values))} different ones, none at more than half of {len(values)} sites",
            expected=expected,
            fix="deploy one job folder to all sites, and start the job again",
        )
    return most
