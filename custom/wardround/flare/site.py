"""The site's door to NVFlare: an Executor that trains a round and, after the last round, judges the models.

It opens the data once per process, keeps its state on disk (the simulator restarts processes), and turns every failure into
a refusal code for the server while the full reason stays in the site's own log.
"""

from __future__ import annotations

import time
from functools import cached_property

from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround import __version__
from wardround.algorithms.base import Algorithm
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import Sharing
from wardround.errors import ConfigRefused
from wardround.flare import kept_settings, ledger_door, outbox, places, wire
from wardround.flare.ledger_door import Charged
from wardround.flare.site_parts import (
    SETTINGS,
    guarded,
    open_hospital,
    private_promise,
    require_given,
    require_started,
    shown,
    tell,
)
from wardround.hospital.judging import Judging, shared_only, spoken
from wardround.hospital.opening import Phantoms
from wardround.hospital.rounds import Hospital
from wardround.hospital.segmentation import Sampling
from wardround.models.nets import Network


class SiteTrainer(Executor):  # type: ignore[misc]
    """Tasks `train` and `finish` of one job at one site.

    algorithm: what the job trains | sharing: which blocks of it leave the site | rival: FedAvg beside it (bank `fedavg`), or
    None | everything else: the job's promises
    dp: the exit's mechanism when it costs privacy budget: reserved before anything is trained
    """

    def __init__(
        self,
        algorithm: Algorithm,
        sharing: Sharing,
        model: Network,
        schedule: Schedule,
        sampling: Sampling,
        judging: Judging,
        phantoms: Phantoms,
        seed: int,
        rival: Algorithm | None = None,
        dp: Charged | None = None,
    ) -> None:
        super().__init__()
        require_given(
            algorithm=algorithm, sharing=sharing, model=model, schedule=schedule, sampling=sampling, judging=judging
        )
        require_given(phantoms=phantoms, seed=seed)
        require_started(algorithm, sharing, schedule)
        self.algorithm, self.sharing = algorithm, sharing
        self.model, self.schedule, self.sampling = model, schedule, sampling
        self.judging, self.phantoms, self.seed, self.rival = judging, phantoms, seed, rival
        self.dp, self.private = dp, private_promise(dp, algorithm, sharing, schedule, rival, model)
        self._hospital: Hospital | None = None

    @cached_property
    def settings(self) -> str:
        """Return a digest of everything that shapes an update and its noise; kept state and reservations are bound to it."""
        shape = (
            self.algorithm,
            self.sharing,
            self.rival,
            self.model,
            self.schedule,
            self.sampling,
            self.judging,
            self.phantoms,
        )
        return kept_settings.digest_of(type(self).__name__, *shape, self.seed, self.dp)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do one task; a refusal or failure becomes a reply that carries its code only."""

        def work() -> Shareable:
            order = wire.read_order(shareable)
            if task_name == wire.TRAIN:
                return self._train(order, fl_ctx)
            if task_name == wire.FINISH:
                return self._finish(order, fl_ctx)
            raise ConfigRefused("a task", found=task_name, expected="train or finish", fix="check the job's executors")

        return guarded(self, fl_ctx, work)

    def _open(self, fl_ctx: FLContext) -> Hospital:
        if self._hospital is None:
            self._hospital = open_hospital(self, self, fl_ctx)
        return self._hospital

    def _train(self, order: wire.Order, fl_ctx: FLContext) -> Shareable:
        begun = time.monotonic()
        if order.round == 0:
            places.begin_anew(fl_ctx)
        places.run_id(fl_ctx)
        kept_settings.require_same(places.state_folder(fl_ctx), self.settings, SETTINGS)
        if self.dp is not None:
            before = outbox.expect(places.state_folder(fl_ctx), order.round, order.weights)
            if before is not None:
                self.log_info(fl_ctx, f"round {order.round + 1}/{order.rounds}: released before, sent again as it was")
                return wire.update_message(before)
        if self.dp is not None and self._hospital is None:
            ledger_door.reserve(self.dp, fl_ctx, lambda text: self.log_info(fl_ctx, text), settings=self.settings)
        hospital = self._open(fl_ctx)
        since = order.since(hospital.name)
        if since != order.round:
            self.log_info(fl_ctx, f"round {order.round + 1} starts from this site's own state after round {since}")
        val_score = hospital.validate(order.weights, since)
        delta, loss = hospital.train(order.weights, order.round, since)
        numbers = {"loss": loss, "val_score": val_score, "seconds": time.monotonic() - begun}
        told = tell(self, numbers, order.round, fl_ctx)
        self.log_info(
            fl_ctx,
            f"round {order.round + 1}/{order.rounds} {hospital.title}: loss {shown(told['loss'])}, "
            f"validation score of the incoming model {shown(told['val_score'])}, {numbers['seconds']:.1f} s",
        )
        facts = hospital.facts | {"version": __version__}
        facts = facts if self.dp is None else wire.without_counts(facts)
        return wire.update_message(wire.Update(delta, hospital.weight, numbers, facts))

    def _finish(self, order: wire.Order, fl_ctx: FLContext) -> Shareable:
        begun = time.monotonic()
        kept_settings.require_same(places.state_folder(fl_ctx), self.settings, SETTINGS)
        hospital = self._open(fl_ctx)
        since = order.since(hospital.name)
        val_score = hospital.validate(order.weights, since)
        self.log_info(fl_ctx, f"{hospital.title}: trains its local baseline, fine-tunes and judges the models")
        judgement = hospital.judge(order.weights, since)
        hospital.keep(judgement, places.run_folder(fl_ctx), places.job_name(fl_ctx))
        seconds = time.monotonic() - begun
        self.log_info(fl_ctx, f"{hospital.title}: {spoken(judgement.numbers)}, {seconds:.1f} s")
        tell(self, {"val_score": val_score}, order.round, fl_ctx)
        places.finish(fl_ctx)
        scores = judgement.numbers | {"val_score": val_score, "seconds": seconds}
        return wire.scores_message(scores if self.dp is None else wire.scores_without_counts(shared_only(scores)))
