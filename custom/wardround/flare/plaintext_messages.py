"""The four messages of a plaintext job, and their strict reading: what is not described
here does not travel.

    train    server -> site   the weights of every variable (`variable:block`), the
                              round; which sites' last updates did not count, since when
    update   site -> server   the differences of the blocks that travel, the weight,
                              NUMBERS, SITE_FACTS
    finish   server -> site   the final weights
    scores   site -> server   SCORES: per model the validation mean, test means with
                              intervals and counts, and steps ({} for few patients,
                              few_patients.py); the choice, and whether it is above the
                              floor; where the algorithm masks, the names of the blocks
                              that are personal and since which round

A refused task carries its refusal code (`errors.Refusal.code`) and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from wardround.core.errors import ConfigRefused, Refusal, ReleaseRefused
from wardround.core.validate import FLAG, TEXT, Each, Like, Maybe, OneOf, check
from wardround.messages.allowed_names import CANDIDATES, SHIPPED, Allowed, allowed
from wardround.messages.plaintext import FINISH as FINISH
from wardround.messages.plaintext import TRAIN as TRAIN
from wardround.messages.plaintext import Order as Order
from wardround.messages.plaintext import Update as Update
from wardround.messages.ranges import COUNTS, LARGEST_CHANGE, LOSS, PATIENTS, SCORE, SECONDS, STEPS, WEIGHT, candidate

NUMBERS = {"loss": Maybe(LOSS), "val_score": Maybe(SCORE), "seconds": Maybe(SECONDS)}


def site_facts(names: Allowed) -> dict[str, Any]:
    """Return the shape of what a site says of itself, with a job's kinds of labels."""
    return {**SITE_FACTS, "label_kind": OneOf(names.label_kinds)}


def update_meta(names: Allowed) -> dict[str, Any]:
    """Return the shape of what goes with an update of a job, compressed or not."""
    return {"weight": WEIGHT, "numbers": NUMBERS, "facts": site_facts(names)}


def scores_shape(names: Allowed) -> dict[str, Any]:
    """Return the shape of a site's evaluation, with the scores of a job."""
    return {**SCORES, "candidates": Each(candidate(names.metrics), CANDIDATES)}


SITE_FACTS = {
    "label": TEXT,
    "cases": Maybe({"train": Maybe(PATIENTS), "val": Maybe(PATIENTS), "test": Maybe(PATIENTS)}),
    "classes?": Maybe(COUNTS),
    "modalities": COUNTS,
    "label_kind": OneOf(SHIPPED.label_kinds),
    "device": Like("cpu, cuda:N or mps", r"cpu|mps|cuda(:\d{1,3})?"),
    "phantoms": FLAG,
    "version": Like("a version", r"\d[0-9a-z.+]{0,31}"),
    "fingerprint": Like("a fingerprint", r"[0-9a-f]{16}"),
}
SCORES = {
    "candidates": Each(candidate(), CANDIDATES),
    "deploy": Maybe(OneOf(CANDIDATES)),
    "usable?": Maybe(FLAG),
    "personal?": Maybe(COUNTS),
    "val_score": Maybe(SCORE),
    "seconds": Maybe(SECONDS),
}
NAMED = ("modalities", "classes", "personal")
SILENT: dict[str, Any] = {"candidates": {}, "deploy": None, "val_score": None, "seconds": None}
REFUSAL = "wardround_refusal"
MEMORY = "memory"
FAILURE = "failure"
UNKNOWN = "error"
_CODES = frozenset({Refusal.code, *(kind.code for kind in Refusal.__subclasses__()), MEMORY, FAILURE, UNKNOWN})
_RETURN_CODES = frozenset(value for name, value in vars(ReturnCode).items() if name.isupper())
_ORDER_META = {"round": STEPS, "num_rounds": STEPS, "missed": Each(STEPS)}
# Far more than an honest message needs. 2**53 is the last whole number that a float64
# holds exactly.
_WORD_LENGTH = 64
_NAME_LENGTH = 256
_DEPTH = 6
_ENTRIES = 64
_LARGEST = 2**53


def order_message(order: Order) -> Shareable:
    """Return the task data of a train or finish task."""
    meta = {"round": order.round, "num_rounds": order.num_rounds, "missed": dict(order.missed)}
    return DXO(DataKind.WEIGHTS, data=dict(order.weights), meta=meta).to_shareable()


def read_order(message: Shareable) -> Order:
    """Read task data. Anything but an Order is a ReleaseRefused."""
    dxo = _dxo(message, DataKind.WEIGHTS)
    require_shape(dxo.meta, _ORDER_META, "an order's meta")
    if any(since > dxo.meta["round"] for since in dxo.meta["missed"].values()):
        raise unknown("an order's meta", "a site's state of a later round", "states up to this round")
    return Order(_arrays(dxo.data), dxo.meta["round"], dxo.meta["num_rounds"], dxo.meta["missed"])


def update_message(update: Update) -> Shareable:
    """Return the result of a train task."""
    meta = {"weight": float(update.weight), "numbers": dict(update.numbers), "facts": dict(update.facts)}
    return DXO(DataKind.WEIGHT_DIFF, data=dict(update.delta), meta=meta).to_shareable()


def read_update(message: Shareable, words: Collection[str] | None = None) -> Update:
    """Read the result of a train task.

    A key too many or too few, another kind, type or range, or a NaN is a
    ReleaseRefused.

    words: the names that the job lists (messages/allowed_names.py), among them its
        kinds of labels. None stands for those of the shipped tasks.
    """
    dxo = _dxo(message, DataKind.WEIGHT_DIFF)
    require_shape(dxo.meta, update_meta(allowed(words)), "an update's meta")
    weight, delta = float(dxo.meta["weight"]), _arrays(dxo.data)
    if not weight.is_integer():
        raise unknown("an update's weight", "a fraction", "a whole number of patients")
    for name, block in delta.items():
        if block.size and max(block.max(), -block.min()) > LARGEST_CHANGE:
            raise unknown(f"block {name!r}", "a change that no training makes", f"values within {LARGEST_CHANGE:g}")
    return Update(delta, weight, dxo.meta["numbers"], dxo.meta["facts"])


def scores_message(scores: Mapping[str, Any]) -> Shareable:
    """Return the result of a finish task."""
    return DXO(DataKind.METRICS, data=dict(scores)).to_shareable()


def read_scores(message: Shareable, words: Collection[str] | None = None) -> dict[str, Any]:
    """Read the result of a finish task.

    Anything but exactly SCORES, with the job's scores and no others, is a
    ReleaseRefused.

    words: the names that the job lists, as for `read_update`.
    """
    dxo = _dxo(message, DataKind.METRICS)
    require_shape(dxo.meta, {}, "the scores' meta")
    require_shape(dxo.data, scores_shape(allowed(words)), "the scores")
    return dict(dxo.data)


def without_counts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that do not state how many patients or scans a site has."""
    told = {key: value for key, value in facts.items() if key != "classes"}
    return {**told, "cases": None, "modalities": {name: min(1, n) for name, n in facts["modalities"].items()}}


def silent_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that do not depend on a hospital's images.

    These are what hospital-level DP lets out; all numbers beside them are None.
    """
    return {**without_counts(facts), "modalities": {}}


def scores_without_counts(scores: Any) -> Any:
    """Return scores without the number of cases behind each interval."""
    if isinstance(scores, Mapping):
        return {key: scores_without_counts(value) for key, value in scores.items() if key != "cases"}
    return scores


def require_named(told: Mapping[str, Any], words: Collection[str]) -> None:
    """Raise ReleaseRefused unless facts or scores name only sequences, classes and
    blocks that the job lists.

    The job says which words a site's data may bring along (`allowed_names` of its
    component `outbound`). A strange word is not repeated in the refusal.
    """
    others = set(allowed(words).others)
    for key in NAMED:
        strange = len(set(told.get(key) or {}) - others)
        if strange:
            raise unknown(
                f"the {key} that leave",
                f"{strange} names that the job does not list",
                "the `allowed_names` of its component `outbound`",
            )


def refusal_message(code: str) -> Shareable:
    """Return the reply of a site that refused a task: the code travels, the reason
    stays at the site.
    """
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply[REFUSAL] = code
    return reply


def refusal_code(message: Shareable) -> str:
    """Return the code of an error reply, or NVFlare's return code. Any other word is
    returned as UNKNOWN.
    """
    code = message.get(REFUSAL, _return_code(message))
    return code if isinstance(code, str) and code in _CODES | _RETURN_CODES else UNKNOWN


def is_reply(message: Shareable) -> bool:
    """Tell whether a message says of itself that all went well. A message with
    unreadable headers does not.
    """
    return bool(_return_code(message) == ReturnCode.OK)


def _return_code(message: Shareable) -> Any:
    try:
        return message.get_return_code()
    except (ValueError, TypeError, AttributeError):
        return UNKNOWN


def data_of(message: Shareable, kind: str) -> dict[str, Any]:
    """Return the data of a message; all but a dictionary of this kind is refused."""
    return dict(_dxo(message, kind).data)


def meta_of(message: Shareable) -> dict[str, Any]:
    """Return the meta of a message that `data_of` has read."""
    return dict(from_shareable(message).meta)


def kind_of(message: Shareable) -> str:
    """Return the data kind of a message, or "" where it holds no DXO."""
    try:
        kind = from_shareable(message).data_kind
    except (ValueError, KeyError, TypeError):
        return ""
    return kind if isinstance(kind, str) else ""


def require_shape(value: Any, shape: Any, what: str) -> None:
    """Raise ReleaseRefused unless the value has the shape (core.validate) and holds
    only small numbers and short words.
    """
    _require_small(value, what, 0)
    try:
        check(value, shape, what)
    except ConfigRefused as refusal:
        raise unknown(refusal.what, refusal.found, refusal.expected) from refusal


def _require_small(value: Any, what: str, depth: int) -> None:
    if isinstance(value, dict) and depth < _DEPTH and len(value) <= _ENTRIES:
        for key, part in value.items():
            _require_small(key, what, depth + 1)
            _require_small(part, what, depth + 1)
        return
    whole = isinstance(value, int) and abs(value) < _LARGEST
    number = isinstance(value, float) and math.isfinite(value)
    word = isinstance(value, str) and len(value) <= _WORD_LENGTH and value.isprintable()
    if not (value is None or whole or number or word):
        raise unknown(what, f"a value of type {type(value).__name__}", "finite numbers and short words")


def _dxo(message: Shareable, kind: str) -> DXO:
    if not is_reply(message):
        raise unknown("a message", "an error reply", f"return code OK and data kind {kind}")
    try:
        dxo = from_shareable(message)
    except (ValueError, KeyError, TypeError) as error:
        raise unknown("a message", f"no readable data ({type(error).__name__})", f"a DXO of kind {kind}") from error
    if dxo.data_kind != kind or not isinstance(dxo.data, dict):
        raise unknown("a message", f"data kind {str(dxo.data_kind)[:_WORD_LENGTH]!r}", f"data kind {kind!r}")
    return dxo


def _arrays(data: Mapping[str, Any]) -> dict[str, Any]:
    for name, block in data.items():
        named = isinstance(name, str) and ":" in name and len(name) <= _NAME_LENGTH and name.isprintable()
        if not (named and isinstance(block, np.ndarray) and block.dtype == np.float32):
            raise unknown("a block of weights", f"{type(block).__name__} under {str(name)[:80]!r}", "a float32 array")
        if not np.isfinite(block).all():
            raise unknown(f"block {name!r}", "NaN or inf", "finite numbers")
    if not data:
        raise unknown("a message without blocks", "0 arrays", "at least one `variable:block`")
    return dict(data)


def unknown(what: str, found: str, expected: str) -> ReleaseRefused:
    """Return the refusal of something that this version does not know."""
    fix = "run the same wardround version everywhere; nothing unknown is let through"
    return ReleaseRefused(what, found=found, expected=expected, fix=fix)
