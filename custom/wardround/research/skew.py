"""How are sites that differ made of one set of labelled patients?

They differ by label skew, missing modalities or other scanners. Patients are dealt,
never cases. Everything is a function of the arguments and the seed alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import stream
from wardround.data.description import Description, Row, write_folder
from wardround.data.nifti import read_scan
from wardround.data.pictures import decode, write_picture
from wardround.research.partition_drawn import by_dirichlet
from wardround.research.partition_files import Sites, require_new, write_sites
from wardround.synthetic.scanner import Scanner, transform

# An alpha so large that the shares that it draws are as good as equal.
_EVEN = 1e9


@dataclass(frozen=True)
class LabelledSet:
    """A description and its rows, not yet (or no longer) in files."""

    description: Description
    rows: tuple[Row, ...]

    def labels(self) -> dict[str, str]:
        """Return the class of each patient; without a known label a patient is not in
        it.
        """
        return {row.patient: row.label for row in self.rows if row.label}


@dataclass(frozen=True)
class Skew:
    """Sites with their patients.

    sites: The patients of each site.
    counts: The number of patients of each class at each site.
    moved: How many patients were moved so that every site has enough.
    """

    sites: Sites
    counts: Mapping[str, Mapping[str, int]]
    moved: int

    def __str__(self) -> str:
        classes = list(next(iter(self.counts.values())))
        width = [max(len(c), 5) for c in classes]
        first = max(map(len, self.counts))
        lines = [
            "  ".join(
                [
                    " " * first,
                    *(c.rjust(w) for c, w in zip(classes, width, strict=True)),
                ]
            )
        ]
        for site, row in self.counts.items():
            lines.append(
                "  ".join(
                    [
                        site.ljust(first),
                        *(str(row[c]).rjust(w) for c, w in zip(classes, width, strict=True)),
                    ]
                )
            )
        return "\n".join([*lines, f"{self.moved} patients moved to reach the minimum"])


def label_skew(
    labels: Mapping[str, str],
    sites: int,
    alpha: float,
    seed: int,
    min_patients: int = 3,
) -> Skew:
    """Deal patients to sites in shares of each class from Dirichlet(alpha, ...).

    labels: The class of each patient.
    alpha: inf gives equal shares, up to one patient of each class per site; with a
        small alpha each class sits at few sites.

    Every site has min_patients: a site with fewer gets them one by one from the largest
    site, out of that site's most frequent class, so skew is kept. (by_dirichlet draws
    again instead, which at alpha 0.05 with few classes never ends.) A site may lack
    classes or have a single one: `counts` says so. ConfigRefused is raised for an alpha
    not above 0, for fewer patients than sites * min_patients, and for fewer than two
    sites.
    """
    if sites * min_patients > len(labels):
        raise ConfigRefused(
            "the label skew",
            found=f"{len(labels)} patients for {sites} sites of at least {min_patients}",
            expected=f"{sites * min_patients} patients or more",
            fix="use fewer sites or a smaller minimum",
        )
    drawn = by_dirichlet(labels, sites, _EVEN if alpha == math.inf else alpha, seed, 0)
    found = {site: list(patients) for site, patients in drawn.items()}
    rng = stream(seed, "skew repair")
    moved = 0
    while min(map(len, found.values())) < min_patients:
        poor, rich = (
            min(found, key=lambda s: len(found[s])),
            max(found, key=lambda s: len(found[s])),
        )
        common = Counter(labels[p] for p in sorted(found[rich])).most_common(1)[0][0]
        choice = sorted(p for p in found[rich] if labels[p] == common)
        patient = choice[int(rng.integers(len(choice)))]
        found[rich].remove(patient)
        found[poor].append(patient)
        moved += 1
    dealt = {site: tuple(sorted(patients)) for site, patients in found.items()}
    return Skew(dealt, class_table(labels, dealt), moved)


def class_table(
    labels: Mapping[str, str],
    sites: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, int]]:
    """Return the number of patients of each class at each site, with zeros.

    Classes are sorted.
    """
    classes = sorted(set(labels.values()))
    return {s: {c: sum(labels.get(p) == c for p in patients) for c in classes} for s, patients in sites.items()}


def deal(whole: LabelledSet, sites: Mapping[str, Sequence[str]]) -> dict[str, LabelledSet]:
    """Return the rows of every site's patients.

    Rows of patients at no site are left out. ConfigRefused is raised for a patient at
    two sites.
    """
    everyone = [patient for patients in sites.values() for patient in patients]
    if len(set(everyone)) < len(everyone):
        raise ConfigRefused(
            "the sites",
            found="a patient at two sites",
            expected="every patient at one",
            fix="deal again",
        )
    return {
        site: replace(
            whole,
            rows=tuple(row for row in whole.rows if row.patient in set(patients)),
        )
        for site, patients in sites.items()
    }


def without_modalities(site: LabelledSet, missing: Sequence[str]) -> tuple[LabelledSet, int]:
    """Return (the site as if it never acquired these modalities, lost cases).

    A case is lost if it has no other modality. ConfigRefused is raised for a modality
    that the description does not have, and for all of them.
    """
    own = site.description.spec.modalities
    if not set(missing) < set(own):
        raise ConfigRefused(
            "the missing modalities",
            found=str(tuple(missing)),
            expected=f"some of {own}, not all",
            fix="name modalities of this set, and leave one of them out",
        )
    rows = [replace(row, images={m: f for m, f in row.images.items() if m not in missing}) for row in site.rows]
    kept = tuple(row for row in rows if any(row.images.values()))
    return replace(site, rows=kept), len(rows) - len(kept)


def rescan(site: LabelledSet, out: Path, device: Scanner, seed: int) -> LabelledSet:
    """Write COPIES of the site's images as the simulated scanner would show them.

    Returned is the site with the copies, which are below `out` and are patient images
    like the originals. Pictures become PNG of 16 bits; NIfTI stays NIfTI (float32,
    RAS). Pixels of exactly 0 stay 0. DataRefused is raised for images that are
    unreadable or not finite.
    """
    rows = []
    for row in site.rows:
        images = {}
        for modality, cell in row.images.items():
            if cell:
                gamma = float(stream(seed, "gamma", device.name, modality).uniform(*device.gamma_range))
                images[modality] = _rescan(
                    row.case,
                    site.description.images,
                    cell,
                    out,
                    device,
                    gamma,
                    seed,
                )
        rows.append(replace(row, images=images))
    return LabelledSet(replace(site.description, images=out.resolve()), tuple(rows))


def write_labelled_sites(out: Path, sites: Mapping[str, LabelledSet]) -> Path:
    """Write a folder for every site and the files of partition_files.py.

    The folder is <out>/<site>/data with dataset.json and cases.csv; the path of
    sites.json is returned. Unless all names are like `site-3`, they become site-1,
    site-2, ... ConfigRefused is raised for another partition in `out`, DataRefused for
    a site without rows.
    """
    empty = [name for name, site in sites.items() if not site.rows]
    if empty:
        raise DataRefused(
            f"the site {empty[0]!r}",
            found="no case",
            expected="cases at every site",
            fix="use fewer sites",
        )
    cases = {name: [row.case for row in site.rows] for name, site in sites.items()}
    keys = require_new(out, cases)
    roots = {name: write_folder(out / keys[name] / "data", site.description, site.rows) for name, site in sites.items()}
    return write_sites(out, roots, cases)


def _rescan(
    case: str,
    root: Path,
    cell: str,
    out: Path,
    device: Scanner,
    gamma: float,
    seed: int,
) -> str:
    """Return the path of the copy, relative to `out`."""
    import nibabel

    rng = stream(seed, "scanner", device.name, case, cell)
    path = PurePosixPath(cell)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        scan = read_scan(case, root / path, None, np.float32)
        if not np.isfinite(scan.data).all():
            raise DataRefused(
                f"case {case!r}, file {path.name}",
                found="NaN or inf",
                expected="finite numbers",
                fix="export it again",
            )
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(
            nibabel.Nifti1Image(transform(scan.data, device, gamma, rng), scan.affine),
            out / path,
        )
        return str(path)
    seen = transform(decode(case, root / path)[:, :, None], device, gamma, rng)[:, :, 0]
    scaled = np.ceil(seen / max(float(seen.max()), 1e-12) * 65535)
    copy = path.with_suffix(".png")
    write_picture(out / copy, scaled.astype(np.uint16))
    return str(copy)
