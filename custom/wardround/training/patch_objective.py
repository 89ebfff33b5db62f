"""How are mini-batches of patients drawn for segmentation?

A batch holds one augmented patch per patient, with the patient's record beside it. The
record is one vector of a patient: no crop, flip or change of contrast touches it, nor
does the hiding of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.core.errors import DataRefused
from wardround.core.rng import derive
from wardround.data.volumes import Volume
from wardround.tasks.inputs import network_input
from wardround.tasks.loss import bernoulli_divergence, dice_bce
from wardround.tasks.patches import sample_patch

if TYPE_CHECKING:
    from wardround.training.segmentation import SegmentationSite


@dataclass(frozen=True)
class Batch:
    """One mini-batch of patches, with C images, F numbers of a record and R regions.

    images: The network's input, float32 [B, 2 C + 2 F, H, W, D] (tasks/inputs.py).
    targets: The regions, uint8 [B, R, H, W, D].
    known: Which regions the masks tell, bool [B, R].
    seed: The seed of everything random in the network.
    patients: Whose patches these are, in the order of the rows.
    """

    images: Tensor
    targets: Tensor
    known: Tensor
    seed: int
    patients: tuple[str, ...]

    @property
    def inputs(self) -> Tensor:
        return self.images


@final
class Patches:
    """The `Work` of site_objective.py on 3D images."""

    def __init__(self, site: SegmentationSite, *purpose: str | int) -> None:
        self._site = site
        # The augmentation has a generator on the images' device; patches are drawn by
        # numpy on the CPU.
        self._generator = torch.Generator(device=site.device)
        self._generator.manual_seed(derive(site.seed, site.name, "augment", *purpose))

    def batch(
        self,
        patients: tuple[str, ...],
        case_of: Callable[[str], str],
        rng: np.random.Generator,
    ) -> Batch:
        """Return one batch with one fresh patch of each of these patients.

        case_of: Draws one of a patient's cases.

        The first patches hold foreground for certain, as many as `forced` says; whose
        they are, the sampler has shuffled.
        """
        site, regions = self._site, self._site.task.outputs
        images = []
        targets = []
        present = []
        certain = forced(len(patients), site.sampling.foreground_share)
        for place, patient in enumerate(patients):
            case = case_of(patient)
            volume = site.volume(case)
            image, labels = sample_patch(
                volume.image,
                labels_of(volume),
                site.foreground(case),
                site.sampling.size,
                rng,
                1.0 if place < certain else site.sampling.tumour_probability,
            )
            images.append(image)
            targets.append(regions.targets(labels, site.cohort.label_kind))
            present.append(volume.present)
        image_batch, present_batch, target_batch = site.augment(
            self._there(images),
            self._there(present),
            self._there(targets),
            self._generator,
        )
        inputs = network_input(
            image_batch,
            present_batch,
            self._there([site.record(who) for who in patients]),
        )
        known = torch.from_numpy(regions.known(site.cohort.label_kind)).to(site.device).expand(len(patients), -1)
        return Batch(inputs, target_batch, known, int(rng.integers(2**31)), patients)

    def loss(self, out: Tensor, batch: Batch) -> Tensor:
        """Return the mean of Dice and cross-entropy losses over known regions."""
        return dice_bce(out, batch.targets, batch.known)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch) -> float:
        """Return KL(p || q) of the voxels' Bernoulli distributions.

        It is a mean over voxels and known regions.
        """
        return bernoulli_divergence(p, q, batch.known)

    def _there(self, arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self._site.device)


def forced(patches: int, share: float) -> int:
    """Return how many of so many patches hold foreground for certain.

    It is nnU-Net's number, patches - round(patches (1 - share)): 1 of 2, 3 or 4 at a
    share of a third, and none of a single patch, so that under patient-level DP, whose
    batches are single patients, nothing is forced.
    """
    return patches - round(patches * (1 - share))


def labels_of(volume: Volume) -> NDArray[np.uint8]:
    """Return the labels of a case, uint8 [H, W, D].

    A case without a mask can be neither trained on nor scored: DataRefused.
    """
    if volume.labels is None:
        raise DataRefused(
            f"case {volume.case}",
            found="no mask",
            expected="a mask of the tumour",
            fix="add the seg file, or leave the case out",
        )
    return volume.labels
