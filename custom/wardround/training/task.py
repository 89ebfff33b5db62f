"""What must a task offer at a hospital, whatever it learns?

It offers gradients on training patients and scores on the others. There are two tasks:
segmentation.py (regions of 3D images) and classification.py (classes of patients). A
job's `sampling` says which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wardround.core.arrays import Layout
from wardround.data.ehr import Table
from wardround.data.site_config import SiteConfig
from wardround.data.splits import Split
from wardround.models.flat import FlatModel
from wardround.models.nets import Network
from wardround.synthetic.hospitals import Hospital as Profile
from wardround.training.mixture import Model, ValidationScore

Rows = list[dict[str, float]]


class CohortFacts(Protocol):
    """What is known about a cohort.

    patients: The patient of each case.
    modalities: The number of scans of each sequence.
    label_kind: The kind of labels.
    """

    @property
    def patients(self) -> Mapping[str, str]: ...

    @property
    def modalities(self) -> Mapping[str, int]: ...

    @property
    def label_kind(self) -> str: ...


class PatientObjective(Protocol):
    """An `Objective` of algorithms/base.py over named patients."""

    @property
    def patients(self) -> tuple[str, ...]: ...

    def batch(self, patients: tuple[str, ...]) -> Any:
        """Return one batch with one image of each of these patients."""

    def sample(self, count: int) -> tuple[Any, ...]: ...

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]: ...


class TaskSite(Protocol):
    """One hospital's data, network and device.

    Scores are from 0 to 1, higher for better models.
    """

    name: str
    seed: int
    sampling: Any
    split: Split
    device: torch.device
    model: FlatModel
    roles: Mapping[str, str]
    blocks: Mapping[str, str]

    @property
    def cohort(self) -> CohortFacts: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def train_patients(self) -> int: ...

    def objective(self, *purpose: str | int) -> PatientObjective:
        """Return gradients on this site's training patients.

        It is a `Probe` with `patients` and `batch(patients)`. The same purpose gives
        the same batches on every machine.
        """

    def drawn(self, cases: Sequence[str], *purpose: str | int) -> Any:
        """Return an objective over these cases.

        Its `batch((patient,))` is a function of purpose and patient alone.
        """

    def joined(self, batches: Sequence[Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return (inputs in one tensor, a function from outputs to patients' losses)."""

    def pooled(self, parts: Sequence[Any]) -> Any:
        """Return the batches of several sites as one batch on this site's device."""

    def made_up(self, count: int) -> Tensor:
        """Return inputs of `count` patients who do not exist; always the same ones."""

    def score(self, w: Tensor, cases: Sequence[str]) -> float:
        """Return the score by which models are selected on validation."""

    def rows(self, w: Tensor, cases: Sequence[str]) -> Rows:
        """Return one row of numbers per patient; rows stay at the site."""

    def rows_of(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, Rows]:
        """Return the rows of several models; no network runs twice on a case."""

    def validation_scores(self, models: Mapping[str, Model], cases: Sequence[str]) -> dict[str, ValidationScore]:
        """Return the score by which each model is selected, with each patient's part.

        Its value is that of `score`. No network runs twice on a case.
        """

    def summary(self, rows: Rows) -> dict[str, dict[str, Any]]:
        """Return each metric with its 95 % interval over patients."""

    def gain(self, rows: Rows, reference: Rows) -> dict[str, Any]:
        """Return how far `rows` score above `reference`, with the interval."""

    def postprocessed(
        self, models: Mapping[str, Model], cases: Sequence[str], *, largest: bool, least_volume: bool
    ) -> dict[str, tuple[Model, ValidationScore]]:
        """Return the models that a filter serves on these cases, with it, and how good
        they are then. A task without such a filter returns none.

        largest, least_volume: Which filters may be used (component_choice.py).
        """

    def about_model(self) -> dict[str, Any]:
        """Return what a weights file must say so that `wardround predict` can use it."""

    def pictures(
        self,
        model: Model,
        words: str,
        out: Path,
        patients: Sequence[str] = (),
    ) -> list[Path]:
        """Draw pictures for people to look at and return the files.

        patients: Whose pictures, the first ones of them; the test patients if none is
            named. A task without pictures returns no files.
        """


class TaskSampling(Protocol):
    """A job's `sampling`: how batches are drawn, and therefore which task it is."""

    @property
    def patch(self) -> Sequence[int]:
        """The size of what the network is given."""

    @property
    def table(self) -> Table:
        """The columns of the record."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of labels, the most detailed first."""

    @property
    def described(self) -> dict[str, Any]:
        """What a weights file must say about the network's inputs and outputs, as JSON."""

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Every name of this task that a message may hold."""

    def cohort(self, config: SiteConfig, cache: Path, say: Callable[[str], None]) -> Any:
        """Open the data that a site's file names; images are decoded at most once."""

    def open(
        self,
        name: str,
        cohort: Any,
        split: Split,
        spec: Network,
        seed: int,
        device: str,
    ) -> TaskSite:
        """Return the site that draws batches in this way."""


class TaskPhantoms(Protocol):
    """A job's `phantoms`: synthetic patients of a simulated site that has no data."""

    def write(self, root: Path, profile: Profile, seed: int) -> None:
        """Write the patients below root, unless they are there already."""
