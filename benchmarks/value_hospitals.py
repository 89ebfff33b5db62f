"""The hospitals of value_of_joining.py: real cases that are dealt, or phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.core.rng import stream
from wardround.data.splits import Split
from wardround.research.folds import VAL_SHARE

DATA, SKEWS = ("hippocampus", "phantoms"), ("none", "scanner", "size")
# A site file, and the cases of the hospital in the order in which it is filled.
Made = tuple[Any, Sequence[str]]
# One MRI channel; the two parts of the organ are regions of their own.
HIPPOCAMPUS = {
    "inputs": {"mri": ["mri"]},
    "outputs": {"hippocampus": {"anterior": [1], "posterior": [2]}},
    "masks": "as_stored",
    "normalisation": "head_z_scores",
    "augmentation": {"drop": 0.0},
    "metrics": ["dice"],
    "missed_mm": 374.0,
}
# Of 8 hospitals each has 24 patients: 12 tests would leave half of them.
FEWER_TESTS = {("hippocampus", 8): 6}


def opened(key: Mapping[str, Any], options: Mapping[str, Any], folder: Path, root: Path) -> tuple[dict[str, Any], Any]:
    """Return the sites of a part and its network. Copies of images lie below `folder`, which the caller removes."""
    from wardround.models.nets import UNet3d
    from wardround.training.segmentation import Sampling

    tests = min(options["tests"], FEWER_TESTS.get((key["data"], key["hospitals"]), options["tests"]))
    drawing = {
        "patch": options["patch"],
        "batch": options["batch"],
        "tumour_probability": 0.67,
        "augment": True,
    }
    if key["data"] == "phantoms":
        sampling, network = Sampling(**drawing), UNet3d()
        made = phantoms(key, options["shape"], folder, key["patients"] + tests)
    else:
        sampling, network = (
            Sampling(**drawing, task=HIPPOCAMPUS),
            UNet3d(in_channels=2, out_channels=2),
        )
        made = hippocampus(key, sampling.learns.source, folder, root, key["patients"] + tests)
    sites = {}
    for name, (config, order) in made.items():
        cohort = sampling.cohort(config, folder / "cache" / name, lambda words: None)
        sites[name] = sampling.open(name, cohort, split_of(order, tests), network, key["seed"], "cpu")
    return sites, network


def split_of(order: Sequence[str], tests: int) -> Split:
    """Return the split of a hospital: the first of its order test, then a quarter of the others validates and the rest trains.

    A smaller hospital has the beginning of the order of a larger one, so both test the same patients. Every case here is a patient.
    """
    own = order[tests:]
    validate = max(1, round(VAL_SHARE * len(own)))
    return Split(tuple(sorted(own[validate:])), tuple(sorted(own[:validate])), tuple(sorted(order[:tests])))


def phantoms(key: Mapping[str, Any], shape: Sequence[int], folder: Path, patients: int) -> dict[str, Made]:
    """Write phantom hospitals. Phantoms are drawn one by one, so their own order is as good as any."""
    from wardround.data.site_config import SiteConfig
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    made = {}
    for index in range(key["hospitals"]):
        profile = hospital(index)
        place = folder / profile.name
        written = write_cohort(place, profile, 1000 + key["seed"], shape=tuple(shape), patients=patients)
        made[profile.name] = SiteConfig(data=place), [case.name for case in written]
    return made


def hippocampus(key: Mapping[str, Any], source: Any, folder: Path, root: Path, patients: int) -> dict[str, Made]:
    """Deal all cases of the data set, and return the first of each hospital's; with `scanner`, copies of them."""
    from wardround.data.cases import find_cases
    from wardround.data.site_config import SiteConfig
    from wardround.research.partition_drawn import by_equal_parts, by_tumour_size
    from wardround.synthetic.scanner import copy_case, scanner

    place, seed = (root / "hippocampus_msd").resolve(), key["seed"]
    files = {one.case: one for one in find_cases(place, source=source)}
    if key["skew"] == "size":
        dealt = by_tumour_size({case: volume(one) for case, one in files.items()}, key["hospitals"])
    else:
        dealt = by_equal_parts(sorted(files), key["hospitals"], seed)
    made = {}
    for name, cases in dealt.items():
        shuffled = [cases[at] for at in stream(seed, "order", name).permutation(len(cases))][:patients]
        data = place
        if key["skew"] == "scanner":
            data = folder / name
            for case in shuffled:
                copy_case(files[case], place, data, scanner(name, seed), seed)
        made[name] = SiteConfig(data=data, cases=tuple(sorted(shuffled))), shuffled
    return made


def volume(files: Any) -> float:
    """Return how many voxels of a case's mask are not background; voxels of this set are 1 mm wide."""
    import numpy as np

    from wardround.data.nifti import read_scan

    return float(np.count_nonzero(read_scan(files.case, files.seg, None, np.float32).data))
