"""One hospital's segmentation work: mini-batches and gradients for the algorithms, scores for the judgement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.arrays import Layout
from wardround.data.cache import Cohort, open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import Split
from wardround.data.volumes import Volume
from wardround.errors import ConfigRefused, DataRefused
from wardround.hospital.deck import Deck
from wardround.hospital.overlays import overlays
from wardround.models.blocks import blocks_of
from wardround.models.flat import FlatModel
from wardround.models.nearby import Nearby
from wardround.models.nets import Network
from wardround.models.roles import block_roles
from wardround.reports.intervals import bootstrap_mean, paired_gain
from wardround.rng import derive, stream
from wardround.tasks.augment import Augment
from wardround.tasks.inference import predict_regions
from wardround.tasks.inputs import network_input
from wardround.tasks.loss import bernoulli_divergence, dice_bce, dice_bce_by_patient
from wardround.tasks.metrics import case_scores
from wardround.tasks.patches import sample_patch
from wardround.tasks.regions import known_regions, regions_from_labels


@dataclass(frozen=True)
class Sampling:
    """How training patches are drawn: `batch` patients per mini-batch, one patch of `patch` voxels each."""

    patch: Sequence[int]
    batch: int
    tumour_probability: float
    augment: bool

    def __post_init__(self) -> None:
        good = len(self.patch) == 3 and all(4 <= int(n) <= 512 for n in self.patch) and 1 <= self.batch <= 256
        if not (good and 0 <= self.tumour_probability <= 1):
            raise ConfigRefused(
                "the patch sampling",
                found=f"patch {list(self.patch)}, batch {self.batch}, tumour_probability {self.tumour_probability}",
                expected="three patch sizes of 4..512 voxels, a batch of 1..256, a probability",
                fix="correct `sampling` in the job",
            )

    @property
    def size(self) -> tuple[int, int, int]:
        return (int(self.patch[0]), int(self.patch[1]), int(self.patch[2]))

    def cohort(self, config: SiteConfig, cache: Path, say: Callable[[str], None]) -> Cohort:
        """Open this site's images and masks, decoded at most once."""
        return open_cohort(config, cache, say)

    def open(self, name: str, cohort: Cohort, split: Split, spec: Network, seed: int, device: str) -> SegmentationSite:
        """Return the hospital's side of segmentation."""
        return SegmentationSite(name, cohort, split, spec, self, seed, device)


@dataclass(frozen=True)
class Batch:
    """images [B,8,H,W,D] | targets uint8 [B,3,H,W,D] | known bool [B,3] | seed of everything random in the network."""

    images: Tensor
    targets: Tensor
    known: Tensor
    seed: int
    patients: tuple[str, ...]


class PatchOracle:
    """Stochastic gradients over patches of the given cases: the `Oracle` of algorithms.base on real images."""

    def __init__(self, site: SegmentationSite, cases: Sequence[str], *purpose: str | int) -> None:
        if not cases:
            raise ConfigRefused("training cases", found="none", expected="at least one", fix="check this site's data")
        self._site, self._rng = site, stream(site.seed, site.name, "batches", *purpose)
        self._generator = torch.Generator(device=site.device)
        self._generator.manual_seed(derive(site.seed, site.name, "augment", *purpose))
        self._by_patient: dict[str, list[str]] = {}
        for case in cases:
            self._by_patient.setdefault(site.cohort.patients[case], []).append(case)
        self._deck = Deck(self.patients, self._rng)

    def draw(self, count: int) -> tuple[Batch, ...]:
        """Return `count` batches; no patient twice among them while the site has count * batch patients."""
        return tuple(self.batch(patients) for patients in self._deck.deal(count, self._site.sampling.batch))

    def gradient(self, w: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """Return (loss, gradient) at w; dropout is the same whenever the same batch is used."""
        return self._site.model.gradient(
            w, batch.images, lambda out: dice_bce(out, batch.targets, batch.known), dropout_seed=batch.seed
        )

    @property
    def label(self) -> str:
        return self._site.name

    @property
    def blocks(self) -> Mapping[str, str]:
        return self._site.blocks

    def calibration(self, count: int) -> tuple[Batch, ...]:
        """Return the same `count` batches of training patients each time."""
        return PatchOracle(self._site, self._site.split.train, "calibration").draw(count)

    def held_out(self, count: int) -> tuple[Batch, ...]:
        """Return the same `count` batches of validation patients each time."""
        return PatchOracle(self._site, self._site.split.val, "held-out").draw(count)

    def near(self, w: Tensor, other: Tensor, batch: Batch) -> Nearby:
        """Return names -> logits [B, 3, D, H, W] in evaluation mode at w, these parameters as in `other`."""
        return Nearby(self._site.model, w, other, batch.images)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch) -> float:
        """Return KL(p || q) of the voxels' Bernoulli distributions, mean over voxels and known regions."""
        return bernoulli_divergence(p, q, batch.known)

    def loss(self, p: Tensor, batch: Batch) -> float:
        return float(dice_bce(p, batch.targets, batch.known))

    @property
    def patients(self) -> tuple[str, ...]:
        """Return the patients that batches are drawn from, sorted."""
        return tuple(sorted(self._by_patient))

    def batch(self, patients: tuple[str, ...]) -> Batch:
        """Return one batch with one fresh patch of each of these patients."""
        site, rng = self._site, self._rng
        images, targets, present = [], [], []
        for patient in patients:
            cases = self._by_patient[patient]
            case = cases[int(rng.integers(len(cases)))]
            volume = site.volume(case)
            image, labels = sample_patch(
                volume.image,
                labels_of(volume),
                site.foreground(case),
                site.sampling.size,
                rng,
                site.sampling.tumour_probability,
            )
            images.append(image)
            targets.append(regions_from_labels(labels, site.cohort.label_kind))
            present.append(volume.present)
        image_batch = torch.from_numpy(np.stack(images)).to(site.device)
        target_batch = torch.from_numpy(np.stack(targets)).to(site.device)
        present_batch = torch.from_numpy(np.stack(present)).to(site.device)
        image_batch, present_batch, target_batch = site.augment(
            image_batch, present_batch, target_batch, self._generator
        )
        known = torch.from_numpy(known_regions(site.cohort.label_kind)).to(site.device).expand(len(patients), -1)
        return Batch(network_input(image_batch, present_batch), target_batch, known, int(rng.integers(2**31)), patients)


def labels_of(volume: Volume) -> NDArray[np.uint8]:
    """Return the labels uint8 [H,W,D] of a case that has them; a case without a mask cannot be trained on or scored."""
    if volume.labels is None:
        raise DataRefused(
            f"case {volume.case}",
            found="no mask",
            expected="a mask of the tumour",
            fix="add the seg file, or leave the case out",
        )
    return volume.labels


class SegmentationSite:
    """Data, network and device of one hospital. Nothing here talks to anybody."""

    def __init__(
        self, name: str, cohort: Cohort, split: Split, spec: Network, sampling: Sampling, seed: int, device: str
    ) -> None:
        self.name, self.cohort, self.split, self.sampling, self.seed = name, cohort, split, sampling, seed
        self.device = torch.device(device)
        module = spec.build(seed)
        self.blocks: Mapping[str, str] = blocks_of(module)
        self.roles: Mapping[str, str] = block_roles(module)
        self.model = FlatModel(module, self.device, half=True)
        self.augment = Augment() if sampling.augment else Augment.none()
        self._volumes: dict[str, Volume] = {}
        self._foreground: dict[str, NDArray[np.int32]] = {}

    @property
    def layout(self) -> Layout:
        return self.model.layout

    def volume(self, case: str) -> Volume:
        """Return the cached, preprocessed volume (memory-mapped: only what is read is loaded)."""
        if case not in self._volumes:
            self._volumes[case] = self.cohort.load(case)
        return self._volumes[case]

    def foreground(self, case: str) -> NDArray[np.int32]:
        """Return int32 [N,3] tumour voxels of a case, read once."""
        if case not in self._foreground:
            self._foreground[case] = self.cohort.foreground(case)
        return self._foreground[case]

    @cached_property
    def train_patients(self) -> int:
        return len({self.cohort.patients[case] for case in self.split.train})

    def oracle(self, *purpose: str | int) -> PatchOracle:
        """Return gradients on this site's TRAIN patients; the same purpose gives the same batches on every machine."""
        return PatchOracle(self, self.split.train, *purpose)

    def drawn(self, cases: Sequence[str], *purpose: str | int) -> PatchOracle:
        """Return gradients over these cases alone."""
        return PatchOracle(self, cases, *purpose)

    def joined(self, batches: Sequence[Batch]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return (images [B,8,H,W,D], the function from logits to the loss of every patient)."""
        images = torch.cat([one.images for one in batches]).contiguous(memory_format=torch.channels_last_3d)
        targets, known = torch.cat([one.targets for one in batches]), torch.cat([one.known for one in batches])
        return images, lambda logits: dice_bce_by_patient(logits, targets, known)

    def pooled(self, parts: Sequence[Batch]) -> Batch:
        """Return batches of several sites as one, on this site's device."""
        images, targets, known = (
            torch.cat([getattr(part, key).to(self.device) for part in parts]) for key in ("images", "targets", "known")
        )
        patients = tuple(who for part in parts for who in part.patients)
        return Batch(images.contiguous(memory_format=torch.channels_last_3d), targets, known, parts[0].seed, patients)

    def made_up(self, count: int) -> Tensor:
        """Return noise with all sequences present."""
        noise = torch.randn(count, 4, *self.sampling.size, generator=torch.Generator().manual_seed(0))
        return network_input(noise.to(self.device), torch.ones(4, device=self.device))

    def labels(self, case: str) -> NDArray[np.uint8]:
        """Return the labels uint8 [H,W,D] of a case."""
        return labels_of(self.volume(case))

    def about_model(self) -> dict[str, Any]:
        """Return patch and kind of labels, for `wardround predict`."""
        return {"patch": list(self.sampling.size), "label_kind": self.cohort.label_kind}

    def pictures(self, w: Tensor, words: str, out: Path) -> list[Path]:
        """Draw overlays of the first test cases."""
        return overlays(self, w, words, out)

    def predict(self, w: Tensor, case: str) -> NDArray[np.bool_]:
        """Return bool [3,H,W,D] in REGIONS order for one case at weights w."""
        self.model.load(w)
        volume = self.volume(case)
        return predict_regions(
            self.model.module, np.asarray(volume.image, np.float32), volume.present, self.sampling.size, self.device
        )

    def scores(self, w: Tensor, cases: Sequence[str], *, with_hd95: bool) -> list[dict[str, float]]:
        """Return one dictionary of scores per case (tasks.metrics.case_scores) at weights w."""
        known = known_regions(self.cohort.label_kind)
        rows = []
        for case in cases:
            volume = self.volume(case)
            truth = regions_from_labels(labels_of(volume), self.cohort.label_kind).astype(bool)
            rows.append(case_scores(self.predict(w, case), truth, known, volume.spacing_mm, with_hd95=with_hd95))
        return rows

    def rows(self, w: Tensor, cases: Sequence[str]) -> list[dict[str, float]]:
        """Return one row of scores for each patient, in the order in which the patients come first among the cases."""
        return by_patient(self, cases, self.scores(w, cases, with_hd95=True))

    def summary(self, rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
        """Return metric -> mean with its interval over patients, one row per patient."""
        return {key: asdict(bootstrap_mean([row[key] for row in rows], self.seed)) for key in rows[0]}

    def gain(self, rows: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """Return how much better the mean Dice is than the reference's, with its interval over patients."""
        a, b = ([row["dice_mean"] for row in one] for one in (rows, reference))
        return asdict(paired_gain(a, b, self.seed))

    def score(self, w: Tensor, cases: Sequence[str]) -> float:
        """Return the mean Dice over known regions and cases (the number that choices on validation are made with)."""
        return float(np.mean([row["dice_mean"] for row in self.scores(w, cases, with_hd95=False)]))


def by_patient(
    site: SegmentationSite, cases: Sequence[str], rows: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    """Average the rows of all scans of one patient: the patient is the unit of every count and interval."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for case, row in zip(cases, rows, strict=True):
        groups.setdefault(site.cohort.patients[case], []).append(row)
    return [{key: float(np.mean([row[key] for row in group])) for key in group[0]} for group in groups.values()]
