"""The site's door to NVFlare in jobs with a hidden sum: every site holds the global model and applies the revealed sum.

The update that `train` returns is readable and stays in this process: the exit (hidden_release.py) codes and hides it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround import __version__
from wardround.algorithms.base import Algorithm
from wardround.algorithms.rules import Rule
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import Sharing, require_alone
from wardround.arrays import Arrays, Layout, digest
from wardround.data.ehr_words import words_of
from wardround.errors import ConfigRefused, RoundRefused
from wardround.flare import kept_settings, ledger_door, places, sealed, wire
from wardround.flare.hospital_release import HospitalRelease
from wardround.flare.ledger_door import Charged
from wardround.flare.secure_sum import SecureSum, secure_sum_of
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
from wardround.hospital.global_model import GlobalModel
from wardround.hospital.judging import Judging, shared_only, spoken
from wardround.hospital.opening import Phantoms
from wardround.hospital.rounds import RIVAL, Hospital
from wardround.hospital.segmentation import Sampling
from wardround.models.nets import Network
from wardround.models.roles import shared_layout
from wardround.privacy import statements
from wardround.privacy.scaling import ISOTROPIC, Scaling, scaled, unscaled
from wardround.privacy.sum_site import Incoming


class SecureSite(Executor):  # type: ignore[misc]
    """The six tasks of sealed.py. rule, banks: what a server does in the clear is done here, by every site alike.

    scaling: public scales (hospital-level DP): an update is divided by them before the exit, the mean multiplied after
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
        rule: Rule,
        banks: list[str],
        rival: Algorithm | None = None,
        dp: Charged | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        require_given(algorithm=algorithm, sharing=sharing, model=model, schedule=schedule, sampling=sampling)
        require_given(judging=judging, phantoms=phantoms, seed=seed, rule=rule, banks=banks)
        require_alone(sharing, rival is not None, "a hidden sum")
        require_started(algorithm, sharing, schedule)
        self.algorithm, self.sharing, self.rival = algorithm, sharing, rival
        self.model, self.schedule, self.sampling = model, schedule, sampling
        self.judging, self.phantoms, self.seed = judging, phantoms, seed
        self.rule, self.banks = rule, banks
        self.dp, self.private = dp, private_promise(dp, algorithm, sharing, schedule, rival, model)
        self.scaling = scaling
        self._hospital: Hospital | None = None
        self._global: GlobalModel | None = None
        self._reserved = False

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do one task; a refusal or failure becomes a reply that carries its code only."""

        def work() -> Shareable:
            call, secure = sealed.read_call(shareable), secure_sum_of(fl_ctx)
            if task_name not in self._tasks:
                raise ConfigRefused(
                    "a task", found=task_name, expected=", ".join(sealed.TASKS), fix="check the job's executors"
                )
            self._require_one_promise(secure)
            if task_name == sealed.JOIN and call.begun == 0:
                places.begin_anew(fl_ctx)
            kept_settings.require_same(places.state_folder(fl_ctx), self._bound(secure), SETTINGS)
            secure.settings = self.settings
            secure.begin(call)
            return self._tasks[task_name](call, secure, fl_ctx)

        return guarded(self, fl_ctx, work)

    @cached_property
    def _tasks(self) -> Mapping[str, Callable[[sealed.Call, SecureSum, FLContext], Shareable]]:
        return {
            sealed.JOIN: self._join,
            sealed.PREPARE: self._prepare,
            wire.TRAIN: self._train,
            sealed.HOP: self._hop,
            sealed.UNMASK: self._unmask,
            wire.FINISH: self._finish,
        }

    def _join(self, call: sealed.Call, secure: SecureSum, fl_ctx: FLContext) -> Shareable:
        places.run_id(fl_ctx)
        return _statement(secure.open(fl_ctx).participant.join(call.moment.run))

    def _prepare(self, call: sealed.Call, secure: SecureSum, fl_ctx: FLContext) -> Shareable:
        return _statement(secure.open(fl_ctx).participant.prepare(call.moment, call.joins))

    def _hop(self, call: sealed.Call, secure: SecureSum, fl_ctx: FLContext) -> Shareable:
        incoming = Incoming(call.ready, call.done, call.hop, call.payload)
        statement, payload = secure.open(fl_ctx).hop(call.moment, call.prepares, incoming)
        return sealed.reply_message(sealed.Reply(statement, payload, {}))

    def _unmask(self, call: sealed.Call, secure: SecureSum, fl_ctx: FLContext) -> Shareable:
        participant = secure.open(fl_ctx).participant
        if call.complaints:
            return _statement(participant.justify(call.moment, call.prepares, call.complaints))
        return _statement(participant.unmask(call.moment, call.joins, call.prepares, call.survivors))

    def _train(self, call: sealed.Call, secure: SecureSum, fl_ctx: FLContext) -> Shareable:
        begun, round_ = time.monotonic(), call.moment.round
        held = self._held(fl_ctx)
        self._apply(call, secure, held, fl_ctx)
        secure.model, secure.initial = digest(held.wire()), held.wire()
        site = secure.open(fl_ctx)
        if secure.noise is not None and site.holds(round_) and site.said(round_)["run"] != call.moment.run:
            site.forget(round_)
        if site.holds(round_):
            self._require_same_settings(site.said(round_)["settings"], round_)
            self.log_info(fl_ctx, f"round {round_ + 1}/{call.rounds}: the update is there already, hidden anew")
            return sealed.again_message(round_)
        if self.dp is not None and not self._reserved:
            ledger_door.reserve(self.dp, fl_ctx, lambda text: self.log_info(fl_ctx, text), settings=self.settings)
            self._reserved = True
        hospital = self._open(fl_ctx)
        since = self._since(held)
        val_score = hospital.validate(held.wire(), since)
        delta, loss = hospital.train(held.wire(), round_, since)
        numbers = {"loss": loss, "val_score": val_score, "seconds": time.monotonic() - begun}
        told = tell(self, numbers, round_, fl_ctx, silent=secure.noise is not None)
        self.log_info(
            fl_ctx,
            f"round {round_ + 1}/{call.rounds} {hospital.title}: loss {shown(told['loss'])}, "
            f"validation score of the incoming model {shown(told['val_score'])}, {numbers['seconds']:.1f} s",
        )
        if secure.noise is not None:
            numbers = dict.fromkeys(numbers)
            delta = unscaled(self._scales(held, delta), delta)
        facts = hospital.facts | {"version": __version__}
        facts = facts if self.dp is None else wire.without_counts(facts)
        return wire.update_message(wire.Update(delta, hospital.weight, numbers, facts))

    def _finish(self, call: sealed.Call, secure: SecureSum, fl_ctx: FLContext) -> Shareable:
        begun, held, hospital = time.monotonic(), self._held(fl_ctx), self._open(fl_ctx)
        self._apply(call, secure, held, fl_ctx)
        since = self._since(held)
        val_score = hospital.validate(held.wire(), since)
        self.log_info(fl_ctx, f"{hospital.title}: trains its local baseline, fine-tunes and judges the models")
        judgement = hospital.judge(held.wire(), since)
        hospital.keep(judgement, places.run_folder(fl_ctx), places.job_name(fl_ctx))
        held.finish(None, places.run_folder(fl_ctx))
        scores: Any = judgement.numbers | {"val_score": val_score, "seconds": time.monotonic() - begun}
        self.log_info(fl_ctx, f"{hospital.title}: {spoken(scores)}, {scores['seconds']:.1f} s")
        tell(self, {"val_score": val_score}, call.moment.round, fl_ctx, silent=secure.noise is not None)
        scores = scores if self.dp is None else shared_only(scores)
        if self.dp is not None or secure.protection.weights == "patients_hidden":
            scores = wire.scores_without_counts(scores)
        places.finish(fl_ctx)
        participant = secure.open(fl_ctx).participant
        said = {"model": digest(held.wire()), "job": participant.job}
        statement = statements.sign(participant.identity, "judged", call.moment, **said)
        return sealed.reply_message(sealed.Reply(statement, b"", {"scores": scores}))

    def _apply(self, call: sealed.Call, secure: SecureSum, held: GlobalModel, fl_ctx: FLContext) -> None:
        """Bring the global model to the round of the call with the sums that were revealed; applied already: passed over.

        a site that missed rounds applies their sums one after the other, as all others did: the model is theirs, bit for bit
        """
        site = secure.open(fl_ctx)
        for revealed in call.revealed:
            if held.round != revealed.moment.round:
                continue
            if held.round == 0:
                site.begin(self._leaving(held))
            payload, ratio = revealed.payload, self._ratio(held.round)
            mean, known = site.reveal(revealed.moment, revealed.sites, payload, ratio, revealed.roster)
            participation = min(1.0, len(revealed.sites) / max(1, revealed.configured))
            mine = site.participant.name in revealed.sites
            entry: dict[str, Any] = {"val_score": revealed.val_score, "sum": known, "mine": mine}
            # A hospital does not learn what the others' data are: their part of the model stays of unknown origin.
            entry |= {"aggregated": sorted(revealed.sites), "facts": {site.participant.name: self._open(fl_ctx).facts}}
            if secure.noise is not None:
                s = self._scales(held, mean)
                deviation = secure.noise.deviation / math.sqrt(len(revealed.sites))
                entry["scales"] = list((self.scaling or ISOTROPIC).after(Layout.of(mean), s, mean, deviation))
                mean = scaled(s, mean)
            held.step(mean, participation, entry)
            words = "" if mine else "; this site is not in it"
            self.log_info(fl_ctx, f"the sum of {len(revealed.sites)} sites was revealed and applied{words}")
        if held.round != call.moment.round:
            raise RoundRefused(
                f"the global model for round {call.moment.round + 1}",
                found=f"a model after {held.round} rounds at this site",
                expected=f"one after {call.moment.round} rounds",
                fix="the server has no sums that lead there, or this site's state is from another run: start the job anew",
            )

    def _since(self, held: GlobalModel) -> int:
        """Return whose state this site starts from: that after the last round whose sum it is in."""
        return max((n + 1 for n, entry in enumerate(held.history) if entry.get("mine", True)), default=0)

    def _leaving(self, held: GlobalModel) -> dict[str, Any]:
        """Return the first weights of the blocks that leave this site."""
        names = {f"{bank}:{name}" for bank in self.algorithm.banks for name in self._shared}
        rival = set() if self.rival is None else {name for name in held.wire() if name.startswith(f"{RIVAL}:")}
        return {name: block for name, block in held.wire().items() if name in names | rival}

    @cached_property
    def _shared(self) -> tuple[str, ...]:
        return tuple(shared_layout(self.model.build(0), self.sharing.home_roles).names)

    @cached_property
    def settings(self) -> str:
        """Return a digest of everything that shapes an update and its noise; kept state and reservations are bound to it."""
        shape = (self.algorithm, self.sharing, self.rival, self.model, self.schedule, self.sampling)
        others = (self.judging, self.phantoms, self.seed, self.dp, self.rule, self.banks, self.scaling)
        return kept_settings.digest_of(type(self).__name__, *shape, *others)

    def _bound(self, secure: SecureSum) -> str:
        """Return what kept state is bound to here: the settings, and the sum that its integers are made for."""
        return kept_settings.digest_of(self.settings, secure.protection, secure.noise, secure.seed)

    def _require_one_promise(self, secure: SecureSum) -> None:
        """Raise ConfigRefused unless the sum's noise is what this executor reserves for: else it is charged and never made."""
        promised = self.dp.promise if isinstance(self.dp, HospitalRelease) else None
        if secure.noise != promised:
            raise ConfigRefused(
                "the noise of a hidden sum",
                found="a `noise` of secure_sum and a `dp` of its executor that are not the same promise",
                expected="one promise of hospital-level noise in both, or in neither",
                fix="print the job anew",
            )

    def _require_same_settings(self, found: str, round_: int) -> None:
        if found != self.settings:
            raise RoundRefused(
                f"the update of round {round_ + 1} that this site keeps",
                found="one of a job with other settings",
                expected="this job's",
                fix="resume with the same job, or use another state folder",
            )

    def _ratio(self, round_: int) -> float:
        if round_ + 1 >= self.schedule.rounds:
            return 1.0
        return self.schedule.steps(round_ + 1).lr / self.schedule.steps(round_).lr

    def _scales(self, held: GlobalModel, shared: Arrays) -> tuple[float, ...]:
        """Return the public scales of this round, by group of the blocks that are shared."""
        return (
            tuple(held.history[-1]["scales"]) if held.history else (self.scaling or ISOTROPIC).first(Layout.of(shared))
        )

    def _open(self, fl_ctx: FLContext) -> Hospital:
        if self._hospital is None:
            self._hospital = open_hospital(self, self, fl_ctx)
        return self._hospital

    def _held(self, fl_ctx: FLContext) -> GlobalModel:
        if self._global is None:
            folder, patch = places.state_folder(fl_ctx) / "global", list(self.sampling.patch)
            promise = {"job": places.job_name(fl_ctx), "sampling.patch": patch, "settings": self.settings}
            promise |= {"sampling.columns": words_of(self.sampling.table)}
            promise |= {"sharing.home": ", ".join(self.sharing.home_roles)}
            inputs = self.sampling.described
            self._global = GlobalModel.open(folder, self.model, self.rule, self.banks, self.seed, promise, inputs)
        return self._global


def _statement(signed: statements.Signed) -> Shareable:
    return sealed.reply_message(sealed.Reply(signed, b"", {}))
