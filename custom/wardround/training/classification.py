"""How does a hospital learn classes from its own patients?

A case is any subset of the modalities, and a record; a patient has one class. A batch
is `batch` patients with one case each, augmented a little (`augment`,
tasks/picture_augment.py). Each modality, and the record, is hidden with probability
`modality_dropout`; at least one source is always left. A patient with several cases is
scored on the mean of their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.data.description import Spec
from wardround.data.ehr import Table, table_from_json
from wardround.data.labelled import LabelledCohort, open_labelled
from wardround.data.pictures import Grid
from wardround.data.site_config import SiteConfig
from wardround.data.splits import Split
from wardround.messages.allowed_names import CLASSES, CLASSIFICATION, label_name
from wardround.models.case_vector import CaseVector
from wardround.models.nets import Network
from wardround.tasks.picture_augment import PictureAugment
from wardround.training.class_inputs import INPUTS
from wardround.training.class_site import ClassificationSite

FLAGS = ("record", "augment", "stratified", "balanced")


@dataclass(frozen=True)
class CaseSampling:
    """How patients are drawn, and what every site's folder must describe.

    classes, modalities, columns: As in data/description.py.
    size, depth, span: The grid of an image: pixels per side, planes, and the side in
        millimetres.
    batch: Patients per mini-batch, 1 to 1024.
    modality_dropout: The probability of hiding each source, at least 0 and below 1.
    record: Whether the network is given the columns.
    augment: Whether images are augmented.
    augmentation: Strengths other than the usual ones (tasks/picture_augment.py).
    stratified: Whether the parts of a hospital's patients are even within each class
        (data/splits.py, split_stratified).
    balanced: Whether every class of a hospital's training patients weighs the same in
        its loss. A patient's weight then depends on the others, so it is refused under
        patient-level privacy.

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
    augmentation: Mapping[str, float] = field(default_factory=dict)
    stratified: bool = False
    balanced: bool = False

    def __post_init__(self) -> None:
        sound = isinstance(self.batch, int) and 1 <= self.batch <= 1024
        sound = sound and all(isinstance(getattr(self, name), bool) for name in FLAGS)
        if not (sound and 0 <= self.modality_dropout < 1):
            raise ConfigRefused(
                "the sampling of patients",
                found=f"batch {self.batch}, modality_dropout {self.modality_dropout}, record {self.record}, "
                f"augment {self.augment}, stratified {self.stratified}, balanced {self.balanced}",
                expected=f"a batch of 1..1024, modality_dropout 0 or more and below 1, {', '.join(FLAGS)} true or false",
                fix="set these fields of `sampling` in the job, as --set sampling.batch=8",
            )
        # The description is built here, so that a wrong one is refused with the job,
        # not at a site.
        _ = self.spec, self.strengths

    @cached_property
    def spec(self) -> Spec:
        """Return the description that every site's folder must match."""
        table = table_from_json(self.columns, "the job's sampling")
        return Spec(tuple(self.classes), tuple(self.modalities), table, Grid(self.size, self.depth, float(self.span)))

    @cached_property
    def strengths(self) -> PictureAugment:
        """Return how the images of a patient are augmented where `augment` is true."""
        return PictureAugment.of(self.augmentation)

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
        """Return every name that a message may hold: sequences, classes, labels and scores."""
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
        return replace(open_labelled(config, cache, say, self.spec), stratified=self.stratified)

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
