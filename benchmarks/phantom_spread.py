"""Do the main job's synthetic patients differ from one another as real ones do?

How much joining can give depends on two spreads: of patients inside a hospital, and of hospitals.
Phantoms whose patients are all alike say after four patients all there is to learn; phantoms whose
hospitals have little in common have nothing to share. So both spreads of the main job's phantoms are
chosen beside three real hospitals (LGG-TCGA: DU, HT, FG; 93 patients), not beside the result.

Measured in every patient, for each image that both have: the mean z-score inside the whole tumour,
and how well brightness alone tells tumour from the rest of the head (the area under the ROC curve);
and the tumour's size (the cube root of its share of the head). A row gives the standard deviation
over patients inside a hospital (the root of the mean variance), that of the hospitals' means, and
their ratio. "profiles" are the phantoms' hospitals as they stand, "main job" those of
`brats_perfedavg`; 40 patients for each hospital, of a seed that no job uses.

    python benchmarks/phantom_spread.py           three parts, about two minutes
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import Part, Table, arguments, command, finish, kept, real_set, root_option, run_missing, show, table
from wardround.jobs import recipes
from wardround.jobs.building import build
from wardround.research.parts import add_options

IMAGES = ("t1", "t1ce", "flair")
WORLDS = ("lgg", "profiles", "main_job")
NAMES = {"lgg": "three real hospitals", "profiles": "phantoms, profiles", "main_job": "phantoms, main job"}
FEATURES = (*(f"{image} {what}" for image in IMAGES for what in ("z-score", "AUC")), "size")
SEED, PATIENTS, SAMPLE = 900, 40, 4000
JOB = "brats_perfedavg"


def features(volume: Any, images: Sequence[str]) -> list[float | None]:
    """Return FEATURES of a patient; None for those of an image that is not there."""
    labels = np.asarray(volume.labels) > 0
    image = np.asarray(volume.image, np.float32)
    head = (image != 0).any(0)
    found: list[float | None] = []
    for name in IMAGES:
        row = images.index(name)
        inside, rest = image[row][labels], image[row][head & ~labels]
        there = bool(volume.present[row]) and min(len(inside), len(rest)) > 0
        found += [float(inside.mean()), area(inside, rest)] if there else [None, None]
    return [*found, float(np.cbrt(labels.sum() / head.sum()))]


def area(inside: NDArray[np.float32], rest: NDArray[np.float32]) -> float:
    """Return the chance that a voxel of the tumour is brighter than one of the rest."""
    rng = np.random.default_rng(0)
    beside = np.sort(rng.choice(rest, min(SAMPLE, len(rest)), replace=False))
    lower, upper = (np.searchsorted(beside, inside, side) for side in ("left", "right"))
    return float((lower + upper).mean() / 2 / len(beside))


def spread(hospitals: Mapping[str, Sequence[Sequence[float | None]]]) -> dict[str, dict[str, float]]:
    """Return for every feature the standard deviations inside hospitals and between their means."""
    rows = {}
    for column, name in enumerate(FEATURES):
        each = [[row[column] for row in patients if row[column] is not None] for patients in hospitals.values()]
        known = [np.array(values, float) for values in each if len(values) > 1]
        within = float(np.sqrt(np.mean([values.var(ddof=1) for values in known])))
        between = float(np.std([values.mean() for values in known], ddof=1)) if len(known) > 1 else float("nan")
        rows[name] = {"within": within, "between": between}
    return rows


def measure(root: Path, patients: int, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spreads of one world."""
    with tempfile.TemporaryDirectory() as folder:
        cohorts, images = (
            real(root, Path(folder)) if key["world"] == "lgg" else drawn(key["world"], patients, Path(folder))
        )
        hospitals = {name: [features(one.load(case), images) for case in one.cases] for name, one in cohorts.items()}
    return {"patients": {name: len(rows) for name, rows in hospitals.items()}, "spread": spread(hospitals)}


def real(root: Path, folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the cohorts of the three hospitals, and the names of the images' channels."""
    from joining import settings
    from segmentation import cohorts
    from wardround.data.layouts import MODALITIES

    return cohorts("lgg", settings("standard"), folder, root), MODALITIES


def drawn(world: str, patients: int, folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the cohorts of the main job's four hospitals, and the names of the images' channels."""
    from dataclasses import replace

    from wardround.data.layouts import MODALITIES
    from wardround.data.site_config import SiteConfig
    from wardround.synthetic.hospitals import HOSPITALS

    plain = {"patients_vary": 1.0, "hospitals_differ": 1.0, "findings": 0.0, "subtypes": 0.0}
    job = recipes.job(JOB, ())
    phantoms = replace(
        build(job.task["phantoms"], "phantoms"), patients=patients, **(plain if world == "profiles" else {})
    )
    sampling, found = build(job.task["sampling"], "sampling"), {}
    for profile in HOSPITALS:
        data = folder / "data" / profile.name
        phantoms.write(data, profile, SEED)
        found[profile.name] = sampling.cohort(
            SiteConfig(data=data), folder / "cache" / profile.name, lambda words: None
        )
    return found, MODALITIES


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return inside / between, and their ratio, for every feature."""
    known = {part.key["world"]: part.numbers["spread"] for part in parts}
    lines = []
    for name in FEATURES:
        cells = [known[world][name] if world in known else None for world in WORLDS]
        shown = ["-" if one is None else f"{one['within']:.2f} / {one['between']:.2f}" for one in cells]
        ratios = ["-" if one is None else f"{one['between'] / one['within']:.2f}" for one in cells]
        lines.append([name, *shown, " / ".join(ratios)])
    heads = [
        "patients inside / hospitals between",
        *(NAMES[world] for world in WORLDS),
        "between : inside, in that order",
    ]
    return {"spread": table(heads, lines, parts)}


def main() -> None:
    """Measure the worlds that are missing; exit code 1 where one failed."""
    parser = arguments(__doc__ or "")
    root_option(parser)
    add_options(parser)
    args = parser.parse_args()
    worlds = WORLDS[1:] if args.quick else WORLDS
    patients = 3 if args.quick else PATIENTS
    with kept("phantom_spread", args) as parts:
        failures = [] if args.show else run(worlds, patients, parts, args)
        done = parts.read()
    if done:
        show(tables(done))
    finish({part.key["world"]: part.numbers["spread"] for part in done}, as_json=args.json)
    if failures:
        raise SystemExit(1)


def run(worlds: Sequence[str], patients: int, parts: Any, args: Any) -> list[Any]:
    """Measure what is not there yet; return what failed."""
    if "lgg" in worlds:
        real_set(args.root, "lgg_tcga_multisite_nc", "px64")
    options = {"seed": SEED, "patients": patients, "phantoms": recipes.job(JOB, ()).task["phantoms"]}
    keys = [{"world": world} for world in worlds]
    return run_missing(partial(measure, args.root, patients), keys, options, parts, args)


if __name__ == "__main__":
    command(main)
