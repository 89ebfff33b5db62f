"""Sites of tumour_types.py: labelled slices dealt to hospitals by label skew, a public phantom hospital, and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common import real_set
from wardround.data.description import Spec
from wardround.data.labelled import LabelledCohort
from wardround.data.pictures import Grid
from wardround.data.site_config import read_sites
from wardround.data.splits import PARTS, Split, split_patients
from wardround.models.vit import ViTFusion
from wardround.research.skew import LabelledSet, deal, label_skew, write_labelled_sites
from wardround.tasks.classification import balanced_accuracy
from wardround.training.classification import CaseSampling, ClassificationSite
from wardround.training.splitting import split_of

CLASSES, MODALITY, SIZE, SITES, LEAST = ("glioma", "meningioma", "pituitary"), "t1ce", 64, 4, 6
SPEC = ViTFusion("vit_tiny_patch16_224", 1, (SIZE, SIZE), 0, len(CLASSES), "shared", 4)
SAMPLING = CaseSampling(CLASSES, (MODALITY,), (), SIZE, 1, 0.5, 8, 0.0, record=False, augment=True)
PUBLIC, PUBLIC_PATIENTS = 8, 30
SPLITS = ("by patient", "by patient within classes")


def phantoms(folder: Path, index: int, patients: int) -> LabelledSet:
    """Return T1ce slices of typed phantoms under the class names of `cheng`; their record is left out."""
    from wardround.data.description import Row, read_description, read_rows
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantom_types import write_types

    root = write_types(folder / f"phantoms-{index}", hospital(index), 7, patients, (SIZE, SIZE, 40))
    found = read_description(root)
    names = dict(zip(found.spec.classes, CLASSES, strict=True))
    rows = [
        Row(row["case"], row["patient"], names[row["label"]], {MODALITY: row[MODALITY]})
        for row in read_rows(found.table)[1]
    ]
    return LabelledSet(replace(found, spec=Spec(CLASSES, (MODALITY,), grid=Grid(SIZE))), tuple(rows))


def whole_set(data: str, folder: Path, root: Path, patients: int = 60) -> LabelledSet:
    """Return `cheng` (pseudo-patients: blocks of 30 neighbouring slices, see research/presets.py), or so many phantoms."""
    from wardround.research.presets import cheng

    if data == "phantoms":
        return phantoms(folder, 0, patients)
    return cheng(real_set(root, "cheng_brain_tumor_types"), SIZE).data


def opened(name: str, cohort: LabelledCohort, seed: int, split: str) -> ClassificationSite:
    """Return a site with this seed's split (one of SPLITS), initial weights and batches."""
    return SAMPLING.open(name, cohort, parts_of(cohort, seed, split), SPEC, seed, "cpu")


def parts_of(cohort: LabelledCohort, seed: int, split: str) -> Split:
    """Return training, validation and test cases by one of SPLITS."""
    return split_patients(cohort.patients, seed=seed) if split == SPLITS[0] else split_of(cohort, seed)


def open_sites(whole: LabelledSet, alpha: float, seed: int, folder: Path, split: str) -> dict[str, ClassificationSite]:
    """Return site name -> site: patients dealt by label skew with this seed, at least LEAST each."""
    skew = label_skew(whole.labels(), SITES, alpha, seed, LEAST)
    file = write_labelled_sites(folder / f"{alpha}-{seed}", deal(whole, skew.sites))
    return {
        name: opened(name, SAMPLING.cohort(config, folder / "cache" / name, lambda words: None), seed, split)
        for name, config in read_sites(file).items()
    }


def open_public(folder: Path, seed: int) -> ClassificationSite:
    """Return a phantom hospital that takes no part, for the rehearsal."""
    file = write_labelled_sites(folder / "public", {"site-1": phantoms(folder, PUBLIC, PUBLIC_PATIENTS)})
    (config,) = read_sites(file).values()
    return opened("public", SAMPLING.cohort(config, folder / "cache" / "public", lambda words: None), seed, SPLITS[0])


def scored(site: ClassificationSite, w: Tensor, cases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities [slices, classes] and labels [slices]."""
    chances = site.chances(w, cases)
    return np.array([chances[case] for case in cases]), np.array([site.cohort.labels[case] for case in cases])


def validated(site: ClassificationSite, w: Tensor) -> float:
    """Return the balanced accuracy over the validation slices of the classes present: the number for every choice."""
    return balanced_accuracy(*scored(site, w, site.split.val))


def tested(site: ClassificationSite, w: Tensor) -> dict[str, float]:
    """Return the balanced accuracy over the test slices of the classes present, and over the test pseudo-patients."""
    cases, of = site.split.test, site.cohort.patients
    chances, labels = scored(site, w, cases)
    names = sorted(set(of.values()))
    rows = [[i for i, case in enumerate(cases) if of[case] == name] for name in names]
    blocks = [chances[mine].mean(axis=0) for mine in rows if mine]
    whose = [labels[mine[0]] for mine in rows if mine]
    return {
        "test": balanced_accuracy(chances, labels),
        "blocks": balanced_accuracy(np.array(blocks), np.array(whose)),
    }


def everywhere(sites: Mapping[str, ClassificationSite], w: Tensor) -> float:
    """Return the balanced accuracy of one model over the test slices of all sites together."""
    parts = [scored(site, w, site.split.test) for site in sites.values()]
    return balanced_accuracy(np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts]))


def support(sites: Mapping[str, ClassificationSite]) -> dict[str, dict[str, Any]]:
    """Return site -> part -> [pseudo-patients by class], and the test slices by class."""
    found = {}
    for name, site in sites.items():
        parts = {part: list(site.cohort.class_counts(getattr(site.split, part)).values()) for part in PARTS}
        slices = Counter(site.cohort.labels[case] for case in site.split.test)
        found[name] = parts | {"test_slices": [slices[k] for k in range(len(CLASSES))]}
    return found
