"""What the server of a secure sum asks, and what a site answers, as plain values.

These are the contents of the messages. flare/secagg_messages.py writes them on the wire
and reads them strictly; messages/statements.py lists who may say what. A site answers
each task with a signed statement, and with this beside it:

    join, prepare, unmask   nothing; where there are complaints, a justification
    train                   star: a payload; ring: that it is ready; or a complaint
    hop                     a payload
    finish                  the digest of the final model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from wardround.messages.statements import Moment, Signed

JOIN = "join"
PREPARE = "prepare"
TRAIN = "train"
HOP = "hop"
UNMASK = "unmask"
FINISH = "finish"
TASKS = (JOIN, PREPARE, TRAIN, HOP, UNMASK, FINISH)


@final
@dataclass(frozen=True)
class Revealed:
    """The sum of one round.

    moment: the run, the round and the attempt that led to the sum.
    sites: the sites whose updates are in the sum.
    configured: how many sites the run has.
    val_score: the mean validation score of the model that these sites started from.
    payload: the sum itself, as bytes.
    roster: the digest of the statements of the sites that took part (secagg/roster.py),
        for the sites that did not.
    """

    moment: Moment
    sites: tuple[str, ...]
    configured: int
    val_score: float | None
    payload: bytes
    roster: str = ""


@final
@dataclass(frozen=True)
class Call:
    """Server to site: the moment, and what the task needs.

    joins: the statements of the sites that joined the run.
    prepares: the statements that say which sites take part. Without masks these are the
        `join` statements of the sites in the round.
    revealed: the sums since the round of the site that is furthest behind. The other
        sites skip those that they have already.
    survivors: the sites whose masks are to be opened.
    ready: ring: the sites that have trained.
    done: ring: the sites that have added their update so far.
    hop: ring: the statement of the last hop.
    payload: ring: the payload of the last hop.
    begun: how many rounds were done when the server began.
    complaints: complaints about shares that the receiver of this call has sent.
    """

    moment: Moment
    num_rounds: int
    joins: tuple[Signed, ...] = ()
    prepares: tuple[Signed, ...] = ()
    revealed: tuple[Revealed, ...] = ()
    survivors: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    hop: Signed | None = None
    payload: bytes = b""
    begun: int = 0
    complaints: tuple[Signed, ...] = ()


@final
@dataclass(frozen=True)
class Reply:
    """Site to server.

    payload: the bytes that the statement speaks of; b"" where its kind has none.
    meta: the numbers that go with the task, as flare/secagg_messages.py lists them.
    """

    statement: Signed
    payload: bytes
    meta: Mapping[str, Any]
