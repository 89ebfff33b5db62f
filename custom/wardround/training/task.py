"""What a hospital's task must offer, whatever it learns: gradients on training patients, scores on the others.

Two tasks: segmentation.py (regions of 3D images) and classification.py (classes of patients). A job's `sampling` says which.
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

Rows = list[dict[str, float]]


class CohortFacts(Protocol):
    """What is said about a cohort: case -> patient, sequence -> number of scans, the kind of labels."""

    @property
    def patients(self) -> Mapping[str, str]: ...

    @property
    def modalities(self) -> Mapping[str, int]: ...

    @property
    def label_kind(self) -> str: ...


class PatientObjective(Protocol):
    """An `Objective` of algorithms.base over named patients."""

    @property
    def patients(self) -> tuple[str, ...]: ...

    def batch(self, patients: tuple[str, ...]) -> Any:
        """Return one batch with one image of each of these patients."""

    def sample(self, count: int) -> tuple[Any, ...]: ...

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]: ...


class TaskSite(Protocol):
    """One hospital's data, network and device. Scores are higher for better models, 0 to 1."""

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
        """Return gradients on this site's TRAIN patients (a `Probe`, with `patients` and `batch(patients)`); the same purpose
        gives the same batches on every machine.
        """

    def drawn(self, cases: Sequence[str], *purpose: str | int) -> Any:
        """Return an objective over these cases; its `batch((patient,))` draws one patient, a function of purpose and patient."""

    def joined(self, batches: Sequence[Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return (inputs of these batches in one, the function from outputs to one loss per patient)."""

    def pooled(self, parts: Sequence[Any]) -> Any:
        """Return batches of several sites as one, on this site's device."""

    def made_up(self, count: int) -> Tensor:
        """Return inputs of `count` patients who do not exist, always the same ones."""

    def score(self, w: Tensor, cases: Sequence[str]) -> float:
        """Return the number that choices on validation are made with."""

    def rows(self, w: Tensor, cases: Sequence[str]) -> Rows:
        """Return one row of numbers for each patient. They stay at the site."""

    def summary(self, rows: Rows) -> dict[str, dict[str, Any]]:
        """Return metric -> value with its 95 % interval over patients."""

    def gain(self, rows: Rows, reference: Rows) -> dict[str, Any]:
        """Return by how much the score of `rows` is above that of `reference`, with its interval."""

    def about_model(self) -> dict[str, Any]:
        """Return what a weights file must say beside the network, so that `wardround predict` can use it."""

    def pictures(self, w: Tensor, words: str, out: Path, patients: Sequence[str] = ()) -> list[Path]:
        """Draw what people look at, for the first of `patients` (none named: of the test patients); nothing to draw: []."""


class TaskSampling(Protocol):
    """A job's `sampling`: how batches are drawn, and so which task it is."""

    @property
    def patch(self) -> Sequence[int]:
        """The size of what the network sees."""

    @property
    def table(self) -> Table:
        """The columns of the record."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of labels, the one that tells most first."""

    @property
    def described(self) -> dict[str, Any]:
        """What a weights file must say about the network's inputs and outputs, as JSON."""

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Every name of this task that a message may hold."""

    def cohort(self, config: SiteConfig, cache: Path, say: Callable[[str], None]) -> Any:
        """Open what a site's file names, decoded at most once."""

    def open(self, name: str, cohort: Any, split: Split, spec: Network, seed: int, device: str) -> TaskSite:
        """Return the site that draws like this."""


class TaskPhantoms(Protocol):
    """A job's `phantoms`: the synthetic patients of a site that has no data, in the simulator only."""

    def write(self, root: Path, profile: Profile, seed: int) -> None:
        """Write them below root, unless they are there."""
