"""The one way out of a hospital in jobs with a hidden sum. Fails closed, writes a receipt, builds every message anew.

The executor hands over a readable update INSIDE the process. Here it goes through the mechanism (and, before this filter,
through whatever the site's own privacy scope demands), becomes integers that are kept at the site, is packed, masked and
encrypted; only then does something leave. The ring's update never passes here in the open: the site adds it at its hop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.arrays import digest
from wardround.errors import ReleaseRefused
from wardround.flare import few_patients, kept_settings, sealed, wire
from wardround.flare.hospital_release import HospitalRelease
from wardround.flare.ledger_door import spend
from wardround.flare.release import Mechanism, write_receipt
from wardround.flare.secure_sum import SecureSum, secure_sum_of
from wardround.privacy import statements

TREATED = (
    "wardround_policy"  # in the context of one reply: what the site's own policy did to the update before this exit
)


class HiddenRelease(Filter):  # type: ignore[misc]
    """NVFlare task-result filter for the six tasks of a hidden sum.

    train: an update is hidden, or, in a repeated attempt, the integers that are kept are hidden anew
    words: the names that may leave: of images, classes, blocks, kinds of masks and scores (messages/names.py)
    other tasks: a reply that sealed.py describes | a refusal: its code only | anything else: ReleaseRefused
    which blocks a mask keeps at the site is not told: with it, the sum of a block could be known to hold one hospital
    under hospital-level DP no number and no score leaves beside the update: all of them come from the hospital's patients
    """

    def __init__(self, mechanism: Mechanism, words: Sequence[str] = ()) -> None:
        super().__init__()
        self.mechanism, self.words = mechanism, tuple(words or ())

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return a new message that holds only what was read."""
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if not wire.is_reply(shareable):
            return wire.refusal_message(wire.refusal_code(shareable))
        if task not in sealed.TASKS:
            raise ReleaseRefused(
                "a task result",
                found=f"task {str(task)[:40]!r}",
                expected=f"one of {', '.join(sealed.TASKS)}",
                fix="name this filter for those tasks only",
            )
        secure = secure_sum_of(fl_ctx)
        if secure.noise != (self.mechanism.promise if isinstance(self.mechanism, HospitalRelease) else None):
            raise ReleaseRefused(
                "the exit of a hidden sum",
                found="a mechanism and a `noise` of secure_sum that are not the same promise",
                expected="one promise of hospital-level noise in both, or in neither",
                fix="print the job anew",
            )
        receipt: dict[str, Any] = {"protection": secure.protection.mode}
        if task == wire.TRAIN:
            reply, more = self._train(shareable, secure, fl_ctx)
            receipt |= more
        else:
            reply = sealed.read_reply(shareable, task, self.words)
            if task == sealed.HOP:
                self._require_made_here(secure, self._made_by(secure, fl_ctx), fl_ctx)
            if task == wire.FINISH:
                told = {key: value for key, value in reply.meta["scores"].items() if key != "personal"}
                told = few_patients.scores(told, few_patients.known(fl_ctx))
                reply = replace(reply, meta={"scores": told if secure.noise is None else wire.SILENT})
            wire.require_named(reply.meta.get("scores", {}), self.words)
        receipt |= {"kind": statements.peek(reply.statement)["kind"], "bytes": len(reply.payload)}
        receipt |= {"sha256": hashlib.sha256(reply.payload).hexdigest()} if reply.payload else {}
        write_receipt(fl_ctx, task, receipt)
        return sealed.reply_message(reply)

    def _train(
        self, shareable: Shareable, secure: SecureSum, fl_ctx: FLContext
    ) -> tuple[sealed.Reply, Mapping[str, Any]]:
        site, moment = secure.open(fl_ctx), secure.call.moment
        receipt: dict[str, Any] = {"round": moment.round, "attempt": moment.attempt}
        made = self._made_by(secure, fl_ctx)
        if sealed.read_again(shareable) is None:
            receipt |= self._keep(wire.read_update(shareable, self.words), made, secure, fl_ctx)
        said = self._require_made_here(secure, made, fl_ctx)
        meta = {"numbers": said["numbers"], "facts": said["facts"]}
        if secure.protection.ring:
            statement, payload = site.ready(moment, secure.call.prepares, said["model"]), b""
        else:
            statement, payload = site.submit(moment, secure.call.prepares, said["model"])
        message = sealed.reply_message(sealed.Reply(statement, payload, meta))
        return sealed.read_reply(message, wire.TRAIN, self.words), receipt

    def _require_made_here(self, secure: SecureSum, made: str, fl_ctx: FLContext) -> dict[str, Any]:
        """Return what was said when this round's integers were coded; by another exit, sum or policy: ReleaseRefused."""
        round_ = secure.call.moment.round
        said = secure.open(fl_ctx).said(round_)
        if said.get("exit") != made:
            raise ReleaseRefused(
                f"the integers of round {round_ + 1} that this site keeps",
                found="those of another exit, sum or policy of this site",
                expected="an update that was hidden, and noised, as it would be now",
                fix="start the job anew under a name of its own, or delete what this site keeps of it",
            )
        return said

    def _made_by(self, secure: SecureSum, fl_ctx: FLContext) -> str:
        """Return what integers are bound to: this exit, the sum, and what the site's own policy did to the update before."""
        return kept_settings.digest_of(self.mechanism, secure.protection, secure.noise, fl_ctx.get_prop(TREATED, ""))

    def _keep(self, update: wire.Update, made: str, secure: SecureSum, fl_ctx: FLContext) -> dict[str, Any]:
        delta, receipt = self.mechanism.release(update.delta)
        receipt |= spend(self.mechanism, update.numbers, fl_ctx)
        hidden = secure.protection.weights == "patients_hidden"
        facts = wire.without_counts(update.facts) if hidden else dict(update.facts)
        # After `spend`, which looks for a training loss: one that is not told must not pass for one that is not there.
        patients = few_patients.known(fl_ctx, update.facts)
        numbers = few_patients.numbers(update.numbers, patients)
        if secure.noise is not None:
            numbers, facts = dict.fromkeys(numbers), wire.silent_facts(facts)
        wire.require_named(facts, self.words)
        facts = few_patients.facts(facts, patients)
        said = {"numbers": numbers, "facts": facts, "model": secure.model, "settings": secure.settings}
        said |= {"run": secure.call.moment.run, "exit": made}
        held = secure.open(fl_ctx).hold(secure.call.moment.round, delta, int(update.weight), secure.initial, said)
        return receipt | held | {"update": digest(delta)}
