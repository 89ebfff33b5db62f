"""What leaves in a job with secure aggregation: signed statements, and payloads that
nobody reads one by one.

The executor hands over a readable update INSIDE the process. Here the update goes
through the job's stages (and, before this filter, through whatever the site's own
privacy scope demands). It becomes integers that are kept at the site, and these are
packed, masked and encrypted; only then does something leave. In a ring the update is
not sent from here: the site adds it at its hop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.core.arrays import digest
from wardround.core.errors import ReleaseRefused
from wardround.core.stages import Receipt, Update
from wardround.flare import few_patients, ledger_adapter, plaintext_messages, secagg_compression, secagg_messages
from wardround.flare.outbound import Outbound, outbound_digest
from wardround.flare.secagg_session import SecAggSession
from wardround.messages import plaintext, statements

EXACT: Receipt = {"mechanism": "none", "guarantee": "no differential privacy: the sum itself is exact"}


def leaving(
    outbound: Outbound, task: str, shareable: Shareable, fl_ctx: FLContext
) -> tuple[secagg_messages.Reply, Receipt]:
    """Return the reply that leaves, and its receipt.

    train: the update is coded and hidden or, in a repeated attempt, the integers that
        are kept are hidden once more.
    finish: the reply does not say which blocks a mask keeps at the site. With that
        knowledge, the sum of a block could be known to hold the update of one hospital
        only.

    Under hospital-level DP no number and no score leaves beside the update, because all
    of them come from the hospital's patients.
    """
    session = outbound.session
    if session is None:
        raise ReleaseRefused(
            "a reply of secure aggregation",
            found="a job that promises none",
            expected="a `secagg` in its component `outbound`",
            fix="print the job again with `wardround jobs write`",
        )
    made = _Leaving(outbound, session, fl_ctx)
    receipt: Receipt = {"secagg": session.secagg.mode}
    if task == plaintext_messages.TRAIN:
        reply, more = made.train(shareable)
        receipt |= more
    else:
        reply = secagg_messages.read_reply(shareable, task, outbound.allowed_names)
        if task == secagg_messages.HOP:
            made.require_made_here()
        if task == plaintext_messages.FINISH:
            reply = replace(reply, meta={"scores": made.scores(reply.meta["scores"])})
        plaintext_messages.require_named(reply.meta.get("scores", {}), outbound.allowed_names)
    receipt |= {"kind": statements.peek(reply.statement)["kind"], "bytes": len(reply.payload)}
    receipt |= {"sha256": hashlib.sha256(reply.payload).hexdigest()} if reply.payload else {}
    return reply, receipt


@dataclass(frozen=True)
class _Leaving:
    """One reply on its way out."""

    outbound: Outbound
    session: SecAggSession
    fl_ctx: FLContext

    def train(self, shareable: Shareable) -> tuple[secagg_messages.Reply, Receipt]:
        """Return this round's integers, hidden for this attempt, and the receipt.

        In a ring the reply only says that the site is ready.
        """
        site, call = self.session.open(self.fl_ctx), self.session.call
        moment = call.moment
        receipt: Receipt = {"round": moment.round, "attempt": moment.attempt}
        if secagg_messages.read_again(shareable) is None:
            receipt |= self._keep(plaintext_messages.read_update(shareable, self.outbound.allowed_names))
        said = self.require_made_here()
        meta = {"numbers": said["numbers"], "facts": said["facts"]}
        if self.session.secagg.ring:
            statement, payload = site.ready(moment, call.prepares, said["model"]), b""
        else:
            statement, payload = site.submit(moment, call.prepares, said["model"])
        message = secagg_messages.reply_message(secagg_messages.Reply(statement, payload, meta))
        return secagg_messages.read_reply(message, plaintext_messages.TRAIN, self.outbound.allowed_names), receipt

    def scores(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the scores that leave."""
        if self.outbound.noise is not None:
            return plaintext.SILENT
        told = {key: value for key, value in given.items() if key != "personal"}
        told = plaintext.without_time(told) if self.outbound.withholds_training_time else told
        return few_patients.scores(told, few_patients.known(self.fl_ctx))

    def require_made_here(self) -> dict[str, Any]:
        """Return what was noted when this round's integers were coded.

        Integers of a job with another promise, or that another policy of this site let
        pass, are a ReleaseRefused.
        """
        round_ = self.session.call.moment.round
        said = self.session.open(self.fl_ctx).said(round_)
        if said.get("outbound_digest") != outbound_digest(self.outbound, self.fl_ctx):
            raise ReleaseRefused(
                f"the integers of round {round_ + 1} that this site keeps",
                found="those of another outbound filter, sum or policy of this site",
                expected="an update that was hidden, and noised, as it would be now",
                fix="submit the job under a name of its own, or delete its folder of kept state at this site",
            )
        if self.outbound.noise is not None and said["run"] != self.session.call.moment.run:
            # Two runs have different masks: the same noise would be in two sums, and was charged once.
            raise ReleaseRefused(
                f"the integers of round {round_ + 1} that this site keeps",
                found="those of another run, whose noise was charged for that run alone",
                expected="integers that were made in this run",
                fix="let the server ask for `train` first, as wardround's own does",
            )
        return said

    def _keep(self, update: plaintext_messages.Update) -> Receipt:
        """Run the stages, charge the ledger, code and keep the update; return the
        receipt.
        """
        outbound = self.outbound
        session = self.session
        moment = self.session.call.moment
        passed, receipt = Update(update.delta, update.weight), dict(EXACT)
        if outbound.charged is None:
            ledger_adapter.require_nothing_promised(self.fl_ctx)
        else:
            passed, said = outbound.charged.outbound(passed, moment.round, {})
            receipt |= said | ledger_adapter.spend(outbound.charged, update.numbers, self.fl_ctx)
        # This comes after `spend`, which looks for a training loss: a loss that is
        # withheld must not pass for a loss that is not there.
        numbers, facts = self._told(update)
        beside = {"numbers": numbers, "facts": facts, "model": session.model, "settings": session.settings}
        beside |= {"run": moment.run, "outbound_digest": outbound_digest(self.outbound, self.fl_ctx)}
        site, patients = session.open(self.fl_ctx), int(update.weight)
        if outbound.compresses is None:
            held = site.hold(moment.round, passed.params, patients, session.initial, beside)
        else:
            passed, held = secagg_compression.hold(outbound, passed, site, beside, self.fl_ctx)
        return receipt | held | {"update": digest(passed.params)}

    def _told(self, update: plaintext_messages.Update) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Return the numbers and facts that may leave beside the update."""
        patients = few_patients.known(self.fl_ctx, update.facts)
        hidden = self.session.secagg.hides_counts
        facts = plaintext.without_counts(update.facts) if hidden else dict(update.facts)
        timed = plaintext.without_time(update.numbers) if self.outbound.withholds_training_time else update.numbers
        numbers = few_patients.numbers(timed, patients)
        if self.outbound.noise is not None:
            numbers, facts = dict.fromkeys(numbers), plaintext.silent_facts(facts)
        # Before small counts are left out: a name that is not allowed stops the update, however few patients it stands for.
        plaintext_messages.require_named(facts, self.outbound.allowed_names)
        return numbers, few_patients.facts(facts, patients)
