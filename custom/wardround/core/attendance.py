"""Who takes part in a run, who is missing in this round and why, and who is out?

A site that COULD NOT reply (it is silent, not connected, out of memory, or its disk is
full) is missing in this round and is asked again in the next one. A site that WOULD NOT
(it refused), or whose answer was rejected, is out: it is not asked again, because that
needs a person. None of this is ever silent: every case is logged, and a site that is
out appears in the report as a problem.

This file knows neither a clock nor the network: its caller says what happened.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Protocol

SILENT = "no answer in time"
NOT_CONNECTED = "not connected"
JOIN_ROUND = -1
"""The number of the round in which everything before the first round happens."""

_log = logging.getLogger(__name__)


class Problems(Protocol):
    """Where the loss of a site is written down (run_log.py)."""

    def problem(self, text: str, site: str | None = None) -> None:
        """Note something that makes the run incomplete.

        site: the site that was lost by it, if one was.
        """
        ...


class Attendance:
    """The sites of one run, and what has become of each.

    configured: the sites of the job, by name, each once.
    num_rounds: how many rounds the run has; round `num_rounds` is the final evaluation.
    out: for each site that is not asked again, the reason.
    missing: for each site that is not in this round, the reason. A site that is out is
        missing in every round.
    returned: the sites that were started again since somebody last emptied this set.
    round: the round that is going on.
    """

    def __init__(self, configured: Iterable[str], num_rounds: int, problems: Problems) -> None:
        self.configured = sorted(set(configured))
        self.num_rounds = num_rounds
        self.out: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.returned: set[str] = set()
        self.round = JOIN_ROUND
        self._problems = problems
        # Answers are read in threads of the network, the run goes on in its own, and an
        # admin's question comes in a third. Whoever looks at two of the fields, or
        # writes, holds the lock; it is reentrant because `miss` may become `lose`.
        self._lock = threading.RLock()

    def begin_round(self, round_: int) -> None:
        """Give every site that is not out a new chance.

        With `num_rounds` as the round, the final evaluation begins.
        """
        with self._lock:
            # What was missing in the round before is forgotten; what is out stays out.
            self.missing = dict(self.out)
            self.round = round_

    def left(self) -> list[str]:
        """Return the sites that are not out."""
        with self._lock:
            return [site for site in self.configured if site not in self.out]

    def present(self) -> list[str]:
        """Return the sites that have not gone missing in this round."""
        with self._lock:
            return [site for site in self.configured if site not in self.missing]

    def lose(self, site: str, reason: str, round_: int | None = None) -> None:
        """Take a site out of the run. Only the first reason is kept.

        round_: the round in which it happened, if it is not the one that is going on.
        """
        with self._lock:
            if site in self.out:
                return
            self.out[site] = reason
            self.missing[site] = reason
            when = self.when(round_)
            words = f"{site} was lost in {when}: {reason} (see that site's own log)"
            self._problems.problem(words, site)
        _log.error(f"LOST {site} in {when}: {reason}")

    def miss(self, site: str, reason: str, round_: int | None = None) -> None:
        """Note that a site could not reply.

        The final evaluation has no next round, so there the site is lost.
        """
        with self._lock:
            if self._which(round_) >= self.num_rounds:
                self.lose(site, reason, round_)
                return
            if site in self.missing:
                return
            self.missing[site] = reason
            when = self.when(round_)
        _log.warning(f"MISSING {site} in {when}: {reason}; it is asked again in the next round")

    def came_back(self, site: str) -> None:
        """Note that a site was started again."""
        with self._lock:
            self.returned.add(site)
        _log.warning(f"RETURNED {site}: it takes part again")

    def when(self, round_: int | None = None) -> str:
        """Return a round in words, for example "round 2".

        The default is the round that is going on.
        """
        which = self._which(round_)
        if which < 0:
            return "the join"
        return f"round {which + 1}" if which < self.num_rounds else "the final evaluation"

    def _which(self, round_: int | None) -> int:
        return self.round if round_ is None else round_
