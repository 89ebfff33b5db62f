import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from wardround.core.errors import ConfigRefused
from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import Split
from wardround.models.nets import UNet3d
from wardround.research.pooled_objective import PooledObjective
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort
from wardround.training.segmentation import Sampling, SegmentationSite

SPEC = UNet3d(channels=(4, 8))
SAMPLING = Sampling(patch=(8, 8, 8), batch=2, tumour_probability=0.5, augment=True)


def open_one(name: str, folder: Path, train: int, cache: Path, sampling: Sampling = SAMPLING) -> SegmentationSite:
    """Open a site whose first `train` cases are for training and whose last two are not."""
    cohort = open_cohort(SiteConfig(data=folder), cache)
    split = Split(cohort.cases[:train], cohort.cases[-2:-1], cohort.cases[-1:])
    return SegmentationSite(name, cohort, split, SPEC, sampling, 0, "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A hospital with sub-regions (7 patients), and a copy of it whose masks tell only the whole tumour."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("pooled")
    write_cohort(root / "a", hospital(0), 0, (14, 14, 14), 7)
    shutil.copytree(root / "a", root / "b")
    for file in (root / "b").rglob("*_seg.nii.gz"):
        mask = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.uint8), mask.affine), file)
    return root / "a", root / "b"


@pytest.fixture
def sites(folders: tuple[Path, Path], tmp_path: Path) -> tuple[SegmentationSite, SegmentationSite]:
    return open_one("a", folders[0], 5, tmp_path / "a"), open_one("b", folders[1], 3, tmp_path / "b")


def test_every_training_patient_of_the_union_comes_equally_often(
    sites: tuple[SegmentationSite, SegmentationSite],
) -> None:
    objective = PooledObjective(sites, "test")
    seen = Counter(patient for _ in range(8) for batch in objective.sample(1) for patient in batch.patients)
    twice = set(sites[1].split.train)  # the copies have the same names: each is a patient of its own
    assert seen == {patient: 4 if patient in twice else 2 for patient in sites[0].split.train}


def test_no_patient_twice_in_one_draw(sites: tuple[SegmentationSite, SegmentationSite]) -> None:
    objective = PooledObjective(sites, "test")
    for _ in range(3):
        batches = objective.sample(4)
        rows = [(bool(k[0]), who) for batch in batches for k, who in zip(batch.known, batch.patients, strict=True)]
        assert len(set(rows)) == len(rows) == 8


def test_each_patient_keeps_the_regions_its_own_site_knows(sites: tuple[SegmentationSite, SegmentationSite]) -> None:
    kinds = set()
    for batch in PooledObjective(sites, "test").sample(4):
        assert batch.images.shape == (2, 8, 8, 8, 8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last_3d)
        for known, target in zip(batch.known.tolist(), batch.targets, strict=True):
            kinds.add(tuple(known))
            assert known in ([True, True, True], [False, False, True])
            assert known[0] or not target[:2].any()
    assert len(kinds) == 2


def test_the_gradient_is_the_mean_of_the_patients_own(sites: tuple[SegmentationSite, SegmentationSite]) -> None:
    objective, w = PooledObjective(sites, "test"), sites[0].model.vector.clone()
    batch = next(b for b in objective.sample(4) if b.known[:, 0].float().mean() == 0.5)
    loss, found = objective.value_and_grad(w, batch)
    found, losses, total = found.clone(), [], torch.zeros_like(w)
    for i in range(2):
        one = type(batch)(
            batch.images[[i]], batch.targets[[i]], batch.known[[i]], batch.seed, batch.patients[i : i + 1]
        )
        part, gradient = sites[1].objective("other").value_and_grad(w, one)
        losses.append(part)
        total += gradient / 2
    assert loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-6)


def test_a_purpose_gives_the_same_batches(sites: tuple[SegmentationSite, SegmentationSite]) -> None:
    first, again, other = (PooledObjective(sites, purpose).sample(1)[0] for purpose in ("p", "p", "q"))
    torch.testing.assert_close(first.images, again.images, rtol=0, atol=0)
    assert not torch.equal(first.images, other.images)


def test_sites_that_cannot_be_pooled_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="0 sites"):
        PooledObjective([], "test")
    small = Sampling(patch=(4, 8, 8), batch=2, tumour_probability=0.5, augment=False)
    one, two = (open_one("x", folders[0], 3, tmp_path / "c", sampling) for sampling in (SAMPLING, small))
    with pytest.raises(ConfigRefused, match="2 different"):
        PooledObjective([one, two], "test")
