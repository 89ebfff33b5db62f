"""What a site does for a job, whoever adds its updates: it opens its data, reserves
privacy budget, trains a round and evaluates the models.

The data are opened once per process. All state is on disk, because the simulator
restarts processes. What leaves is not decided here: an update and scores are handed to
the outbound filter in the same process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext

from wardround import __version__
from wardround.algorithms.base import Algorithm
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import Sharing, parts
from wardround.core import kept_settings
from wardround.core.arrays import Arrays, digest
from wardround.core.errors import ConfigRefused
from wardround.core.traits import Fitting, require_fit
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.joint_dp import JointDP
from wardround.dp.patient_dp import PatientDP
from wardround.flare import few_patients, ledger_adapter, plaintext_messages, workspaces
from wardround.flare.outbound import NONE, Outbound
from wardround.flare.site_parts import SETTINGS, shown, tell
from wardround.messages import plaintext
from wardround.models.nets import Network
from wardround.models.roles import shared_layout
from wardround.training.client import Hospital
from wardround.training.dp_training import private_plan
from wardround.training.evaluation import ModelSelection, shared_only, spoken
from wardround.training.joint_training import require_joint
from wardround.training.task import TaskPhantoms, TaskSampling


@dataclass
class Work:
    """What a job says of training.

    fedavg_baseline: FedAvg beside the algorithm (variable `fedavg`), or None.
    private: the promise under which patients' gradients are clipped, as `outbound`
        states it, or None without one.
    """

    algorithm: Algorithm
    sharing: Sharing
    model: Network
    schedule: Schedule
    sampling: TaskSampling
    model_selection: ModelSelection
    phantoms: TaskPhantoms
    seed: int
    fedavg_baseline: Algorithm | None
    private: PatientDP | JointDP | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Return everything that shapes an update, except its noise."""
        parts = (self.algorithm, self.sharing, self.fedavg_baseline, self.model, self.schedule, self.sampling)
        return (*parts, self.model_selection, self.phantoms, self.seed)


class Trainer:
    """One site's work for one job.

    component: the component in whose name it logs.
    also: settings of the executor, beside `work`, that change the model.
    opened: the hospital, once this process has opened it.
    """

    def __init__(self, component: FLComponent, work: Work, also: tuple[object, ...] = ()) -> None:
        self.work = work
        self.opened: Hospital | None = None
        self._component = component
        self._also = also
        self._reserved = False
        self._scored: tuple[str, int, float] | None = None

    def settings(self, outbound: Outbound) -> str:
        """Return a digest of everything that shapes an update and its noise. Kept state
        and reservations are bound to it.

        How a secure sum hides the update is not part of it: the same update in another
        sum is remembered as the same (secagg/served_sums.py).
        """
        kind = "plaintext" if outbound.secagg == NONE else "secagg"
        return kept_settings.digest_of(kind, *self.work.shape, *self._also, outbound.privacy, outbound.compression)

    def bind(self, outbound: Outbound, *beside: Fitting) -> None:
        """Take over what the job promises about its updates; ConfigRefused where this training cannot keep it.

        beside: what the site does with what is revealed
        """
        require_promise_fits(outbound, self.work, beside)
        self.work.private = outbound.training_noise

    def require_own_state(self, outbound: Outbound, fl_ctx: FLContext) -> None:
        """Raise RoundRefused where the kept state is of a job with other settings, or
        was made for another sum.
        """
        bound = kept_settings.digest_of(self.settings(outbound), outbound.secagg)
        kept_settings.require_same(workspaces.state_folder(fl_ctx), bound, SETTINGS)

    def reserve(self, outbound: Outbound, fl_ctx: FLContext) -> None:
        """Reserve what the whole job costs, before anything is opened or trained. This
        happens once per process.
        """
        if outbound.charged is not None and not self._reserved:
            ledger_adapter.reserve(
                outbound.charged, fl_ctx, lambda text: self.say(text, fl_ctx), settings=self.settings(outbound)
            )
            self._reserved = True

    def hospital(self, fl_ctx: FLContext) -> Hospital:
        """Return this site's data and network, and write down how many patients there
        are.

        They are decoded at most once.
        """
        if self.opened is None:
            # Before any tensor is computed: sums depend on the number of threads.
            torch.set_num_threads(workspaces.threads_for_this_process(fl_ctx))
            self.opened = Hospital.open(
                fl_ctx.get_identity_name(),
                workspaces.workspace_root(fl_ctx),
                workspaces.state_folder(fl_ctx),
                simulator=workspaces.in_simulator(fl_ctx),
                settings=self.work,
                say=lambda text: self.say(text, fl_ctx),
            )
            least = self.opened.opened.fewest_patients
            counts = self.opened.facts["cases"]
            synthetic = self.opened.opened.phantoms
            few_patients.keep(fl_ctx, few_patients.Patients(**counts, least=least, synthetic=synthetic))
        return self.opened

    def score(self, weights: Arrays, since: int, fl_ctx: FLContext) -> float:
        """Return the validation score of a model that the site may start from, and remember it until it is reported.

        since: whose state this site starts from
        """
        found = self.hospital(fl_ctx).validate(weights, since)
        self._scored = digest(weights), since, found
        return found

    def train(
        self, outbound: Outbound, weights: Arrays, round_: int, since: int, begun: float, fl_ctx: FLContext
    ) -> plaintext_messages.Update:
        """Train one round and return its update, for the outbound filter.

        Where noise is added to the update the numbers beside it are None, because all of
        them come from the hospital's patients.

        weights: the weights of every variable.
        round_: the number of the round, from 0.
        since: the round whose state this site starts from.
        begun: when the task began, by time.monotonic(), in seconds.
        """
        hospital, silent = self.hospital(fl_ctx), outbound.noise is not None
        # Joint steps are many and light, and nobody is told the score: it would take longer than the step.
        light = isinstance(self.work.private, JointDP)
        val_score = None if light else self._incoming(hospital, weights, since)
        delta, loss = hospital.train(weights, round_, since)
        numbers: dict[str, float | None] = {"loss": loss, "val_score": val_score}
        numbers["seconds"] = time.monotonic() - begun
        told = tell(self._component, numbers, round_, fl_ctx, silent=silent, timed=not outbound.withholds_training_time)
        numbers = plaintext.without_time(numbers) if outbound.withholds_training_time else numbers
        words = f"loss {shown(told['loss'])}, validation score of the incoming model {shown(told['val_score'])}"
        rounds = self.work.schedule.num_rounds
        self.say(f"round {round_ + 1}/{rounds} {hospital.title}: {words}, seconds {shown(told['seconds'])}", fl_ctx)
        facts = hospital.facts | {"version": __version__}
        facts = facts if outbound.charged is None else plaintext.without_counts(facts)
        return plaintext_messages.Update(delta, hospital.weight, dict.fromkeys(numbers) if silent else numbers, facts)

    def evaluate(
        self, outbound: Outbound, weights: Arrays, round_: int, since: int, begun: float, fl_ctx: FLContext
    ) -> Mapping[str, Any]:
        """Train the local baseline, fine-tune, evaluate all models, and keep the report
        at home; return the scores.

        The arguments are those of `train`.
        """
        hospital = self.hospital(fl_ctx)
        val_score = self._incoming(hospital, weights, since)
        self.say(f"{hospital.title}: trains its local baseline, fine-tunes and evaluates the models", fl_ctx)
        evaluation = hospital.evaluate(weights, since)
        hospital.keep(evaluation, workspaces.run_folder(fl_ctx), workspaces.job_name(fl_ctx))
        seconds = None if outbound.withholds_training_time else time.monotonic() - begun
        self.say(f"{hospital.title}: {spoken(evaluation.numbers)}", fl_ctx)
        tell(self._component, {"val_score": val_score}, round_, fl_ctx, silent=outbound.noise is not None)
        scores: Mapping[str, Any] = evaluation.numbers | {"val_score": val_score, "seconds": seconds}
        if outbound.charged is not None:
            scores = plaintext.scores_without_counts(shared_only(scores))
        return scores

    def _incoming(self, hospital: Hospital, weights: Arrays, since: int) -> float:
        """Return the score of the incoming model; where its step was checked, it is the one that was found then."""
        scored, self._scored = self._scored, None
        if scored is not None and scored[:2] == (digest(weights), since):
            return scored[2]
        return hospital.validate(weights, since)

    def say(self, text: str, fl_ctx: FLContext) -> None:
        """Write a line into the site's log."""
        self._component.log_info(fl_ctx, text)


def require_promise_fits(outbound: Outbound, work: Work, beside: tuple[Fitting, ...] = ()) -> None:
    """Raise ConfigRefused where a job's training cannot keep what its component `outbound` promises.

    beside: what the site does with what is revealed, a check of every step
    parts that do not go together (core/traits.py), a promise for other rounds or work, an algorithm whose private
    gradients nobody has counted; at hospital level: rounding that costs more than is set aside for it
    """
    trained = parts(work.algorithm, work.sharing, work.fedavg_baseline is not None)
    charged, schedule = outbound.charged, work.schedule
    by_patients = () if schedule.work_by_patients is None else (schedule.work_by_patients,)
    require_fit([*trained, *outbound.parts, *beside, *by_patients])
    require_joint(work.algorithm, work.sharing, work.model, charged)
    if charged is None:
        return
    if charged.num_rounds != schedule.num_rounds or getattr(charged, "work", schedule.work) != schedule.work:
        raise ConfigRefused(
            "a job with differential privacy",
            found="a mechanism for other rounds or work",
            expected="the mechanism of this schedule",
            fix="print the job again with `wardround jobs write`",
        )
    if isinstance(charged, HospitalRelease):
        shared = shared_layout(work.model.build(0), work.sharing.home_roles)
        charged.require_exact(shared.total * len(work.algorithm.variables))
    if isinstance(outbound.training_noise, PatientDP):
        private_plan(work.algorithm, None, schedule, None)
