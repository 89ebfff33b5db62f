"""Sites of tumour_types.py: labelled slices dealt to hospitals by label skew, a public phantom hospital, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common import real_set
from wardround.algorithms.schedule import Schedule
from wardround.data.description import Spec
from wardround.data.pictures import Grid
from wardround.data.site_config import read_sites
from wardround.data.splits import PARTS
from wardround.models.vit import Stem, ViTFusion
from wardround.research.class_folds import class_folds, fold_split
from wardround.research.skew import LabelledSet, label_skew, write_labelled_sites
from wardround.research.skew import deal as deal_out
from wardround.tasks.classification import balanced_accuracy
from wardround.training.class_site import ClassificationSite
from wardround.training.classification import CaseSampling
from wardround.training.splitting import split_of

CLASSES, MODALITY, SITES = ("glioma", "meningioma", "pituitary"), "t1ce", 4
# Two blocks of a class are too few to be tested, so a site of 10 has 6 at least that are: more than folds.
FOLDS, LEAST, DEAL = 5, 10, 0
PUBLIC, PUBLIC_PATIENTS = 8, 30


@dataclass(frozen=True)
class Recipe:
    """The network, how patients are drawn, and the steps; the defaults are what was fixed (tune_types.py)."""

    size: int = 64
    depth: int = 2
    patch: int = 16
    stem: Stem = "conv"
    batch: int = 16
    augmentation: Mapping[str, float] = field(default_factory=lambda: {"flip": 0.5, "rotation": 15.0, "zoom": 0.1})
    balanced: bool = True
    rounds: int = 30
    work: int = 40
    lr: float = 0.02
    weight_decay: float = 0.001
    clip_norm: float = 0.3

    @property
    def network(self) -> ViTFusion:
        """Return the settings of the network."""
        where = ("vit_tiny_patch16_224", 1, (self.size, self.size), 0, len(CLASSES), "shared")
        return ViTFusion(*where, depth=self.depth, patch=self.patch, stem=self.stem)

    @property
    def sampling(self) -> CaseSampling:
        """Return how patients are drawn."""
        what = (CLASSES, (MODALITY,), (), self.size, 1, 0.5, self.batch, 0.0)
        return CaseSampling(*what, record=False, augment=True, augmentation=self.augmentation, balanced=self.balanced)

    @property
    def schedule(self) -> Schedule:
        """Return the steps of every round."""
        return Schedule(self.rounds, self.work, self.lr, 0.9, True, self.weight_decay, self.clip_norm, "cosine")


def settings(recipe: Recipe, folds: int, deal: int = DEAL) -> dict[str, Any]:
    """Return what the numbers of a part depend on."""
    return {"recipe": asdict(recipe), "folds": folds, "least": LEAST, "deal": deal}


def phantoms(folder: Path, index: int, patients: int, size: int) -> LabelledSet:
    """Return T1ce slices of typed phantoms under the class names of `cheng`; their record is left out."""
    from wardround.data.description import Row, read_description, read_rows
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantom_types import write_types

    root = write_types(folder / f"phantoms-{index}-{size}", hospital(index), 7, patients, (size, size, 40))
    found = read_description(root)
    names = dict(zip(found.spec.classes, CLASSES, strict=True))
    rows = [
        Row(row["case"], row["patient"], names[row["label"]], {MODALITY: row[MODALITY]})
        for row in read_rows(found.table)[1]
    ]
    return LabelledSet(replace(found, spec=Spec(CLASSES, (MODALITY,), grid=Grid(size))), tuple(rows))


def whole_set(data: str, folder: Path, root: Path, patients: int, size: int) -> LabelledSet:
    """Return `cheng` (pseudo-patients: blocks of 30 neighbouring slices, see research/presets.py), or so many phantoms."""
    from wardround.research.presets import cheng

    if data == "phantoms":
        return phantoms(folder, 0, patients, size)
    return cheng(real_set(root, "cheng_brain_tumor_types"), size).data


def open_sites(
    whole: LabelledSet,
    alpha: float,
    fold: tuple[int, int, int],
    folder: Path,
    recipe: Recipe,
    deal: int = DEAL,
) -> dict[str, ClassificationSite]:
    """Return site name -> site.

    fold: (seed, which fold is tested, how many there are).
    deal: The seed of the deal, the same for every seed and fold of a table.
    """
    seed, tested, folds = fold
    place = folder / f"{alpha}-{deal}-{recipe.size}"
    file = place / "sites.json"
    if not file.is_file():
        skew = label_skew(whole.labels(), SITES, alpha, deal, LEAST)
        file = write_labelled_sites(place, deal_out(whole, skew.sites))
    sites = {}
    for name, config in read_sites(file).items():
        cohort = recipe.sampling.cohort(config, place / "cache" / name, lambda words: None)
        split = fold_split(cohort.patients, class_folds(cohort.patients, cohort.labels, folds, seed), folds, tested)
        sites[name] = recipe.sampling.open(name, cohort, split, recipe.network, seed, "cpu")
    return sites


def open_public(folder: Path, seed: int, recipe: Recipe) -> ClassificationSite:
    """Return a phantom hospital that takes no part, for the rehearsal."""
    found = phantoms(folder, PUBLIC, PUBLIC_PATIENTS, recipe.size)
    file = write_labelled_sites(folder / f"public-{seed}-{recipe.size}", {"site-1": found})
    (config,) = read_sites(file).values()
    cohort = recipe.sampling.cohort(config, folder / "cache" / "public", lambda words: None)
    return recipe.sampling.open("public", cohort, split_of(cohort, seed), recipe.network, seed, "cpu")


def scored(site: ClassificationSite, w: Tensor, cases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities [slices, classes] and labels [slices]."""
    chances = site.chances(w, cases)
    return np.array([chances[case] for case in cases]), np.array([site.cohort.labels[case] for case in cases])


def validated(site: ClassificationSite, w: Tensor) -> float:
    """Return the balanced accuracy over the validation slices of the classes present: the number for every choice."""
    return balanced_accuracy(*scored(site, w, site.split.val))


def tested(site: ClassificationSite, w: Tensor) -> list[list[float]]:
    """Return of every block that is tested: its number at this site, class, slices, slices right, whole block right."""
    cases, of = site.split.test, site.cohort.patients
    names = sorted(set(of.values()))
    chances, labels = scored(site, w, cases)
    rows = []
    for name in sorted({of[case] for case in cases}):
        mine = [i for i, case in enumerate(cases) if of[case] == name]
        label = int(labels[mine[0]])
        right = int((chances[mine].argmax(1) == label).sum())
        whole = int(chances[mine].mean(0).argmax() == label)
        rows.append([names.index(name), label, len(mine), right, whole])
    return rows


def everywhere(sites: Mapping[str, ClassificationSite], w: Tensor) -> list[list[int]]:
    """Return of one model over the test slices of all sites: class -> [slices, slices right]."""
    parts = [scored(site, w, site.split.test) for site in sites.values()]
    found = np.concatenate([p for p, _ in parts]).argmax(1)
    labels = np.concatenate([y for _, y in parts])
    return [[int((labels == k).sum()), int(((labels == k) & (found == k)).sum())] for k in range(len(CLASSES))]


def support(sites: Mapping[str, ClassificationSite]) -> dict[str, dict[str, Any]]:
    """Return site -> part -> [pseudo-patients by class]."""
    return {
        name: {part: list(site.cohort.class_counts(getattr(site.split, part)).values()) for part in PARTS}
        for name, site in sites.items()
    }
