"""What the server of a secure sum says to a site: a call, with signed statements of others, and its strict reading.

Nothing in this file leaves a hospital; what a site answers is in secagg_messages.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable

from wardround.core.validate import Maybe
from wardround.flare import strict_dxo
from wardround.flare.secagg_messages import read_signed, signed_data
from wardround.messages import statements
from wardround.messages.ranges import SCORE, STEPS
from wardround.messages.secagg import Call, Revealed
from wardround.messages.statements import Moment, Signed

_COUNTS = {"num_rounds": STEPS, "begun": STEPS}
_RUN, _ROSTER = re.compile(r"[0-9a-f]{1,64}"), re.compile(r"(?:[0-9a-f]{64})?")
MOST_SITES, MOST_SUMS = 256, 10_000


def call_message(call: Call) -> Shareable:
    """Return the task data of a call."""
    data: dict[str, Any] = {
        "moment": list(call.moment.words),
        "num_rounds": call.num_rounds,
        "joins": [signed_data(one) for one in call.joins],
        "prepares": [signed_data(one) for one in call.prepares],
        "survivors": list(call.survivors),
        "ready": list(call.ready),
        "done": list(call.done),
        "hop": signed_data(call.hop) if call.hop else None,
        "payload": call.payload,
        "revealed": [vars(one) | {"moment": list(one.moment.words), "sites": list(one.sites)} for one in call.revealed],
        "begun": call.begun,
        "complaints": [signed_data(one) for one in call.complaints],
    }
    return DXO(DataKind.APP_DEFINED, data=data).to_shareable()


def read_call(message: Shareable) -> Call:
    """Read task data; ReleaseRefused on a key, type or number too many or too few."""
    data = strict_dxo.data_of(message, DataKind.APP_DEFINED)
    _require_keys(data, [one.name for one in fields(Call)], "a call")
    strict_dxo.require_shape(dict(strict_dxo.meta_of(message)), {}, "a call's meta")
    strict_dxo.require_shape({key: data[key] for key in _COUNTS}, _COUNTS, "a call")
    return Call(
        moment=_moment(data["moment"]),
        num_rounds=data["num_rounds"],
        joins=_statements(data["joins"]),
        prepares=_statements(data["prepares"]),
        revealed=tuple(_revealed(one) for one in _list(data["revealed"], MOST_SUMS)),
        survivors=_names(data["survivors"]),
        ready=_names(data["ready"]),
        done=_names(data["done"]),
        hop=None if data["hop"] is None else read_signed(data["hop"]),
        payload=_bytes(data["payload"]),
        begun=data["begun"],
        complaints=_statements(data["complaints"]),
    )


def _revealed(data: Any) -> Revealed:
    _require_keys(data, [one.name for one in fields(Revealed)], "a sum")
    told = {"configured": data["configured"], "val_score": data["val_score"]}
    strict_dxo.require_shape(told, {"configured": STEPS, "val_score": Maybe(SCORE)}, "a sum")
    if not (isinstance(data["roster"], str) and _ROSTER.fullmatch(data["roster"])):
        raise strict_dxo.unknown("a sum's roster", "another form", "64 hexadecimal digits")
    payload, sites = _bytes(data["payload"]), _names(data["sites"])
    return Revealed(_moment(data["moment"]), sites, data["configured"], data["val_score"], payload, data["roster"])


def _statements(data: Any) -> tuple[Signed, ...]:
    return tuple(read_signed(one) for one in _list(data, MOST_SITES))


def _moment(words: Any) -> Moment:
    whole = isinstance(words, (list, tuple)) and len(words) == 3 and all(type(n) is int for n in words[1:])
    run = words[0] if whole else None
    named = isinstance(run, str) and _RUN.fullmatch(run)
    if not (named and -1 <= words[1] <= statements.MOST_ROUNDS and 0 <= words[2] <= statements.MOST_ROUNDS):
        raise strict_dxo.unknown("a moment", "another form", "a run, a round and an attempt")
    return Moment(words[0], words[1], words[2])


def _names(names: Any) -> tuple[str, ...]:
    found = _list(names, MOST_SITES)
    if not all(isinstance(name, str) and 0 < len(name) <= 64 and name.isprintable() for name in found):
        raise strict_dxo.unknown("names of sites", "another form", f"at most {MOST_SITES} names of at most 64 letters")
    return tuple(found)


def _list(data: Any, most: int) -> list[Any]:
    if not isinstance(data, (list, tuple)) or len(data) > most:
        raise strict_dxo.unknown(
            "a list in a call", f"a {type(data).__name__} that is none, or too long", f"at most {most}"
        )
    return list(data)


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise strict_dxo.unknown("a payload", f"a {type(data).__name__}", "bytes")
    return data


def _require_keys(data: Any, keys: Sequence[str], what: str) -> None:
    if not isinstance(data, dict) or set(data) != set(keys):
        raise strict_dxo.unknown(what, f"no {what[2:]}: other entries", "those of this version")
