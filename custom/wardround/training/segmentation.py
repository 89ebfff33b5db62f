"""How does a hospital learn regions of 3D images: its batches, gradients and scores?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.data.cache import Cohort, open_cohort
from wardround.data.ehr import Table, table_from_json
from wardround.data.ehr_table import for_patients, site_ehr
from wardround.data.ehr_text import words_of
from wardround.data.site_config import SiteConfig
from wardround.data.splits import Split
from wardround.data.volumes import Volume
from wardround.messages.allowed_names import SHARES, measure_of
from wardround.models.nets import Network
from wardround.models.network_fit import require_fit
from wardround.reports.distances import apart
from wardround.reports.intervals import bootstrap_mean, paired_gain
from wardround.tasks.augment import Augment
from wardround.tasks.brain_tumours import DESCRIPTION
from wardround.tasks.inference import predict_logits
from wardround.tasks.inputs import network_input
from wardround.tasks.loss import dice_bce_by_patient
from wardround.tasks.task import Task, task_from_json
from wardround.training.case_scoring import CaseRows, predictions, scores_of
from wardround.training.case_scoring import by_patient as by_patient
from wardround.training.component_choice import postprocessed
from wardround.training.mixture import Model, ValidationScore, score_of_cases
from wardround.training.overlays import overlays
from wardround.training.patch_objective import Batch, Patches, labels_of
from wardround.training.site_objective import SiteObjective, network_on, patient_count


@dataclass(frozen=True)
class Sampling:
    """How training patches are drawn.

    patch: Voxels per axis, 4 to 512.
    batch: Patients per mini-batch, with one patch each, 1 to 256.
    tumour_probability: How often a patch is centred near foreground (tasks/patches.py).
    augment: Whether patches are augmented.
    columns: The record (EHR) that the network reads beside the images; none by default.
    task: What is learnt (tasks/task.py); brain tumours by default.
    foreground_share: The share of a batch's patches that hold foreground for certain
        (patch_objective.py), from 0 to 1; the others are drawn with tumour_probability.

    Values outside these ranges raise ConfigRefused.
    """

    patch: Sequence[int]
    batch: int
    tumour_probability: float
    augment: bool
    columns: Sequence[Mapping[str, Any]] = ()
    task: Mapping[str, Any] = field(default_factory=lambda: DESCRIPTION)
    foreground_share: float = 0.0

    def __post_init__(self) -> None:
        good = len(self.patch) == 3 and all(4 <= int(n) <= 512 for n in self.patch) and 1 <= self.batch <= 256
        if not (good and 0 <= self.tumour_probability <= 1 and 0 <= self.foreground_share <= 1):
            raise ConfigRefused(
                "the patch sampling",
                found=f"patch {list(self.patch)}, batch {self.batch}, tumour_probability {self.tumour_probability}, "
                f"foreground_share {self.foreground_share}",
                expected="three patch sizes of 4..512 voxels, a batch of 1..256, a probability, a share",
                fix="set these fields of `sampling` in the job, as --set sampling.batch=2",
            )
        _ = words_of(self.table), self.learns

    @cached_property
    def learns(self) -> Task:
        """Return the task: images, regions, and how both are treated."""
        return task_from_json(self.task, "the job's sampling")

    @property
    def described(self) -> dict[str, Any]:
        """Return as JSON what a weights file must say about inputs and outputs."""
        return {"task": dict(self.task)}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of masks, the most detailed first."""
        return tuple(self.learns.outputs.kinds)

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Return every name of this task that a message may hold."""
        return self.learns.allowed_names

    @cached_property
    def table(self) -> Table:
        """Return the columns of the record."""
        return table_from_json(self.columns, "the job's sampling")

    @property
    def size(self) -> tuple[int, int, int]:
        return (int(self.patch[0]), int(self.patch[1]), int(self.patch[2]))

    @property
    def network_inputs(self) -> int:
        """Return the channels beside the record: each image, and whether it exists."""
        return self.learns.network_inputs

    @property
    def regions(self) -> int:
        """Return how many logits a network makes for a voxel."""
        return len(self.learns.outputs.names)

    def cohort(self, config: SiteConfig, cache: Path, say: Callable[[str], None]) -> Cohort:
        """Open this site's images (decoded at most once), masks and record."""
        if not self.columns:
            return open_cohort(config, cache, say, self.learns.source)
        # The record is read first: a mistake in a small table shows before hours of
        # decoding.
        rows = site_ehr(config, self.table)
        cohort = open_cohort(config, cache, say, self.learns.source)
        return replace(cohort, record=for_patients(rows, self.table, cohort.patients, say))

    def require_network(self, spec: Network) -> None:
        """Raise ConfigRefused unless the network takes these patches and this record.

        A network that is not ready-made is tried on an empty patch
        (models/network_fit.py).
        """
        divisor = int(getattr(spec, "divisor", 1))
        if wrong := [n for n in self.size if n % divisor]:
            raise ConfigRefused(
                "the job's network and its patches",
                found=f"sampling.patch {list(self.size)}, of which {wrong[0]} is no multiple of {divisor}",
                expected=f"multiples of {divisor}: the network halves every side {divisor.bit_length() - 1} times",
                fix=f"for example `--set sampling.patch={[max(divisor, n - n % divisor) for n in self.size]}`",
            )
        found, wanted = int(getattr(spec, "ehr_columns", 0)), len(self.table.features)
        if found != wanted:
            raise ConfigRefused(
                "the job's network and record",
                found=f"a network that reads {found} numbers of a record (`model.ehr_columns`)",
                expected=f"{wanted}, which the {len(self.columns)} columns of `sampling` become",
                fix=f"--set model.ehr_columns={wanted}; a category is a number of its own",
            )
        require_fit(spec, self.network_inputs, self.regions, self.size)

    def open(self, name: str, cohort: Cohort, split: Split, spec: Network, seed: int, device: str) -> SegmentationSite:
        """Return the hospital's side of segmentation, or refuse the network."""
        self.require_network(spec)
        return SegmentationSite(name, cohort, split, spec, self, seed, device)


class SegmentationSite:
    """The data, network and device of one hospital; nothing here opens a connection."""

    def __init__(
        self, name: str, cohort: Cohort, split: Split, spec: Network, sampling: Sampling, seed: int, device: str
    ) -> None:
        self.name = name
        self.cohort = cohort
        self.split = split
        self.sampling = sampling
        self.seed = seed
        self.device = torch.device(device)
        self.model, self.blocks, self.roles = network_on(spec, seed, self.device)
        self.augment = sampling.learns.augmentation if sampling.augment else Augment.none()
        self.task = sampling.learns
        self._volumes: dict[str, Volume] = {}
        self._foreground: dict[str, NDArray[np.int32]] = {}

    @property
    def layout(self) -> Layout:
        return self.model.layout

    def volume(self, case: str) -> Volume:
        """Return the cached volume, memory-mapped: only what is used is read."""
        if case not in self._volumes:
            self._volumes[case] = self.cohort.load(case)
        return self._volumes[case]

    def foreground(self, case: str) -> NDArray[np.int32]:
        """Return the tumour voxels of a case, int32 [N, 3], read once."""
        if case not in self._foreground:
            self._foreground[case] = self.cohort.foreground(case)
        return self._foreground[case]

    def record(self, patient: str) -> NDArray[np.float32]:
        """Return a patient's values and known flags, float32 [2 F]; F may be 0."""
        return self.cohort.record[patient] if self.sampling.columns else np.zeros(0, np.float32)

    @cached_property
    def train_patients(self) -> int:
        return patient_count(self.cohort.patients, self.split.train)

    def objective(self, *purpose: str | int) -> SiteObjective[Batch]:
        """Return gradients on the training patients, the same for one purpose."""
        return SiteObjective(self, Patches, self.split.train, *purpose)

    def drawn(self, cases: Sequence[str], *purpose: str | int) -> SiteObjective[Batch]:
        """Return gradients over these cases alone."""
        return SiteObjective(self, Patches, cases, *purpose)

    def joined(self, batches: Sequence[Batch]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return (inputs, a function from logits to the loss of every patient [B])."""
        images = torch.cat([one.images for one in batches]).contiguous(memory_format=torch.channels_last_3d)
        targets, known = torch.cat([one.targets for one in batches]), torch.cat([one.known for one in batches])
        return images, lambda logits: dice_bce_by_patient(logits, targets, known)

    def pooled(self, parts: Sequence[Batch]) -> Batch:
        """Return the batches of several sites as one batch on this site's device."""
        images, targets, known = (
            torch.cat([getattr(part, key).to(self.device) for part in parts]) for key in ("images", "targets", "known")
        )
        patients = tuple(who for part in parts for who in part.patients)
        return Batch(images.contiguous(memory_format=torch.channels_last_3d), targets, known, parts[0].seed, patients)

    def made_up(self, count: int) -> Tensor:
        """Return noise with all sequences present and every value of a record known."""
        generator = torch.Generator().manual_seed(0)
        images = len(self.task.inputs.names)
        noise = torch.randn(count, images, *self.sampling.size, generator=generator)
        values = torch.randn(count, len(self.sampling.table.features), generator=generator)
        record = torch.cat([values, torch.ones_like(values)], 1)
        return network_input(*(part.to(self.device) for part in (noise, torch.ones(images), record)))

    def labels(self, case: str) -> NDArray[np.uint8]:
        """Return the labels of a case, uint8 [H, W, D]."""
        return labels_of(self.volume(case))

    def about_model(self) -> dict[str, Any]:
        """Return patch, kind of labels, task and columns for `wardround predict`."""
        record = {"columns": words_of(self.sampling.table)} if self.sampling.columns else {}
        about = {"patch": list(self.sampling.size), "label_kind": self.cohort.label_kind}
        return {**about, "inputs": self.sampling.described, **record}

    def pictures(self, model: Model, words: str, out: Path, patients: Sequence[str] = ()) -> list[Path]:
        """Draw overlays of the first `patients`, or else of the first test cases."""
        return overlays(self, model, words, out, patients)

    def logits(self, w: Tensor, case: str) -> NDArray[np.float32]:
        """Return the logits of a case at weights w, float32 [R, H, W, D]."""
        self.model.load(w)
        volume = self.volume(case)
        image, record = np.asarray(volume.image, np.float32), self.record(self.cohort.patients[case])
        given = (self.model.module, image, volume.present, self.sampling.size, self.device, self.sampling.regions)
        return predict_logits(*given, record=record, mirrored=self.task.mirrored)

    def predict(self, model: Model, case: str) -> NDArray[np.bool_]:
        """Return the predicted regions of a case, bool [R, H, W, D]."""
        return next(regions for _, regions in predictions(self, {"": model}, case))

    def scores(self, w: Tensor, cases: Sequence[str], *, with_hd95: bool) -> CaseRows:
        """Return one dictionary of scores per case (tasks.metrics.case_scores)."""
        return scores_of(self, {"": w}, cases, with_hd95=with_hd95)[""]

    def rows(self, w: Tensor, cases: Sequence[str]) -> CaseRows:
        """Return one row per patient, in the order of their first cases."""
        return self.rows_of({"": w}, cases)[""]

    def rows_of(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, CaseRows]:
        """Return for each model one row per patient; no network runs twice on a case."""
        scores = scores_of(self, models, cases, with_hd95=True)
        return {name: by_patient(self, cases, rows) for name, rows in scores.items()}

    def validation_scores(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, ValidationScore]:
        """Return the mean Dice over known regions of each model, and each patient's."""
        scores = scores_of(self, models, cases, with_hd95=False)
        patients = [self.cohort.patients[case] for case in cases]
        return {name: score_of_cases([row["dice_mean"] for row in rows], patients) for name, rows in scores.items()}

    def postprocessed(
        self, models: Mapping[str, Model], cases: Sequence[str], *, largest: bool, least_volume: bool
    ) -> dict[str, tuple[Model, ValidationScore]]:
        """Return the models that are better with a filter of their regions, with it."""
        return postprocessed(self, models, cases, largest=largest, least_volume=least_volume)

    def summary(self, rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
        """Return each metric with its interval; distances apart from misses."""
        told = self.task.metric_names
        keys = [key for key in rows[0] if key in told and measure_of(key) not in SHARES]
        means = {key: asdict(bootstrap_mean([row[key] for row in rows], self.seed)) for key in keys}
        return means | {key: value for key, value in apart(rows).items() if key in told}

    def gain(self, rows: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """Return the gain in mean Dice over the reference, with its interval."""
        a, b = ([row["dice_mean"] for row in one] for one in (rows, reference))
        return asdict(paired_gain(a, b, self.seed))

    def score(self, w: Tensor, cases: Sequence[str]) -> float:
        """Return the mean Dice over known regions, by which models are selected."""
        return self.validation_scores({"": w}, cases)[""].value
