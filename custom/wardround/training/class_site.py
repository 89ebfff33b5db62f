"""What is one hospital's side of classification: its batches, losses and scores?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.core.arrays import Layout
from wardround.data.labelled import LabelledCohort
from wardround.data.splits import Split
from wardround.models.blend import mixed_classes
from wardround.models.nets import Network
from wardround.tasks import classification as classes_
from wardround.training.case_objective import Batch, Cases
from wardround.training.mixture import Model, ValidationScore, outputs
from wardround.training.site_objective import SiteObjective, network_on, patient_count

if TYPE_CHECKING:
    from wardround.training.classification import CaseSampling

Rows = list[dict[str, float]]
# Cases per pass in evaluation. It bounds the memory; scores do not depend on it.
SCORED_AT_ONCE = 32


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

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Return what a training patient of each class counts in the loss; None: 1."""
        if not self.sampling.balanced:
            return None
        counts = self.cohort.class_counts(self.split.train).values()
        return torch.from_numpy(classes_.balancing_weights(list(counts))).to(self.device, torch.float32)

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
        keys = ("inputs", "labels", *(["weights"] if self.sampling.balanced else []))
        joined = {key: torch.cat([getattr(part, key).to(self.device) for part in parts]) for key in keys}
        return Batch(seed=parts[0].seed, patients=tuple(who for part in parts for who in part.patients), **joined)

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
        return classes_.intervals(*classes_.arrays(rows), self.seed)

    def gain(self, rows: Rows, reference: Rows) -> dict[str, Any]:
        """Return the gain in balanced accuracy over the reference, with its interval."""
        (a, labels), (b, _) = classes_.arrays(rows), classes_.arrays(reference)
        return classes_.paired_gain(a, b, labels, self.seed)

    def validation_scores(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, ValidationScore]:
        """Return the balanced accuracy of each model, and what each patient adds to it."""
        rows = self.rows_of(models, cases)
        return {
            name: ValidationScore(
                classes_.balanced_accuracy(*classes_.arrays(mine)), tuple(classes_.recalls(*classes_.arrays(mine)))
            )
            for name, mine in rows.items()
        }

    def postprocessed(
        self, models: Mapping[str, Model], cases: Sequence[str], *, largest: bool, least_volume: bool
    ) -> dict[str, tuple[Model, ValidationScore]]:
        """Return nothing: classes have no parts that could be left out."""
        return {}

    def score(self, w: Tensor, cases: Sequence[str]) -> float:
        """Return the balanced accuracy over patients, by which models are selected."""
        return self.validation_scores({"": w}, cases)[""].value

    def about_model(self) -> dict[str, Any]:
        """Return the kind of labels and the inputs; class_prediction.py reads them."""
        return {"label_kind": self.cohort.label_kind, "inputs": self.sampling.described}

    def pictures(self, model: Model, words: str, out: Path, patients: Sequence[str] = ()) -> list[Path]:
        """Return no files: classes have no pictures."""
        return []
