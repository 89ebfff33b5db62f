"""The global model at a site of a secure sum: what a server does in plaintext jobs is
done here, by every site alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.aggregation.validation import StepCheck
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.algorithms.train_only import TrainOnly
from wardround.compression import linear
from wardround.compression.chosen import Compression
from wardround.core.arrays import Arrays, Layout, digest, norm
from wardround.core.errors import RoundRefused
from wardround.data.ehr_text import words_of
from wardround.dp.joint_dp import JointDP
from wardround.dp.scaling import Scaling, scaled, unscaled
from wardround.flare import plaintext_messages, secagg_messages, workspaces
from wardround.flare.outbound import Outbound
from wardround.flare.secagg_session import SecAggSession
from wardround.flare.step_check import Step, require_accepted
from wardround.flare.trainer import Trainer
from wardround.models.roles import shared_layout
from wardround.secagg.client import SecAggClient
from wardround.secagg.fixed_point import longest_error
from wardround.training.client import FEDAVG_BASELINE
from wardround.training.global_model import GlobalModel


@dataclass(frozen=True)
class Start:
    """What a round starts from.

    weights: the weights of every variable.
    since: the round whose state the site starts from, which is the one after the last
        round whose sum it is in.
    """

    weights: Arrays
    since: int

    @cached_property
    def digest(self) -> str:
        """Return the digest of the weights, which every site signs."""
        return digest(self.weights)


class SecAggModel:
    """Opens the model once per process and applies revealed sums to it.

    rule, variables: the job's server optimizer, and the variables that travel
    scaling: public scales (hospital-level DP): an update is divided by them before it is clipped, the mean multiplied after
    validation: how every revealed sum is checked before it is applied; None: it is not
    """

    def __init__(
        self,
        trainer: Trainer,
        outbound: Outbound,
        server_optimizer: ServerOptimizer,
        variables: list[str],
        scaling: Scaling,
        validation: StepCheck | None = None,
    ) -> None:
        self._trainer, self._outbound = trainer, outbound
        self._validation = validation
        self._rule, self._variables, self._scaling = server_optimizer, variables, scaling
        self._model: GlobalModel | None = None

    def held(self, fl_ctx: FLContext) -> GlobalModel:
        """Return the model as this site keeps it, opened at the first call."""
        if self._model is None:
            work = self._trainer.work
            folder = workspaces.state_folder(fl_ctx) / "global"
            patch = list(work.sampling.patch)
            promise = {"job": workspaces.job_name(fl_ctx), "sampling.patch": patch}
            promise |= {"settings": self._trainer.settings(self._outbound)}
            promise |= {"sampling.columns": words_of(work.sampling.table)}
            # What nobody trains is in the file of weights: nothing is missing there.
            kept = () if isinstance(work.sharing, TrainOnly) else work.sharing.home_roles
            promise |= {"sharing.home": ", ".join(kept)}
            inputs = work.sampling.described
            opened = (folder, work.model, self._rule, self._variables, work.seed, promise, inputs)
            self._model = GlobalModel.open(*opened, work.schedule.final)
        return self._model

    def applied(self, call: secagg_messages.Call, session: SecAggSession, fl_ctx: FLContext) -> Start:
        """Bring the model to the round of the call with the sums that were revealed,
        and return what the round starts from.

        a site that missed rounds applies their sums one after the other, as all others did: the model is theirs, bit for bit
        sums that do not lead to the round of the call: RoundRefused
        a sum that the job's check refuses: RoundRefused, the model before it stays, and this site takes no more in this job
        """
        held = self.held(fl_ctx)
        for revealed in call.revealed:
            # A sum that is applied already, or that is of a later round, is skipped:
            # each sum is applied once, whatever the server repeats.
            if held.round == revealed.moment.round:
                self._step(held, revealed, session, fl_ctx)
        if held.round != call.moment.round:
            raise RoundRefused(
                f"the global model for round {call.moment.round + 1}",
                found=f"a model after {held.round} rounds at this site",
                expected=f"one after {call.moment.round} rounds",
                fix="submit the job again under a name of its own: the server has no sums that "
                "lead there, or this site's state is from another run",
            )
        return Start(held.wire(), _since(held))

    def leaving(self, update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
        """Return the update as it is coded.

        With a check of every step: shortened to the norm that it states. With noise: divided by this
        round's public scales (1 where the job has none). Both in one job are refused; without either the update is as it is.
        """
        if self._validation is not None:
            delta = self._validation.shortened(update.delta)
            self._trainer.say(f"the update is {norm(update.delta):.4g} long and leaves {norm(delta):.4g} long", fl_ctx)
            return replace(update, delta=delta)
        if self._outbound.noise is None:
            return update
        return replace(update, delta=unscaled(self._scales(self.held(fl_ctx), update.delta), update.delta))

    def final(self, start: Start, fl_ctx: FLContext) -> Start:
        """Return the final model, which is evaluated from the state that `start` names.

        start: what `applied` returned after the last round
        """
        return replace(start, weights=self.held(fl_ctx).final())

    def public(self, fl_ctx: FLContext) -> dict[str, Any]:
        """Return what the job's compression has kept of the revealed means."""
        return dict(self.held(fl_ctx).memory)

    def finish(self, fl_ctx: FLContext) -> None:
        """Write the final model into the run's folder."""
        self.held(fl_ctx).finish(None, workspaces.run_folder(fl_ctx))

    def _step(
        self, held: GlobalModel, revealed: secagg_messages.Revealed, session: SecAggSession, fl_ctx: FLContext
    ) -> None:
        """Apply one revealed sum, and write down what this site may know of it."""
        site, noise = session.open(fl_ctx), self._outbound.noise
        if held.round == 0:
            site.begin(self._first(held))
        ratio = self._ratio(held.round, site.cycle)
        mean, known = site.reveal(revealed.moment, revealed.sites, revealed.payload, ratio, revealed.roster)
        if self._outbound.compresses is not None:
            mean = self._opened(self._outbound.compresses, held, mean, site)
        participation = min(1.0, len(revealed.sites) / max(1, revealed.configured))
        name = site.agreement.name
        mine = name in revealed.sites
        entry: dict[str, Any] = {"val_score": revealed.val_score, "sum": known, "mine": mine}
        # A hospital does not learn what the others' data are: their part of the model
        # stays of unknown origin.
        facts = {name: self._trainer.hospital(fl_ctx).facts}
        entry |= {"aggregated": sorted(revealed.sites), "facts": facts}
        if noise is not None:
            s = self._scales(held, mean)
            deviation = noise.deviation / math.sqrt(len(revealed.sites))
            entry["scales"] = list(self._scaling.after(Layout.of(mean), s, mean, deviation))
            mean = scaled(s, mean)
        if isinstance(noise, JointDP):
            # Over the public number of patients, whoever is in the sum: how many took part is not told by the step.
            mean = noise.gradient(mean, len(revealed.sites))
        if self._validation is not None:
            round_, before = held.round, site.grid(held.round - 1) if held.round else None
            denominator = session.secagg.denominator(len(revealed.sites), known["patients"] or 0)
            coding = longest_error(site.grid(round_), before, len(revealed.sites), denominator)
            step = Step(mean, participation, round_ + 1 if mine else _since(held), coding)
            try:
                require_accepted(self._validation, step, held, self._trainer, fl_ctx)
            except RoundRefused:
                # On disk before the refusal is told: asked once more, or after a restart, an evaluation could come
                # out on the other side, and the server would only have to ask often enough.
                site.agreement.stop()
                raise
        held.step(mean, participation, entry)
        words = "" if mine else "; this site is not in it"
        self._trainer.say(f"the sum of {len(revealed.sites)} sites was revealed and applied{words}", fl_ctx)

    def _leaving(self, held: GlobalModel) -> dict[str, Any]:
        """Return the first weights of the blocks that leave this site."""
        work = self._trainer.work
        shared = shared_layout(work.model.build(0), work.sharing.home_roles).names
        names = {f"{variable}:{name}" for variable in work.algorithm.variables for name in shared}
        fedavg_baseline = (
            set()
            if work.fedavg_baseline is None
            else {name for name in held.wire() if name.startswith(f"{FEDAVG_BASELINE}:")}
        )
        return {name: block for name, block in held.wire().items() if name in names | fedavg_baseline}

    def _first(self, held: GlobalModel) -> dict[str, Any]:
        """Return the first weights in the form in which an update enters the sum."""
        compression, leaving = self._outbound.compresses, self._leaving(held)
        return leaving if compression is None else linear.first(compression, leaving, 0, {})

    def _opened(self, compression: Compression, held: GlobalModel, mean: Arrays, site: SecAggClient) -> dict[str, Any]:
        """Return a revealed mean in the blocks of the model.

        What the compression keeps of it is written down with the model. Where the next
        round is the first one of its layout, its grid follows from the first weights.
        """
        leaving = self._leaving(held)
        found = linear.opened(compression, Layout.of(leaving), mean, held.round, held.memory)
        if held.round == 0:
            for later in range(1, site.cycle):
                site.begin(linear.first(compression, leaving, later, held.memory), later)
        return found

    def _ratio(self, round_: int, cycle: int) -> float:
        """Return how much smaller the steps are in the next round with this grid's
        blocks. The grid of its sum is finer by the same ratio.
        """
        schedule = self._trainer.work.schedule
        if round_ + cycle >= schedule.num_rounds:
            return 1.0
        return schedule.steps(round_ + cycle).mean_rate / schedule.steps(round_).mean_rate

    def _scales(self, held: GlobalModel, shared: Arrays) -> tuple[float, ...]:
        """Return the public scales of this round, by group of the shared blocks."""
        return tuple(held.history[-1]["scales"]) if held.history else self._scaling.first(Layout.of(shared))


def _since(held: GlobalModel) -> int:
    """Return whose state the site starts from: that after the last round whose sum it is in."""
    return max((n + 1 for n, entry in enumerate(held.history) if entry.get("mine", True)), default=0)
