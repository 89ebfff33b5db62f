"""The four messages of a federation, and their strict reading: what is not described here does not travel.

    train    server -> site   weights of every bank (`bank:block`), round
    update   site -> server   differences of the blocks that travel, weight, a few numbers (NUMBERS, SITE_FACTS)
    finish   server -> site   the final weights
    scores   site -> server   per model: validation mean, test means with intervals and counts, steps, deployed model

A refused task carries its refusal code (`errors.Refusal.code`) and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from wardround.arrays import Arrays
from wardround.errors import ReleaseRefused

TRAIN, FINISH = "train", "finish"
NUMBERS = frozenset({"loss", "val_dice", "seconds"})
SITE_FACTS = frozenset({"label", "cases", "modalities", "label_kind", "device", "phantoms", "version", "fingerprint"})
REFUSAL = "wardround_refusal"
_ROUND, _ROUNDS, _WEIGHT, _NUMBERS, _FACTS = "round", "rounds", "weight", "numbers", "facts"
_WORD_LENGTH = 64


@dataclass(frozen=True)
class Order:
    """Server to site: the weights of every bank, this round and the number of rounds."""

    weights: Arrays
    round: int
    rounds: int


@dataclass(frozen=True)
class Update:
    """Site to server: what a round of local work changed. `weight` is the number of training patients."""

    delta: Arrays
    weight: float
    numbers: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)


def order_message(order: Order) -> Shareable:
    """Return the task data of a train or finish task."""
    meta = {_ROUND: order.round, _ROUNDS: order.rounds}
    return DXO(DataKind.WEIGHTS, data=dict(order.weights), meta=meta).to_shareable()


def read_order(message: Shareable) -> Order:
    """Read task data; ReleaseRefused when it is not an Order."""
    dxo = _dxo(message, DataKind.WEIGHTS)
    _only_keys(dxo.meta, {_ROUND, _ROUNDS}, "an order's meta")
    return Order(_arrays(dxo.data), int(dxo.meta[_ROUND]), int(dxo.meta[_ROUNDS]))


def update_message(update: Update) -> Shareable:
    """Return the result of a train task."""
    meta = {_WEIGHT: float(update.weight), _NUMBERS: dict(update.numbers), _FACTS: dict(update.facts)}
    return DXO(DataKind.WEIGHT_DIFF, data=dict(update.delta), meta=meta).to_shareable()


def read_update(message: Shareable) -> Update:
    """Read the result of a train task; ReleaseRefused on any unknown key, kind, type or number that is not finite."""
    dxo = _dxo(message, DataKind.WEIGHT_DIFF)
    _only_keys(dxo.meta, {_WEIGHT, _NUMBERS, _FACTS}, "an update's meta")
    numbers, facts = dxo.meta.get(_NUMBERS), dxo.meta.get(_FACTS)
    if not isinstance(numbers, dict) or not isinstance(facts, dict):
        raise _unknown("an update without its numbers", type(numbers).__name__, "dictionaries of numbers and facts")
    _only_keys(numbers, NUMBERS, "an update's numbers")
    _only_keys(facts, SITE_FACTS, "an update's facts")
    require_small(numbers, "an update's numbers")
    require_small(facts, "an update's facts")
    weight = float(dxo.meta[_WEIGHT])
    if not (math.isfinite(weight) and weight > 0):
        raise _unknown("an update's weight", "a number that is not positive and finite", "a count of patients")
    return Update(_arrays(dxo.data), weight, numbers, facts)


def scores_message(scores: Mapping[str, Any]) -> Shareable:
    """Return the result of a finish task."""
    return DXO(DataKind.METRICS, data=dict(scores)).to_shareable()


def read_scores(message: Shareable) -> dict[str, Any]:
    """Read the result of a finish task; ReleaseRefused unless it is only numbers and short words under known keys."""
    dxo = _dxo(message, DataKind.METRICS)
    _only_keys(dxo.meta, set(), "the scores' meta")
    _only_keys(dxo.data, {"candidates", "deploy", "val_dice", "seconds"}, "the scores")
    require_small(dxo.data, "the scores")
    return dict(dxo.data)


def refusal_message(code: str) -> Shareable:
    """Return the reply of a site that refused a task: the code travels, the reason stays in the site's log."""
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply[REFUSAL] = code
    return reply


def require_small(value: Any, what: str, depth: int = 0) -> None:
    """Raise ReleaseRefused unless value is nested dictionaries of finite numbers, None and short printable words."""
    if isinstance(value, dict) and depth < 6 and len(value) <= 64:
        for key, part in value.items():
            require_small(key, what, depth + 1)
            require_small(part, what, depth + 1)
        return
    plain = value is None or isinstance(value, bool | int)
    number = isinstance(value, float) and math.isfinite(value)
    word = isinstance(value, str) and len(value) <= _WORD_LENGTH and value.isprintable()
    if not (plain or number or word):
        raise _unknown(what, f"a value of type {type(value).__name__}", "finite numbers and short words")


def _dxo(message: Shareable, kind: str) -> DXO:
    code = message.get_return_code()
    if code != ReturnCode.OK:
        raise _unknown("a message", f"return code {code}", f"return code OK and data kind {kind}")
    try:
        dxo = from_shareable(message)
    except (ValueError, KeyError, TypeError) as error:
        raise _unknown("a message", f"no readable data ({type(error).__name__})", f"a DXO of kind {kind}") from error
    if dxo.data_kind != kind or not isinstance(dxo.data, dict):
        raise _unknown("a message", f"data kind {dxo.data_kind!r}", f"data kind {kind!r}")
    return dxo


def _arrays(data: Mapping[str, Any]) -> dict[str, Any]:
    for name, block in data.items():
        good = isinstance(name, str) and ":" in name and isinstance(block, np.ndarray) and block.dtype == np.float32
        if not good:
            raise _unknown("a block of weights", f"{type(block).__name__} under {str(name)[:80]!r}", "a float32 array")
        if not np.isfinite(block).all():
            raise _unknown(f"block {name!r}", "NaN or inf", "finite numbers")
    if not data:
        raise _unknown("a message without blocks", "0 arrays", "at least one `bank:block`")
    return dict(data)


def _only_keys(found: Mapping[str, Any], allowed: set[str] | frozenset[str], what: str) -> None:
    extra = sorted(str(key)[:40] for key in set(found) - set(allowed))
    if extra:
        raise _unknown(what, f"unknown keys {extra}", f"only {sorted(allowed)}")


def _unknown(what: str, found: str, expected: str) -> ReleaseRefused:
    fix = "run the same wardround version everywhere; nothing unknown is let through"
    return ReleaseRefused(what, found=found, expected=expected, fix=fix)
