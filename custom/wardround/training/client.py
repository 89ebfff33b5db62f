"""What does one hospital do in a job: open, validate, train a round, evaluate?

The state of a hospital lies on disk between rounds (training/state.py), so that a
restarted process continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wardround.algorithms import patient_work
from wardround.algorithms.base import Algorithm, LocalStart, Objective, personal
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_round, start_of
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING, Sharing
from wardround.core.arrays import Array, Arrays, from_variable, in_variable
from wardround.dp.joint_dp import JointDP
from wardround.dp.joint_steps import prove
from wardround.dp.patient_dp import PatientDP
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import first_weights
from wardround.models.nets import Network
from wardround.models.specs import Single
from wardround.models.warm_start import told
from wardround.training import mask_history, origin, pages, state
from wardround.training.dp_training import DPSite
from wardround.training.evaluation import WARM_START, Evaluation, ModelSelection, evaluate
from wardround.training.opening import Opened, open_site
from wardround.training.splitting import split_of
from wardround.training.task import TaskPhantoms, TaskSampling, TaskSite

# The variable under which the FedAvg baseline travels in the same messages.
FEDAVG_BASELINE = "fedavg"


class Settings(Protocol):
    """What a job says about training at a site.

    private: The parameters of patient-level DP, whose noise the hospital adds alone or
        with others, or None without it.
    """

    algorithm: Algorithm
    sharing: Sharing
    fedavg_baseline: Algorithm | None
    model: Network
    schedule: Schedule
    sampling: TaskSampling
    model_selection: ModelSelection
    phantoms: TaskPhantoms
    seed: int
    private: PatientDP | JointDP | None


@dataclass(frozen=True)
class Hospital:
    """Everything that a site does in one job, given the weights of each round."""

    name: str
    opened: Opened
    site: TaskSite
    settings: Settings
    states: Path

    @staticmethod
    def open(
        name: str,
        workspace: Path,
        states: Path,
        *,
        simulator: bool,
        settings: Settings,
        say: Callable[[str], None],
    ) -> Hospital:
        """Open this hospital's data and build the job's network on its device.

        Images are decoded at most once; a later run reads the cache.
        """
        opened = open_site(
            name,
            workspace,
            simulator=simulator,
            phantoms=settings.phantoms,
            sampling=settings.sampling,
            seed=settings.seed,
            say=say,
        )
        split = split_of(opened.cohort, patient_dp=settings.private is not None)
        site = settings.sampling.open(name, opened.cohort, split, settings.model, settings.seed, opened.device)
        hospital = Hospital(name, opened, site, settings, states)
        if isinstance(settings.model, Single) and settings.model.weights:
            say(f"{hospital.title}: {told(settings.model, settings.seed)}")
        return hospital

    @property
    def title(self) -> str:
        """Return the site's name, followed by its display name where that differs."""
        return self.name if self.opened.label == self.name else f"{self.name} ({self.opened.label})"

    @property
    def weight(self) -> float:
        """Return this site's weight in the mean: the number of its training patients.

        Under patient-level DP the weight is 1, because that number must not be
        revealed.
        """
        return 1.0 if self.settings.private is not None else float(self.site.train_patients)

    @cached_property
    def schedule(self) -> Schedule:
        """Return the schedule of this hospital, for the federation and the local baseline."""
        return self.settings.schedule.of_hospital(self.site.train_patients)

    @cached_property
    def fingerprint(self) -> str:
        """Return the fingerprint of the architecture that this site trains."""
        return fingerprint(self.site.model.module)

    @property
    def facts(self) -> dict[str, Any]:
        """Return what this site reports about itself: counts and names only."""
        cohort, split = self.opened.cohort, self.site.split
        parts = {"train": split.train, "val": split.val, "test": split.test}
        return {
            # A display name is free text of the site: it must not forge lines of a log.
            "label": "".join(c if c.isprintable() else " " for c in self.opened.label[:64]),
            "cases": {part: len({cohort.patients[case] for case in cases}) for part, cases in parts.items()},
            **({"classes": cohort.class_counts()} if cohort.label_kind == "classes" else {}),
            "modalities": dict(cohort.modalities),
            "label_kind": cohort.label_kind,
            "device": str(self.site.device),
            "phantoms": self.opened.phantoms or origin.invented(cohort.patients),
            "fingerprint": self.fingerprint,
        }

    def validate(self, weights: Arrays, since: int) -> float:
        """Return the mean validation score of the incoming model.

        Blocks that stay at home are this site's own.
        since: The round before which this site's state is taken: the one after its last
            update that was aggregated.
        """
        return self.site.score(
            self._start(weights, since).variables["model"],
            self.site.split.val,
        )

    def train(
        self,
        weights: Arrays,
        round_: int,
        since: int | None = None,
    ) -> tuple[dict[str, Array], float | None]:
        """Train one round, write the state for the next, return (update, mean loss).

        The update is what may leave the site.
        since: As in `validate`; None means that the update of the round before was
            aggregated.

        Under patient-level DP every gradient is private, which the outbound filter
        verifies (dp/noise_proof.py). The loss is not private, so it is None.
        """
        site = self.site
        algorithm = self.settings.algorithm
        fedavg_baseline = self.settings.fedavg_baseline
        of_job, steps = self.settings.schedule.steps(round_), self.schedule.steps(round_)
        since = round_ if since is None else since
        received, memory = self._vectors(algorithm, weights), self._memory(since)
        objective = self._objective(round_)
        delta, kept, losses = local_round(
            algorithm,
            self.settings.sharing,
            received,
            memory,
            site.layout,
            site.roles,
            objective,
            steps,
            patient_work.scale(algorithm, of_job, steps),
        )
        # The proof is made of the delta before the baseline's blocks join it.
        prove(delta, objective)
        # Trained on a fresh objective with the same batches: it cannot change the
        # numbers of the job's own model.
        if fedavg_baseline is not None:
            received = {"model": self._vector(from_variable(FEDAVG_BASELINE, weights))}
            other, _, _ = local_round(
                fedavg_baseline,
                EVERYTHING,
                received,
                {},
                site.layout,
                site.roles,
                site.objective("train", round_),
                steps,
                patient_work.scale(fedavg_baseline, of_job, steps),
            )
            delta |= in_variable(FEDAVG_BASELINE, from_variable("model", other))
        arrays = {name: vector.cpu().numpy() for name, vector in kept.items()}
        mask_history.note(self.states, round_, kept, site.layout, site.blocks)
        # The state is written before the update leaves: a crash in between repeats the
        # round, and a repeated round overwrites its file.
        state.save(self.states, round_ + 1, arrays, self.fingerprint, {}, since)
        return delta, None if self.settings.private is not None else sum(losses) / len(losses)

    def evaluate(self, weights: Arrays, since: int) -> Evaluation:
        """Evaluate the models that this job allows.

        These are the job's own model, FedAvg where it is the job or was trained beside
        it, and the local one.
        """
        own = personal(self._start(weights, since))
        # A job that is FedAvg itself has no separate baseline: its model is the
        # baseline.
        plain = (self.settings.algorithm, self.settings.sharing) == (FedAvg(), EVERYTHING)
        shared = plain or self.settings.private is not None
        arms = {FEDAVG_BASELINE if shared and self.settings.fedavg_baseline is None else "personalised": own}
        if self.settings.fedavg_baseline is not None:
            arms[FEDAVG_BASELINE] = self._vector(from_variable(FEDAVG_BASELINE, weights))
        # Private steps are worth what they add to the public weights from which they began.
        arms |= {WARM_START: self.initial} if isinstance(self.settings.private, JointDP) else {}
        found = evaluate(
            self.site,
            arms,
            self.initial,
            self.schedule,
            self.settings.model_selection,
        )
        kept = mask_history.since(mask_history.history_of(self.states))
        return found if kept is None else replace(found, numbers={**found.numbers, "personal": kept})

    @cached_property
    def initial(self) -> Tensor:
        """Return the first weights, which the job's seed determines.

        The federation and the local baseline both start here.
        """
        return first_weights(self.settings.model, self.settings.seed).to(self.site.device)

    def keep(self, evaluation: Evaluation, out: Path, job: str) -> None:
        """Write what the site keeps: its model, the page per patient, overlays."""
        pages.keep_models(
            evaluation,
            self.site,
            self.settings.model,
            self.facts,
            out,
        )
        pages.write_page(
            evaluation,
            self.site,
            job,
            self.facts,
            out,
            mask_history.history_of(self.states),
        )

    def _objective(self, round_: int) -> Objective:
        if self._dp_site is None:
            return self.site.objective("train", round_)
        work, sharing = self.settings.schedule.work, self.settings.sharing
        patches = getattr(self.settings.algorithm, "patches", 1)
        return self._dp_site.objective(work, "train", round_, sharing=sharing, patches=patches)

    @cached_property
    def _dp_site(self) -> DPSite | None:
        return None if self.settings.private is None else DPSite(self.site, self.settings.private)

    def _start(self, weights: Arrays, since: int) -> LocalStart:
        received = self._vectors(self.settings.algorithm, weights)
        algorithm, sharing = self.settings.algorithm, self.settings.sharing
        return start_of(
            algorithm,
            sharing,
            received,
            self._memory(since),
            self.site.layout,
            self.site.roles,
        )

    def _memory(self, round_: int) -> dict[str, Tensor]:
        arrays, _ = state.load(self.states, round_, self.fingerprint)
        return {name: torch.from_numpy(block).to(self.site.device) for name, block in arrays.items()}

    def _vectors(self, algorithm: Algorithm, weights: Arrays) -> dict[str, Tensor]:
        return {variable: self._vector(from_variable(variable, weights)) for variable in algorithm.variables}

    def _vector(self, blocks: Arrays) -> Tensor:
        return torch.from_numpy(self.site.layout.flatten(blocks)).to(self.site.device)
