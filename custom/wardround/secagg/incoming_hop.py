"""What is a site of the ring handed, and is it what the site before signed?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

from wardround.messages import statements
from wardround.messages.identity import Authority
from wardround.messages.statements import Moment, Signed


@final
@dataclass(frozen=True)
class Incoming:
    """What a site of the ring is handed; no statement and no payload for the first."""

    ready: tuple[str, ...]
    done: tuple[str, ...]
    statement: Signed | None
    payload: bytes

    def checked(self, moment: Moment, roster: str, grid: str, authority: Authority) -> bytes:
        """Return the payload once its statement was checked; else RoundRefused names the
        site that sent it.

        roster: the digest of who takes part.
        grid: the digest of this round's grid, as it is sent.
        """
        sender = self.done[-1]
        if self.statement is None:
            raise statements.refused(sender, "a hop without its statement", "the statement that it signed")
        said = statements.read(self.statement, ["hop"], moment, authority)
        expected = (sender, list(self.done), roster, grid)
        if (said["site"], said["done"], said["roster"], said["grid"]) != expected:
            raise statements.refused(sender, "a hop of another order or grid", "this round's")
        if said["sha256"] != hashlib.sha256(self.payload).hexdigest():
            raise statements.refused(sender, "a hop that was altered on its way", "the payload as it was signed")
        return self.payload
