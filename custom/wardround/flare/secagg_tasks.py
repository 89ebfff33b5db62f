"""The tasks of a site in a job with secure aggregation: every site holds the global
model and applies the revealed sum.

The update that `train` returns is readable and stays in this process: the outbound
filter codes and hides it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.core.errors import RoundRefused
from wardround.flare import plaintext_messages, secagg_calls, secagg_messages, workspaces
from wardround.flare.outbound import Asked, Outbound
from wardround.flare.secagg_model import SecAggModel
from wardround.flare.secagg_session import SecAggSession
from wardround.flare.trainer import Trainer
from wardround.messages import plaintext, statements
from wardround.secagg.incoming_hop import Incoming


class SecAggTasks:
    """Answers a Call with a signed statement (join, prepare, hop, unmask, finish) or
    with an update (train).
    """

    names = secagg_messages.TASKS

    def __init__(self, trainer: Trainer, outbound: Outbound, session: SecAggSession, model: SecAggModel) -> None:
        self._trainer = trainer
        self._outbound = outbound
        self._session = session
        self._model = model

    def do(self, task: str, message: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return the reply to one task; a message that is no Call: ReleaseRefused."""
        call = secagg_calls.read_call(message)
        if task == secagg_messages.JOIN and call.begun == 0:
            workspaces.begin_new_run(fl_ctx)
        self._trainer.require_own_state(self._outbound, fl_ctx)
        self._session.begin(call, self._trainer.settings(self._outbound), self._trainer.work.seed)
        return self._handlers[task](call, fl_ctx)

    @property
    def _handlers(self) -> Mapping[str, Callable[[secagg_messages.Call, FLContext], Shareable]]:
        return {
            secagg_messages.JOIN: self._join,
            secagg_messages.PREPARE: self._prepare,
            plaintext_messages.TRAIN: self._train,
            secagg_messages.HOP: self._hop,
            secagg_messages.UNMASK: self._unmask,
            plaintext_messages.FINISH: self._finish,
        }

    def _join(self, call: secagg_messages.Call, fl_ctx: FLContext) -> Shareable:
        workspaces.run_id(fl_ctx)
        return _statement(self._session.open(fl_ctx).agreement.join(call.moment.run))

    def _prepare(self, call: secagg_messages.Call, fl_ctx: FLContext) -> Shareable:
        return _statement(self._session.open(fl_ctx).agreement.prepare(call.moment, call.joins))

    def _hop(self, call: secagg_messages.Call, fl_ctx: FLContext) -> Shareable:
        incoming = Incoming(call.ready, call.done, call.hop, call.payload)
        statement, payload = self._session.open(fl_ctx).hop(call.moment, call.prepares, incoming)
        return secagg_messages.reply_message(secagg_messages.Reply(statement, payload, {}))

    def _unmask(self, call: secagg_messages.Call, fl_ctx: FLContext) -> Shareable:
        agreement = self._session.open(fl_ctx).agreement
        if call.complaints:
            return _statement(agreement.justify(call.moment, call.prepares, call.complaints))
        return _statement(agreement.unmask(call.moment, call.joins, call.prepares, call.survivors))

    def _train(self, call: secagg_messages.Call, fl_ctx: FLContext) -> Shareable:
        begun, round_ = time.monotonic(), call.moment.round
        trainer = self._trainer
        outbound = self._outbound
        session = self._session
        held = self._model.applied(call, session, fl_ctx)
        session.model = held.digest
        session.initial = dict(held.weights)
        session.public = self._model.public(fl_ctx)
        outbound.begin(Asked(round_, held.digest, held.since))
        site = session.open(fl_ctx)
        # Noised integers belong to one run: in another run, with other masks, they
        # would be a second release of the same noise.
        if session.noise is not None and site.holds(round_) and site.said(round_)["run"] != call.moment.run:
            site.forget(round_)
        if site.holds(round_):
            self._require_own_update(site.said(round_)["settings"], round_)
            trainer.say(
                f"round {round_ + 1}/{call.num_rounds}: the update is coded already, it is hidden once more", fl_ctx
            )
            return secagg_messages.again_message(round_)
        trainer.reserve(outbound, fl_ctx)
        update = trainer.train(outbound, held.weights, round_, held.since, begun, fl_ctx)
        return plaintext_messages.update_message(self._model.leaving(update, fl_ctx))

    def _finish(self, call: secagg_messages.Call, fl_ctx: FLContext) -> Shareable:
        begun = time.monotonic()
        outbound = self._outbound
        session = self._session
        held = self._model.final(self._model.applied(call, session, fl_ctx), fl_ctx)
        scores = self._trainer.evaluate(outbound, held.weights, call.moment.round, held.since, begun, fl_ctx)
        self._model.finish(fl_ctx)
        if session.secagg.hides_counts:
            scores = plaintext.scores_without_counts(scores)
        workspaces.finish(fl_ctx)
        agreement = session.open(fl_ctx).agreement
        said = {"model": held.digest, "job": agreement.job}
        statement = statements.sign(agreement.identity, "judged", call.moment, **said)
        return secagg_messages.reply_message(secagg_messages.Reply(statement, b"", {"scores": scores}))

    def _require_own_update(self, found: str, round_: int) -> None:
        """Raise RoundRefused where a kept update was trained under other settings."""
        if found != self._session.settings:
            raise RoundRefused(
                f"the update of round {round_ + 1} that this site keeps",
                found="one of a job with other settings",
                expected="this job's",
                fix="submit the same job again, or delete its folder of kept state at this site",
            )


def _statement(signed: statements.Signed) -> Shareable:
    return secagg_messages.reply_message(secagg_messages.Reply(signed, b"", {}))
