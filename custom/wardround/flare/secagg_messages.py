"""The messages of a secure sum, and their strict reading: a call goes down, and a
signed statement with its payload comes up.

    join, prepare, unmask   a statement of messages/statements.py and nothing else; to
                            an `unmask` with complaints, a justification
    train                   its payload (star), that the site is ready (ring), or a
                            complaint; with NUMBERS and SITE_FACTS
    hop                     its payload
    finish                  the digest of the final model, with SCORES

Where the job hides the numbers of patients (`patients_in_sum`), SITE_FACTS and SCORES
travel without any count of patients.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable

from wardround.core.validate import Maybe
from wardround.flare import plaintext_messages
from wardround.messages import statements
from wardround.messages.allowed_names import allowed
from wardround.messages.ranges import SCORE, STEPS
from wardround.messages.secagg import HOP, JOIN, PREPARE, TASKS, UNMASK, Call, Reply, Revealed
from wardround.messages.statements import Moment, Signed

# The values come from messages/secagg.py: the server's run knows them without NVFlare.
__all__ = [
    "HOP",
    "JOIN",
    "KINDS",
    "MOST_SITES",
    "MOST_SUMS",
    "PREPARE",
    "TASKS",
    "UNMASK",
    "Call",
    "Reply",
    "Revealed",
    "again_message",
    "call_message",
    "read_again",
    "read_call",
    "read_reply",
    "reply_message",
]
KINDS = {
    JOIN: ("join",),
    PREPARE: ("prepare",),
    plaintext_messages.TRAIN: ("submit", "ready", "complain"),
    HOP: ("hop",),
    UNMASK: ("unmask", "justify"),
    plaintext_messages.FINISH: ("judged",),
}


def _meta(task: str, words: Collection[str] | None) -> dict[str, Any]:
    """Return the shape of what stands beside a reply, with the names that the job
    lists.
    """
    if task == plaintext_messages.TRAIN:
        return {"numbers": plaintext_messages.NUMBERS, "facts": plaintext_messages.site_facts(allowed(words))}
    return {"scores": plaintext_messages.scores_shape(allowed(words))} if task == plaintext_messages.FINISH else {}


_SIGNED = ("text", "signature", "certificate")
_COUNTS = {"num_rounds": STEPS, "begun": STEPS}
_RUN, _ROSTER = re.compile(r"[0-9a-f]{1,64}"), re.compile(r"(?:[0-9a-f]{64})?")
# A site that missed rounds gets all their sums in one call. Both limits are far above
# what a run needs, and keep a forged call from filling a site's memory.
MOST_SITES, MOST_SUMS = 256, 10_000


def call_message(call: Call) -> Shareable:
    """Return the task data of a call."""
    data: dict[str, Any] = {
        "moment": list(call.moment.words),
        "num_rounds": call.num_rounds,
        "joins": [_pack(one) for one in call.joins],
        "prepares": [_pack(one) for one in call.prepares],
        "survivors": list(call.survivors),
        "ready": list(call.ready),
        "done": list(call.done),
        "hop": _pack(call.hop) if call.hop else None,
        "payload": call.payload,
        "revealed": [vars(one) | {"moment": list(one.moment.words), "sites": list(one.sites)} for one in call.revealed],
        "begun": call.begun,
        "complaints": [_pack(one) for one in call.complaints],
    }
    return DXO(DataKind.APP_DEFINED, data=data).to_shareable()


def read_call(message: Shareable) -> Call:
    """Read task data. A key too many or too few, or a value of another type or range,
    is a ReleaseRefused.
    """
    data = plaintext_messages.data_of(message, DataKind.APP_DEFINED)
    _require_keys(data, [one.name for one in fields(Call)], "a call")
    plaintext_messages.require_shape(dict(plaintext_messages.meta_of(message)), {}, "a call's meta")
    plaintext_messages.require_shape({key: data[key] for key in _COUNTS}, _COUNTS, "a call")
    return Call(
        moment=_moment(data["moment"]),
        num_rounds=data["num_rounds"],
        joins=_statements(data["joins"]),
        prepares=_statements(data["prepares"]),
        revealed=tuple(_revealed(one) for one in _list(data["revealed"], MOST_SUMS)),
        survivors=_names(data["survivors"]),
        ready=_names(data["ready"]),
        done=_names(data["done"]),
        hop=None if data["hop"] is None else _unpack(data["hop"]),
        payload=_bytes(data["payload"]),
        begun=data["begun"],
        complaints=_statements(data["complaints"]),
    )


def reply_message(reply: Reply) -> Shareable:
    """Return the result of a task."""
    return DXO(
        DataKind.APP_DEFINED, data=_pack(reply.statement) | {"payload": reply.payload}, meta=dict(reply.meta)
    ).to_shareable()


def read_reply(message: Shareable, task: str, words: Collection[str] | None = None) -> Reply:
    """Read the result of a task.

    Another kind of statement, a key too many or too few, or a value of another type or
    range is a ReleaseRefused.

    words: the names that the job lists, as for `plaintext_messages.read_update`.
    """
    data = plaintext_messages.data_of(message, DataKind.APP_DEFINED)
    if set(data) != {*_SIGNED, "payload"} or not isinstance(data["payload"], bytes):
        raise plaintext_messages.unknown(
            f"the reply to {task}", f"entries {sorted(map(str, data))[:6]}", "a statement and a payload"
        )
    signed = _unpack({key: data[key] for key in _SIGNED})
    kind = statements.peek(signed)["kind"]
    if kind not in KINDS.get(task, ()) or (data["payload"] and kind not in ("submit", "hop")):
        raise plaintext_messages.unknown(f"the reply to {task}", f"a statement of kind {kind!r}", f"{KINDS.get(task)}")
    meta = dict(plaintext_messages.meta_of(message))
    plaintext_messages.require_shape(meta, _meta(task, words), f"the meta of the reply to {task}")
    return Reply(signed, data["payload"], meta)


def again_message(round_: int) -> Shareable:
    """Return what the executor hands to the outbound filter when the update of a round
    is coded already. It never leaves.
    """
    return DXO(DataKind.APP_DEFINED, data={"again": round_}).to_shareable()


def read_again(message: Shareable) -> int | None:
    """Return the round of an `again` message, or None for any other message."""
    dxo_kind = plaintext_messages.kind_of(message)
    data = plaintext_messages.data_of(message, DataKind.APP_DEFINED) if dxo_kind == DataKind.APP_DEFINED else {}
    round_ = data["again"] if set(data) == {"again"} else None
    return round_ if type(round_) is int and 0 <= round_ <= statements.MOST_ROUNDS else None


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
        raise plaintext_messages.unknown("a statement", "another form", "text, signature and certificate")
    if len(data["text"]) > statements.LONGEST or not data["text"].isascii():
        raise plaintext_messages.unknown(
            "a statement", "a text that no site writes", f"at most {statements.LONGEST} plain letters"
        )
    return Signed(data["text"], data["signature"], data["certificate"])


def _revealed(data: Any) -> Revealed:
    _require_keys(data, [one.name for one in fields(Revealed)], "a sum")
    told = {"configured": data["configured"], "val_score": data["val_score"]}
    plaintext_messages.require_shape(told, {"configured": STEPS, "val_score": Maybe(SCORE)}, "a sum")
    if not (isinstance(data["roster"], str) and _ROSTER.fullmatch(data["roster"])):
        raise plaintext_messages.unknown("a sum's roster", "another form", "64 hexadecimal digits")
    payload, sites = _bytes(data["payload"]), _names(data["sites"])
    return Revealed(_moment(data["moment"]), sites, data["configured"], data["val_score"], payload, data["roster"])


def _statements(data: Any) -> tuple[Signed, ...]:
    return tuple(_unpack(one) for one in _list(data, MOST_SITES))


def _moment(words: Any) -> Moment:
    whole = isinstance(words, (list, tuple)) and len(words) == 3 and all(type(n) is int for n in words[1:])
    run = words[0] if whole else None
    named = isinstance(run, str) and _RUN.fullmatch(run)
    if not (named and -1 <= words[1] <= statements.MOST_ROUNDS and 0 <= words[2] <= statements.MOST_ROUNDS):
        raise plaintext_messages.unknown("a moment", "another form", "a run, a round and an attempt")
    return Moment(words[0], words[1], words[2])


def _names(names: Any) -> tuple[str, ...]:
    found = _list(names, MOST_SITES)
    if not all(isinstance(name, str) and 0 < len(name) <= 64 and name.isprintable() for name in found):
        raise plaintext_messages.unknown(
            "names of sites", "another form", f"at most {MOST_SITES} names of at most 64 letters"
        )
    return tuple(found)


def _list(data: Any, most: int) -> list[Any]:
    if not isinstance(data, (list, tuple)) or len(data) > most:
        raise plaintext_messages.unknown(
            "a list in a call", f"a {type(data).__name__} that is none, or too long", f"at most {most}"
        )
    return list(data)


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise plaintext_messages.unknown("a payload", f"a {type(data).__name__}", "bytes")
    return data


def _require_keys(data: Any, keys: Sequence[str], what: str) -> None:
    if not isinstance(data, dict) or set(data) != set(keys):
        raise plaintext_messages.unknown(what, f"no {what[2:]}: other entries", "those of this version")
