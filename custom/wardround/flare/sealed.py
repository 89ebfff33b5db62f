"""The messages of a hidden sum, and their strict reading: a call down, a signed statement with its payload up.

    join, prepare, unmask   a statement of privacy/statements.py, nothing else
    train                   its payload (star) or that it is ready (ring), with NUMBERS and SITE_FACTS of wire.py
    hop                     its payload
    finish                  the digest of the final model, with SCORES

Where the job hides the numbers of patients (`patients_hidden`), SITE_FACTS and SCORES travel without any count of patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable

from wardround.flare import wire
from wardround.privacy import statements
from wardround.privacy.statements import Moment, Signed

JOIN, PREPARE, HOP, UNMASK = "join", "prepare", "hop", "unmask"
TASKS = (JOIN, PREPARE, wire.TRAIN, HOP, UNMASK, wire.FINISH)
KINDS = {
    JOIN: ("join",),
    PREPARE: ("prepare",),
    wire.TRAIN: ("submit", "ready"),
    HOP: ("hop",),
    UNMASK: ("unmask",),
    wire.FINISH: ("judged",),
}
META = {wire.TRAIN: {"numbers": wire.NUMBERS, "facts": wire.SITE_FACTS}, wire.FINISH: {"scores": wire.SCORES}}
_SIGNED = ("text", "signature", "certificate")


@dataclass(frozen=True)
class Revealed:
    """The sum of the round before: whose it is, the mean validation score of the model that they started from."""

    moment: Moment
    sites: tuple[str, ...]
    configured: int
    val_score: float | None
    payload: bytes


@dataclass(frozen=True)
class Call:
    """Server to site: the moment, and what the task needs.

    revealed: the sums since the round of the site that is furthest behind; others pass over what they have | begun: how many
    rounds were done when the server began | ready, done, hop, payload: the ring's state (payload: of the last hop) |
    survivors: whose masks to open
    """

    moment: Moment
    rounds: int
    joins: tuple[Signed, ...] = ()
    prepares: tuple[Signed, ...] = ()
    revealed: tuple[Revealed, ...] = ()
    survivors: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    hop: Signed | None = None
    payload: bytes = b""
    begun: int = 0


@dataclass(frozen=True)
class Reply:
    """Site to server: a statement, its payload (b"" where the kind has none), and the meta of its task."""

    statement: Signed
    payload: bytes
    meta: Mapping[str, Any]


def call_message(call: Call) -> Shareable:
    """Return the task data of a call."""
    data: dict[str, Any] = {
        "moment": list(call.moment.words),
        "rounds": call.rounds,
        "joins": [_pack(one) for one in call.joins],
        "prepares": [_pack(one) for one in call.prepares],
        "survivors": list(call.survivors),
        "ready": list(call.ready),
        "done": list(call.done),
        "hop": _pack(call.hop) if call.hop else None,
        "payload": call.payload,
        "revealed": [vars(one) | {"moment": list(one.moment.words), "sites": list(one.sites)} for one in call.revealed],
        "begun": call.begun,
    }
    return DXO(DataKind.APP_DEFINED, data=data).to_shareable()


def read_call(message: Shareable) -> Call:
    """Read task data; ReleaseRefused when it is not a Call."""
    data = wire.data_of(message, DataKind.APP_DEFINED)
    try:
        return Call(
            _moment(data["moment"]),
            int(data["rounds"]),
            tuple(_unpack(one) for one in data["joins"]),
            tuple(_unpack(one) for one in data["prepares"]),
            tuple(
                Revealed(**one | {"moment": _moment(one["moment"]), "sites": _names(one["sites"])})
                for one in data["revealed"]
            ),
            _names(data["survivors"]),
            _names(data["ready"]),
            _names(data["done"]),
            _unpack(data["hop"]) if data["hop"] is not None else None,
            bytes(data["payload"]),
            int(data["begun"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise wire.unknown("a call", f"no call ({type(error).__name__})", "one of this version") from error


def reply_message(reply: Reply) -> Shareable:
    """Return the result of a task."""
    return DXO(
        DataKind.APP_DEFINED, data=_pack(reply.statement) | {"payload": reply.payload}, meta=dict(reply.meta)
    ).to_shareable()


def read_reply(message: Shareable, task: str) -> Reply:
    """Read the result of a task; ReleaseRefused on a kind, key, type or number too many or too few."""
    data = wire.data_of(message, DataKind.APP_DEFINED)
    if set(data) != {*_SIGNED, "payload"} or not isinstance(data["payload"], bytes):
        raise wire.unknown(f"the reply to {task}", f"entries {sorted(map(str, data))[:6]}", "a statement and a payload")
    signed = _unpack({key: data[key] for key in _SIGNED})
    kind = statements.peek(signed)["kind"]
    if kind not in KINDS.get(task, ()) or (data["payload"] and kind not in ("submit", "hop")):
        raise wire.unknown(f"the reply to {task}", f"a statement of kind {kind!r}", f"{KINDS.get(task)}")
    meta = dict(wire.meta_of(message))
    wire.require_shape(meta, META.get(task, {}), f"the meta of the reply to {task}")
    return Reply(signed, data["payload"], meta)


def again_message(round_: int) -> Shareable:
    """Return what the executor hands to the exit when the update of a round is coded already. It never leaves."""
    return DXO(DataKind.APP_DEFINED, data={"again": round_}).to_shareable()


def read_again(message: Shareable) -> int | None:
    """Return the round of an `again` message, None for any other."""
    dxo_kind = wire.kind_of(message)
    data = wire.data_of(message, DataKind.APP_DEFINED) if dxo_kind == DataKind.APP_DEFINED else {}
    return int(data["again"]) if set(data) == {"again"} else None


def _pack(signed: Signed) -> dict[str, Any]:
    return {"text": signed.text, "signature": signed.signature, "certificate": signed.certificate}


def _unpack(data: Any) -> Signed:
    fits = (
        isinstance(data, dict)
        and set(data) == set(_SIGNED)
        and isinstance(data["text"], str)
        and isinstance(data["signature"], bytes)
        and isinstance(data["certificate"], bytes)
    )
    if not fits or len(data["signature"]) > 1024 or len(data["certificate"]) > 16384:
        raise wire.unknown("a statement", "another form", "text, signature and certificate")
    return Signed(data["text"], data["signature"], data["certificate"])


def _moment(words: Sequence[Any]) -> Moment:
    run, round_, attempt = words
    if not (isinstance(run, str) and type(round_) is int and type(attempt) is int):
        raise TypeError("a moment")
    return Moment(run, round_, attempt)


def _names(names: Any) -> tuple[str, ...]:
    if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) and len(name) <= 64 for name in names)):
        raise TypeError("site names")
    return tuple(names)
