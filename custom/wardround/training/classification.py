"""How does a hospital learn classes from its own patients?

A case is any subset of the modalities, and a record; a patient has one class. A batch
is `batch` patients with one case each. Images are shifted and rescaled a little
(`augment`). Each modality, and the record, is hidden with probability
`modality_dropout`; at least one source is always left. A patient with several cases is
scored on the mean of their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.data.description import Spec
from wardround.data.ehr import Table, table_from_json
from wardround.data.labelled import LabelledCohort, open_labelled
from wardround.data.pictures import Grid
from wardround.data.site_config import SiteConfig
from wardround.data.splits import Split
from wardround.messages.allowed_names import CLASSES, CLASSIFICATION, label_name
from wardround.models.blend import mixed_classes
from wardround.models.case_vector import CaseVector
from wardround.models.nets import Network
from wardround.tasks import classification as classes_
from wardround.training.case_objective import Batch, Cases
from wardround.training.class_inputs import INPUTS
from wardround.training.mixture import Merit, Model, outputs
from wardround.training.site_objective import SiteObjective, network_on, patient_count

Rows = list[dict[str, float]]
# Cases per pass in evaluation. It bounds the memory; scores do not depend on it.
SCORED_AT_ONCE = 32


@dataclass(frozen=True)
class CaseSampling:
    """How patients are drawn, and what every site's folder must describe.

    classes, modalities, columns: As in data/description.py.
    size, depth, span: The grid of an image: pixels per side, planes, and the side in
        millimetres.
    batch: Patients per mini-batch, 1 to 1024.
    modality_dropout: The probability of hiding each source, at least 0 and below 1.
    record: Whether the network is given the columns.
    augment: Whether images are shifted and rescaled.

    Values outside these ranges raise ConfigRefused.
    """

    classes: Sequence[str]
    modalities: Sequence[str]
    columns: Sequence[Mapping[str, Any]]
    size: int
    depth: int
    span: float
    batch: int
    modality_dropout: float
    record: bool
    augment: bool

    def __post_init__(self) -> None:
        sound = isinstance(self.batch, int) and 1 <= self.batch <= 1024
        sound = sound and isinstance(self.augment, bool) and isinstance(self.record, bool)
        if not (sound and 0 <= self.modality_dropout < 1):
            raise ConfigRefused(
                "the sampling of patients",
                found=f"batch {self.batch}, modality_dropout {self.modality_dropout}, record {self.record}, "
                f"augment {self.augment}",
                expected="a batch of 1..1024, modality_dropout 0 or more and below 1, record and augment true or false",
                fix="set these fields of `sampling` in the job, as --set sampling.batch=8",
            )
        # The description is built here, so that a wrong one is refused with the job,
        # not at a site.
        _ = self.spec

    @cached_property
    def spec(self) -> Spec:
        """Return the description that every site's folder must match."""
        table = table_from_json(self.columns, "the job's sampling")
        return Spec(tuple(self.classes), tuple(self.modalities), table, Grid(self.size, self.depth, float(self.span)))

    @cached_property
    def vector(self) -> CaseVector:
        """Return the layout of a patient's vector, as the network must have it."""
        spec = self.spec
        return CaseVector(len(spec.modalities), spec.grid.shape, len(spec.table.features) if self.record else 0)

    @property
    def described(self) -> dict[str, Any]:
        """Return as JSON what a weights file must say about the network's inputs."""
        spec = self.spec
        columns = [column.as_json() for column in spec.table.columns]
        names = {"classes": list(spec.classes), "modalities": list(spec.modalities), "columns": columns}
        return {**{key: getattr(self, key) for key in INPUTS}, **names}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kind of labels."""
        return (CLASSES,)

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Return every name of this task that a message may hold.

        These are sequences, classes, the kind of labels and scores.
        """
        return (*self.modalities, *self.classes, label_name(CLASSES), *CLASSIFICATION)

    def inputs(self, images: Any, present: Any, values: Any, known: Any) -> Tensor:
        """Return patients' vectors, float32 [B, L], from arrays of a cohort's batch."""
        if not self.record:
            values, known = values[:, :0], known[:, :0]
        return self.vector.pack(*(torch.from_numpy(np.asarray(a)) for a in (images, present, values, known)))

    @property
    def patch(self) -> Sequence[int]:
        return self.spec.grid.shape

    @property
    def table(self) -> Table:
        return self.spec.table

    def cohort(self, config: SiteConfig, cache: Path, say: Callable[[str], None]) -> LabelledCohort:
        """Open this site's folder of labelled images.

        ConfigRefused is raised when the folder describes something else than the job.
        """
        return open_labelled(config, cache, say, self.spec)

    def require_network(self, spec: Network) -> None:
        """Raise ConfigRefused unless the network takes these vectors and classes."""
        found = (getattr(spec, "case", None), getattr(spec, "classes", None))
        if found != (self.vector, len(self.classes)):
            raise ConfigRefused(
                "the job's network",
                found=f"{found[0]}, {found[1]} classes",
                expected=f"{self.vector}, {len(self.classes)} classes, as its sampling says",
                fix="give model and sampling the same modalities, size, columns and classes",
            )

    def open(
        self, name: str, cohort: LabelledCohort, split: Split, spec: Network, seed: int, device: str
    ) -> ClassificationSite:
        """Return the hospital's side of classification.

        ConfigRefused is raised for a network of other inputs or classes.
        """
        self.require_network(spec)
        return ClassificationSite(name, cohort, split, spec, self, seed, device)


class ClassificationSite:
    """The data, network and device of one hospital; nothing here opens a connection.

    A class that no patient of a split has is left out of that split's means
    (tasks/classification.py).
    """

    def __init__(
        self,
        name: str,
        cohort: LabelledCohort,
        split: Split,
        spec: Network,
        sampling: CaseSampling,
        seed: int,
        device: str,
    ) -> None:
        self.name = name
        self.cohort = cohort
        self.split = split
        self.sampling = sampling
        self.seed = seed
        self.device = torch.device(device)
        self.model, self.blocks, self.roles = network_on(spec, seed, self.device)

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @cached_property
    def train_patients(self) -> int:
        return patient_count(self.cohort.patients, self.split.train)

    def objective(self, *purpose: str | int) -> SiteObjective[Batch]:
        """Return gradients on this site's training patients.

        The same purpose gives the same batches on every machine.
        """
        return SiteObjective(self, Cases, self.split.train, *purpose)

    def drawn(self, cases: Sequence[str], *purpose: str | int) -> SiteObjective[Batch]:
        """Return gradients over these cases alone."""
        return SiteObjective(self, Cases, cases, *purpose)

    def joined(self, batches: Sequence[Batch]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return (inputs [B, L], a function from logits to patients' losses [B])."""
        labels = torch.cat([one.labels for one in batches])
        return torch.cat([one.inputs for one in batches]), lambda out: classes_.cross_entropy_by_patient(out, labels)

    def pooled(self, parts: Sequence[Batch]) -> Batch:
        """Return the batches of several sites as one batch on this site's device."""
        inputs, labels = (
            torch.cat([getattr(part, key).to(self.device) for part in parts]) for key in ("inputs", "labels")
        )
        return Batch(inputs, labels, parts[0].seed, tuple(who for part in parts for who in part.patients))

    def made_up(self, count: int) -> Tensor:
        """Return inputs of `count` patients made of noise, with every source present."""
        vector = self.sampling.vector
        generator = torch.Generator().manual_seed(0)
        sizes = ((vector.modalities, *vector.size), (vector.modalities,), (vector.columns,), (vector.columns,))
        images, present, values, known = (torch.randn(count, *size, generator=generator) for size in sizes)
        return vector.pack(images, torch.ones_like(present), values, torch.ones_like(known)).to(self.device)

    def logits(self, w: Tensor, cases: Sequence[str]) -> Tensor:
        """Return the logits [N, C] of these cases at weights w.

        The network is given every source that a case has.
        """
        found = []
        for start in range(0, len(cases), SCORED_AT_ONCE):
            got = self.cohort.batch(list(cases[start : start + SCORED_AT_ONCE]))
            inputs = self.sampling.inputs(got.images, got.present, got.values, got.known)
            found.append(self.model.outputs(w, inputs.to(self.device)))
        return torch.cat(found)

    def chances(self, w: Tensor, cases: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return the class probabilities [C] of each case at weights w."""
        return dict(zip(cases, classes_.softmax(self.logits(w, cases)), strict=True))

    def rows(self, w: Tensor, cases: Sequence[str]) -> Rows:
        """Return one row per patient: the index of its class, and all probabilities."""
        return self.rows_of({"": w}, cases)[""]

    def rows_of(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, Rows]:
        """Return for each model one row per patient; no network runs twice."""
        found = outputs(models, partial(self.logits, cases=cases), mixed_classes)
        return {name: self._rows(dict(zip(cases, classes_.softmax(logits), strict=True))) for name, logits in found}

    def _rows(self, chances: Mapping[str, NDArray[np.float64]]) -> Rows:
        _, means, labels = classes_.by_patient(chances, self.cohort.labels, self.cohort.patients)
        names = self.cohort.spec.classes
        return [
            {"class": float(label), **{f"p {name}": float(p) for name, p in zip(names, row, strict=True)}}
            for label, row in zip(labels, means, strict=True)
        ]

    def summary(self, rows: Rows) -> dict[str, dict[str, Any]]:
        """Return the scores with 95 % intervals over patients.

        These are balanced accuracy, accuracy, AUROC, calibration error and log loss.
        """
        return classes_.intervals(*_arrays(rows), self.seed)

    def gain(self, rows: Rows, reference: Rows) -> dict[str, Any]:
        """Return the gain in balanced accuracy over the reference, with its interval."""
        (a, labels), (b, _) = _arrays(rows), _arrays(reference)
        return classes_.paired_gain(a, b, labels, self.seed)

    def merits(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, Merit]:
        """Return the balanced accuracy of each model, and what each patient adds to it."""
        rows = self.rows_of(models, cases)
        return {
            name: Merit(classes_.balanced_accuracy(*_arrays(mine)), tuple(classes_.recalls(*_arrays(mine))))
            for name, mine in rows.items()
        }

    def score(self, w: Tensor, cases: Sequence[str]) -> float:
        """Return the balanced accuracy over patients, by which models are selected."""
        return self.merits({"": w}, cases)[""].value

    def about_model(self) -> dict[str, Any]:
        """Return the kind of labels and the inputs; class_prediction.py reads them."""
        return {"label_kind": self.cohort.label_kind, "inputs": self.sampling.described}

    def pictures(self, model: Model, words: str, out: Path, patients: Sequence[str] = ()) -> list[Path]:
        """Return no files: classes have no pictures."""
        return []


def _arrays(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    names = [key for key in rows[0] if key.startswith("p ")]
    chances = np.array([[row[name] for name in names] for row in rows], np.float64)
    return chances, np.array([int(row["class"]) for row in rows], np.int64)
