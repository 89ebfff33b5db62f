"""The tasks of a site in a job whose server reads updates: `train` and `finish`, both
with the weights of every variable.
"""

from __future__ import annotations

import time

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.core.arrays import digest
from wardround.flare import orders, plaintext_messages, resend_cache, workspaces
from wardround.flare.outbound import Asked, Outbound
from wardround.flare.trainer import Trainer

TASKS = (plaintext_messages.TRAIN, plaintext_messages.FINISH)


class PlaintextTasks:
    """Answers an Order with an update, and the last one with scores."""

    names = TASKS

    def __init__(self, trainer: Trainer, outbound: Outbound) -> None:
        self._trainer = trainer
        self._outbound = outbound

    def do(self, task: str, message: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return the reply to one task; a message that is no Order: ReleaseRefused."""
        begun, order = time.monotonic(), orders.read_order(message)
        if task == plaintext_messages.TRAIN:
            return self._train(order, begun, fl_ctx)
        return self._finish(order, begun, fl_ctx)

    def _train(self, order: orders.Order, begun: float, fl_ctx: FLContext) -> Shareable:
        trainer, outbound, name = self._trainer, self._outbound, str(fl_ctx.get_identity_name())
        if order.round == 0:
            workspaces.begin_new_run(fl_ctx)
        # Noted before anything is trained: a job that continues from this state
        # continues the run that began here.
        workspaces.run_id(fl_ctx)
        trainer.require_own_state(outbound, fl_ctx)
        since = order.since(name)
        outbound.begin(Asked(order.round, digest(order.weights), since))
        if outbound.charged is not None:
            before = resend_cache.answer(workspaces.state_folder(fl_ctx), outbound.asked)
            if before is not None:
                trainer.say(
                    f"round {order.round + 1}/{order.num_rounds}: released before, sent again as it was", fl_ctx
                )
                return plaintext_messages.update_message(before)
        trainer.reserve(outbound, fl_ctx)
        if since != order.round:
            trainer.say(f"round {order.round + 1} starts from this site's own state after round {since}", fl_ctx)
        return plaintext_messages.update_message(
            trainer.train(outbound, order.weights, order.round, since, begun, fl_ctx)
        )

    def _finish(self, order: orders.Order, begun: float, fl_ctx: FLContext) -> Shareable:
        trainer, outbound = self._trainer, self._outbound
        trainer.require_own_state(outbound, fl_ctx)
        since = order.since(str(fl_ctx.get_identity_name()))
        scores = trainer.evaluate(outbound, order.weights, order.round, since, begun, fl_ctx)
        workspaces.finish(fl_ctx)
        return plaintext_messages.scores_message(scores)
