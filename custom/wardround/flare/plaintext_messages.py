"""What a site says in a plaintext job, and its strict reading: what is not described here does not leave.

    update   differences of the blocks that travel, weight, NUMBERS, SITE_FACTS
    scores   SCORES: per model validation mean, test means with intervals and counts, steps (over few patients: {},
             few_patients.py); the choice, and whether it is above the floor; where the sharing is by masks, the names of
             the blocks that are personal and since which round

A refused task carries its refusal code (`errors.Refusal.code`) and nothing else. What the server says is in orders.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from wardround.core.errors import Refusal
from wardround.core.validate import FLAG, TEXT, Each, Like, Maybe, OneOf
from wardround.flare.strict_dxo import read_dxo, require_blocks, require_shape, return_code, unknown
from wardround.messages.allowed_names import CANDIDATES, SHIPPED, Allowed, allowed
from wardround.messages.plaintext import FINISH as FINISH
from wardround.messages.plaintext import TRAIN as TRAIN
from wardround.messages.plaintext import Update as Update
from wardround.messages.ranges import COUNTS, LARGEST_CHANGE, LOSS, PATIENTS, SCORE, SECONDS, WEIGHT, candidate

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
REFUSAL = "wardround_refusal"
MEMORY = "memory"
FAILURE = "failure"
UNKNOWN = "error"
_CODES = frozenset({Refusal.code, *(kind.code for kind in Refusal.__subclasses__()), MEMORY, FAILURE, UNKNOWN})
_RETURN_CODES = frozenset(value for name, value in vars(ReturnCode).items() if name.isupper())


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
    dxo = read_dxo(message, DataKind.WEIGHT_DIFF)
    require_shape(dxo.meta, update_meta(allowed(words)), "an update's meta")
    weight, delta = float(dxo.meta["weight"]), require_blocks(dxo.data)
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
    dxo = read_dxo(message, DataKind.METRICS)
    require_shape(dxo.meta, {}, "the scores' meta")
    require_shape(dxo.data, scores_shape(allowed(words)), "the scores")
    return dict(dxo.data)


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
    """Return the code of an error reply, or NVFlare's return code; any word that is not one of these is UNKNOWN."""
    code = message.get(REFUSAL, return_code(message))
    return code if isinstance(code, str) and code in _CODES | _RETURN_CODES else UNKNOWN
