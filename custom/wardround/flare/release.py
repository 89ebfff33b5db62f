"""The one way out of a hospital. Fails closed: what wire.py does not describe raises, and NVFlare then sends an error.

The message is read strictly, handed to the mechanism, and BUILT ANEW, so that nothing rides along in headers or extra keys.
Every release is written to `releases.jsonl` in the site's own run folder before it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Protocol

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.arrays import Arrays, digest, size_bytes
from wardround.errors import ReleaseRefused
from wardround.flare import few_patients, outbox, wire
from wardround.flare.hospital_release import HospitalRelease
from wardround.flare.ledger_door import Charged, spend
from wardround.flare.places import job_name, run_folder, state_folder


class Mechanism(Protocol):
    """What is done to an update before it leaves (clip, noise, quantise, hide); returns it with a receipt."""

    def release(self, delta: Arrays) -> tuple[Arrays, dict[str, float | str]]:
        """Return (what leaves, what the receipt says)."""


@dataclass(frozen=True)
class InTheClear:
    """No protection beyond the transport's: the update leaves as it is, and the receipt says so."""

    def release(self, delta: Arrays) -> tuple[Arrays, dict[str, float | str]]:
        return delta, {"mechanism": "none", "guarantee": "none: the server reads this hospital's update"}


@dataclass(frozen=True)
class NoNoise:
    """No differential privacy: in jobs with a hidden sum, where what the server cannot read is the protection."""

    def release(self, delta: Arrays) -> tuple[Arrays, dict[str, float | str]]:
        return delta, {"mechanism": "none", "guarantee": "no differential privacy: the sum itself is exact"}


class Release(Filter):  # type: ignore[misc]
    """NVFlare task-result filter for the tasks `train` and `finish`.

    words: the names that may leave: of images, classes, blocks, kinds of masks and scores (messages/names.py)
    update, scores: released | under differential privacy, what was released before, bit for bit: sent again, not charged again
    (outbox.py) | a refusal: its code only | anything else: ReleaseRefused, nothing leaves
    numbers over few patients stay at the hospital, all others are rounded (few_patients.py)
    """

    def __init__(self, mechanism: Mechanism, words: Sequence[str] = ()) -> None:
        super().__init__()
        self.mechanism, self.words = mechanism, tuple(words or ())

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return a new message that holds only what was read."""
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if not wire.is_reply(shareable):
            return wire.refusal_message(wire.refusal_code(shareable))
        if isinstance(self.mechanism, HospitalRelease) and self.mechanism.promise.hidden:
            raise ReleaseRefused(
                "the exit of a job in the clear",
                found="a share of hospital-level noise, made for a hidden sum",
                expected="the whole noise: hidden false",
                fix="print the job anew, or hide the sum",
            )
        if task == wire.TRAIN:
            update = wire.read_update(shareable, self.words)
            wire.require_named(update.facts, self.words)
            return wire.update_message(self._train(update, fl_ctx))
        if task == wire.FINISH:
            read = wire.read_scores(shareable, self.words)
            wire.require_named(read, self.words)
            scores = few_patients.scores(read, few_patients.known(fl_ctx))
            write_receipt(fl_ctx, task, {"mechanism": "means, intervals and counts over this site's patients"})
            return wire.scores_message(scores)
        raise ReleaseRefused(
            "a task result",
            found=f"task {task!r}",
            expected="train or finish",
            fix="name this filter for those tasks only",
        )

    def _train(self, update: wire.Update, fl_ctx: FLContext) -> wire.Update:
        charged = isinstance(self.mechanism, Charged)
        if charged and outbox.is_released(state_folder(fl_ctx), update):
            leaving = update
            receipt: dict[str, Any] = {"mechanism": "none", "guarantee": "the same bytes as before, charged then"}
        else:
            delta, said = self.mechanism.release(update.delta)
            leaving, receipt = replace(update, delta=delta), dict(said)
            receipt |= spend(self.mechanism, update.numbers, fl_ctx)
            # After `spend`, which looks for a training loss: one that is not told must not pass for one that is not there.
            leaving = few_patients.update(leaving, few_patients.known(fl_ctx, update.facts))
            if charged:
                outbox.keep(state_folder(fl_ctx), leaving)
        size = {"blocks": len(leaving.delta), "bytes": size_bytes(leaving.delta), "sha256": digest(leaving.delta)}
        write_receipt(fl_ctx, wire.TRAIN, receipt | size)
        return leaving


def write_receipt(fl_ctx: FLContext, task: str, receipt: Mapping[str, Any]) -> None:
    """Append one line to the site's own releases.jsonl, before anything is sent."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    line = json.dumps({"time": now, "job": job_name(fl_ctx), "task": task, **receipt})
    with (run_folder(fl_ctx) / "releases.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
