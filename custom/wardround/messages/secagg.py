"""What the server of a secure sum asks, and what a site answers, as plain values.

These are the contents of the messages. How they travel, and how strictly they are read, is the
matter of flare/secagg_messages.py; who may say what, of messages/statements.py.

    join, prepare, unmask   a statement and nothing else; to complaints: a justification
    train                   a payload (star), that the site is ready (ring), or a complaint
    hop                     a payload
    finish                  the digest of the final model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from wardround.messages.statements import Moment, Signed

JOIN, PREPARE, TRAIN, HOP, UNMASK, FINISH = (
    "join",
    "prepare",
    "train",
    "hop",
    "unmask",
    "finish",
)
TASKS = (JOIN, PREPARE, TRAIN, HOP, UNMASK, FINISH)


@final
@dataclass(frozen=True)
class Revealed:
    """The sum of one round.

    sites: whose it is
    val_score: the mean validation score of the model that they started from
    roster: the digest of the statements of who took part (secagg/roster.py), for sites that did not
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

    joins, prepares: the statements that say who takes part; without masks `prepares` are the `join`
    statements of those that are in the round
    revealed: the sums since the round of the site that is furthest behind; others pass over what
    they have
    survivors: whose masks to open
    ready, done, hop, payload: the state of the ring; `payload` is that of the last hop
    begun: how many rounds were done when the server began
    complaints: about shares that the receiver of this call has sent
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

    payload: b"" where the kind of the statement has none
    meta: the numbers that go with the task, as flare/secagg_messages.py lists them
    """

    statement: Signed
    payload: bytes
    meta: Mapping[str, Any]
