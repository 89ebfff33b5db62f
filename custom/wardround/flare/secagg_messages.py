"""What a site says in a secure sum, and its strict reading: a signed statement with its payload.

What the server says to a site is in secagg_calls.py.

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

from collections.abc import Collection
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable

from wardround.flare import plaintext_messages, strict_dxo
from wardround.messages import statements
from wardround.messages.allowed_names import allowed
from wardround.messages.secagg import HOP, JOIN, PREPARE, TASKS, UNMASK, Call, Reply, Revealed
from wardround.messages.statements import Signed

# The values come from messages/secagg.py: the server's run knows them without NVFlare.
__all__ = [
    "HOP",
    "JOIN",
    "KINDS",
    "PREPARE",
    "TASKS",
    "UNMASK",
    "Call",
    "Reply",
    "Revealed",
    "again_message",
    "read_again",
    "read_reply",
    "read_signed",
    "reply_message",
    "signed_data",
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


def reply_message(reply: Reply) -> Shareable:
    """Return the result of a task."""
    return DXO(
        DataKind.APP_DEFINED, data=signed_data(reply.statement) | {"payload": reply.payload}, meta=dict(reply.meta)
    ).to_shareable()


def read_reply(message: Shareable, task: str, words: Collection[str] | None = None) -> Reply:
    """Read the result of a task.

    Another kind of statement, a key too many or too few, or a value of another type or
    range is a ReleaseRefused.

    words: the names that the job lists, as for `plaintext_messages.read_update`.
    """
    data = strict_dxo.data_of(message, DataKind.APP_DEFINED)
    if set(data) != {*_SIGNED, "payload"} or not isinstance(data["payload"], bytes):
        raise strict_dxo.unknown(
            f"the reply to {task}", f"entries {sorted(map(str, data))[:6]}", "a statement and a payload"
        )
    signed = read_signed({key: data[key] for key in _SIGNED})
    kind = statements.peek(signed)["kind"]
    if kind not in KINDS.get(task, ()) or (data["payload"] and kind not in ("submit", "hop")):
        raise strict_dxo.unknown(f"the reply to {task}", f"a statement of kind {kind!r}", f"{KINDS.get(task)}")
    meta = dict(strict_dxo.meta_of(message))
    strict_dxo.require_shape(meta, _meta(task, words), f"the meta of the reply to {task}")
    return Reply(signed, data["payload"], meta)


def again_message(round_: int) -> Shareable:
    """Return what the executor hands to the outbound filter when the update of a round
    is coded already. It never leaves.
    """
    return DXO(DataKind.APP_DEFINED, data={"again": round_}).to_shareable()


def read_again(message: Shareable) -> int | None:
    """Return the round of an `again` message, None for any other."""
    dxo_kind = strict_dxo.kind_of(message)
    data = strict_dxo.data_of(message, DataKind.APP_DEFINED) if dxo_kind == DataKind.APP_DEFINED else {}
    round_ = data["again"] if set(data) == {"again"} else None
    return round_ if type(round_) is int and 0 <= round_ <= statements.MOST_ROUNDS else None


def signed_data(signed: Signed) -> dict[str, Any]:
    """Return a signed statement as it travels."""
    return {"text": signed.text, "signature": signed.signature, "certificate": signed.certificate}


def read_signed(data: Any) -> Signed:
    """Read a signed statement; another form, or one longer than any that a site writes: ReleaseRefused."""
    fits = (
        isinstance(data, dict)
        and set(data) == set(_SIGNED)
        and isinstance(data["text"], str)
        and isinstance(data["signature"], bytes)
        and isinstance(data["certificate"], bytes)
    )
    if not fits or len(data["signature"]) > 1024 or len(data["certificate"]) > 16384:
        raise strict_dxo.unknown("a statement", "another form", "text, signature and certificate")
    if len(data["text"]) > statements.LONGEST or not data["text"].isascii():
        raise strict_dxo.unknown(
            "a statement", "a text that no site writes", f"at most {statements.LONGEST} plain letters"
        )
    return Signed(data["text"], data["signature"], data["certificate"])
