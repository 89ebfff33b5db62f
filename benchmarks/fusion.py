"""Images alone, the record alone, and both: test balanced accuracy of FedAvg on phantom hospitals and on real sets.

    phantoms        4 hospitals, 3 tumour types, one slice of T1, T1ce, T2 and FLAIR, a record of 4 columns: truth known
    phantoms_t1ce   the same patients, T1ce only: no image can tell two of the types apart, the record can help
    lgg             grade of 92 lower-grade gliomas at 3 hospitals: T1, FLAIR, T1ce, a clinical record
    mhh             admission to intensive care of 57 patients of ONE hospital (so: local training): chest film, laboratory

Cross-validation within classes (research/class_folds.py): three folds of the phantoms, five of the real sets. A part is one
set, arm, seed and fold; over the folds every patient is tested once. Every arm has the same patients, folds, schedule and
number of patients drawn (equal local work); nothing is chosen by looking at test patients, the model after the last round is
scored. The record alone is a network without a trunk. A seed is the folds, first weights and batches. Modality dropout is
off. Images of phantoms are 32 pixels wide, and a hospital has 200 patients.

Registered before it was run:
    score       of a hospital: the mean over its classes of the share of patients who are right; mean over hospitals and seeds
    goal        on both sets of phantoms: fusion - images and fusion - record, paired by patient and seed, with the 95 %
                interval above 0. Patients are drawn with replacement within hospital and class, and seeds; hospitals are fixed.
    no goal     on the real sets, whose few patients cannot show it; they are printed whatever they say.
Limits of phantoms: the best accuracy that anybody can have when the images show the type's signs perfectly. The schedule was
fixed on validation patients of another seed (100) of the same phantoms, some of whom are test patients of other seeds.

    python benchmarks/fusion.py --data phantoms phantoms_t1ce --json      the goal
    python benchmarks/fusion.py --json
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from class_scores import Scores, above, gaps, mean
from common import (
    REAL_DATA,
    Part,
    Parts,
    Table,
    arguments,
    cell,
    command,
    finish,
    kept,
    known,
    one_settings,
    real_set,
    root_option,
    say,
    show,
    table,
)
from methods import MEAN
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.data.description import Description, Row, Spec, read_description, read_rows, write_folder
from wardround.data.labelled import LabelledCohort
from wardround.data.site_config import SiteConfig
from wardround.models.case_vector import CaseVector
from wardround.models.vit import ViTFusion
from wardround.research.class_folds import class_folds, fold_split
from wardround.research.in_process import InProcessFederation
from wardround.research.presets import lgg, mhh
from wardround.research.skew import deal, write_labelled_sites
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_ehr import bayes_limit
from wardround.synthetic.phantom_types import write_types
from wardround.tasks import classification as classes_
from wardround.training.class_site import ClassificationSite
from wardround.training.classification import CaseSampling
from wardround.training.splitting import split_of

SITES, PHANTOM_SEED, SIDE, BATCH, DROPOUT = 4, 7, 32, 16, 0.0
FOLDS = {"phantoms": 3, "phantoms_t1ce": 3, "lgg": 5, "mhh": 5}
AUGMENTATION = {"flip": 0.5, "rotation": 15.0, "zoom": 0.1}
SETS = tuple(FOLDS)
ARMS = ("images", "record", "fusion")
SPLIT = "by patient within classes"
PAIRS = (("fusion", "images"), ("fusion", "record"))


class RecordOnly(CaseSampling):
    """Patients of whom the network is given the columns alone."""

    @property
    def vector(self) -> CaseVector:
        return CaseVector(0, self.spec.grid.shape, len(self.spec.table.features))

    def inputs(self, images: Any, present: Any, values: Any, known: Any) -> Tensor:
        return super().inputs(images[:, :0], present[:, :0], values, known)


@final
@dataclass(frozen=True)
class Data:
    """The hospitals' cohorts by name, and what they have in common."""

    spec: Spec
    cohorts: Mapping[str, LabelledCohort]


def schedule_of(num_rounds: int, work: int) -> Schedule:
    """Return the schedule of every arm. With steps up to a norm of 1 the transformer does not leave chance on phantoms."""
    return Schedule(num_rounds, work, 0.02, 0.9, True, 0.001, 0.3, "cosine")


def sampling_of(spec: Spec, arm: str, dropout: float = DROPOUT) -> CaseSampling:
    """Return how an arm draws patients: `images`, `record` (one source: nothing to drop), `fusion`."""
    columns = [column.as_json() for column in spec.table.columns]
    kind = RecordOnly if arm == "record" else CaseSampling
    return kind(
        spec.classes,
        spec.modalities,
        columns,
        spec.grid.size,
        spec.grid.depth,
        spec.grid.span,
        BATCH,
        modality_dropout=0.0 if arm == "record" else dropout,
        record=arm != "images",
        augment=arm != "record",
        augmentation=AUGMENTATION,
    )


def network_of(sampling: CaseSampling, depth: int) -> ViTFusion:
    """Return the network for these patients."""
    vector, classes = sampling.vector, len(sampling.classes)
    # As many tokens for every width: 16 for an image, or for a slice of a volume.
    return ViTFusion(
        "vit_tiny_patch16_224",
        vector.modalities,
        vector.size,
        vector.columns,
        classes,
        "shared",
        depth=depth,
        patch=vector.size[-1] // 4,
        stem="conv",
    )


def only(root: Path, source: Path, modalities: Sequence[str]) -> Path:
    """Write into `root` a folder that has these modalities of the labelled images in `source`, and return it."""
    whole = read_description(source)
    _, cells = read_rows(whole.table)
    rows = [
        Row(
            cell["case"],
            cell["patient"],
            cell["label"],
            {m: cell[m] for m in modalities},
            {column.name: cell[column.header] for column in whole.spec.table.columns},
        )
        for cell in cells
    ]
    spec = replace(whole.spec, modalities=tuple(modalities))
    return write_folder(root, Description(spec, whole.images, root / "cases.csv"), rows)


def folders(name: str, folder: Path, patients: int, root: Path) -> dict[str, Path]:
    """Return hospital -> its folder of labelled images; patients: of each phantom hospital; root: of the real sets."""
    if name.startswith("phantoms"):
        found = {}
        for index in range(SITES):
            profile = hospital(index)
            found[profile.name] = folder / "phantoms" / profile.name
            write_types(found[profile.name], profile, PHANTOM_SEED, patients, (SIDE, SIDE, 24))
        if name == "phantoms_t1ce":
            found = {site: only(folder / name / site, source, ("t1ce",)) for site, source in found.items()}
        return found
    preset = (
        mhh(real_set(root, "mhh_covid_cxr_ehr"))
        if name == "mhh"
        else lgg(real_set(root, "lgg_tcga_multisite_nc"), span=0.5)
    )
    sites = deal(preset.data, preset.hospitals) if preset.hospitals else {"MHH": preset.data}
    write_labelled_sites(folder / name, sites)
    return {site: folder / name / f"site-{k + 1}" / "data" for k, site in enumerate(sites)}


def open_data(name: str, folder: Path, patients: int, root: Path = REAL_DATA) -> Data:
    """Return the cohorts of one set."""
    cohorts, spec = {}, None
    for site, place in folders(name, folder, patients, root).items():
        spec = read_description(place).spec
        cache = folder / "cache" / name / site
        cohorts[site] = sampling_of(spec, "fusion").cohort(SiteConfig(data=place), cache, lambda words: None)
    assert spec is not None
    return Data(spec, cohorts)


def open_sites(
    data: Data, sampling: CaseSampling, seed: int, depth: int, fold: int | None = None, folds: int = 0
) -> dict[str, ClassificationSite]:
    """Return hospital -> its side, with this seed's weights and batches, and its split: one fold, None: that of jobs."""
    network = network_of(sampling, depth)
    sites = {}
    for name, cohort in data.cohorts.items():
        if fold is None:
            split = split_of(cohort, seed)
        else:
            split = fold_split(cohort.patients, class_folds(cohort.patients, cohort.labels, folds, seed), folds, fold)
        sites[name] = sampling.open(name, cohort, split, network, seed, "cpu")
    return sites


def trained(sites: Mapping[str, ClassificationSite], schedule: Schedule) -> Tensor:
    """Return the shared model after the last round of FedAvg; of one hospital: its local model."""
    together = InProcessFederation(sites, FedAvg(), MEAN, schedule)
    first = next(iter(sites.values()))
    return next(iter(together.models(together.run(first.model.vector.clone())).values()))


def one_arm(data: Data, arm: str, seed: int, fold: int, folds: int, schedule: Schedule, depth: int) -> dict[str, Any]:
    """Return hospital -> [patient's number, class, right] of every patient who is tested, and the validation score."""
    sites = open_sites(data, sampling_of(data.spec, arm), seed, depth, fold, folds)
    w = trained(sites, schedule)
    val = float(np.mean([one.score(w, one.split.val) for one in sites.values() if one.split.val]))
    found = {name: tested(one, w) for name, one in sites.items()}
    say(f"  {arm}, seed {seed}, fold {fold}: validation {val:.3f}")
    return {"rows": found, "val": val}


def tested(site: ClassificationSite, w: Tensor) -> list[list[int]]:
    """Return of every test patient: the number at this hospital, the class, and 1 where the most likely class is that."""
    if not site.split.test:
        return []
    names = sorted(set(site.cohort.patients.values()))
    who, chances, labels = classes_.by_patient(
        site.chances(w, site.split.test), site.cohort.labels, site.cohort.patients
    )
    right = chances.argmax(1) == labels
    return [[names.index(name), int(k), int(hit)] for name, k, hit in zip(who, labels, right, strict=True)]


def limits(name: str, modalities: Sequence[str]) -> dict[str, float] | None:
    """Return arm -> the accuracy that nobody can beat; real patients: None."""
    if not name.startswith("phantoms"):
        return None
    return {
        "images": bayes_limit(modalities, strength=0.0),
        "record": bayes_limit(),
        "fusion": bayes_limit(modalities),
    }


def scores(parts: Sequence[Part]) -> dict[str, Scores]:
    """Return arm -> every patient's score, of the seeds of which every arm has every fold; none: {}."""
    found: dict[str, dict[int, list[Any]]] = {arm: {} for arm in ARMS}
    for part in parts:
        found[part.key["arm"]].setdefault(part.key["seed"], []).append(part.numbers["rows"])
    count = parts[0].settings["folds"]
    seeds = set.intersection(*({seed for seed, folds in one.items() if len(folds) == count} for one in found.values()))
    return {arm: scores_of({seed: found[arm][seed] for seed in sorted(seeds)}) for arm in ARMS} if seeds else {}


def scores_of(folds: Mapping[int, Sequence[Mapping[str, Sequence[Sequence[int]]]]]) -> Scores:
    """Return (hospital, class) -> seed -> 1 or 0 per patient, from seed -> fold -> hospital -> rows."""
    out: Scores = {}
    for seed, parts in folds.items():
        for name in parts[0]:
            rows = sorted(tuple(row) for part in parts for row in part[name])
            for label in sorted({row[1] for row in rows}):
                out.setdefault((name, label), {})[seed] = np.array([row[2] for row in rows if row[1] == label], float)
    return out


def by_set(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return set -> its parts; parts of a set with other settings than one another: ConfigRefused."""
    known(parts, "data", SETS)
    known(parts, "arm", ARMS)
    found = {name: [part for part in parts if part.key["data"] == name] for name in SETS}
    for mine in found.values():
        one_settings(mine)
    return {name: mine for name, mine in found.items() if mine}


def summarise(parts: Sequence[Part]) -> dict[str, Any]:
    """Return set -> scores and paired differences with intervals, for sets of which some seed is whole."""
    out: dict[str, Any] = {}
    for name, mine in by_set(parts).items():
        if not (found := scores(mine)):
            continue
        row: dict[str, Any] = {arm: mean(found[arm]) for arm in ARMS}
        row |= {f"{a} - {b}": mean(gaps(found[a], found[b])) for a, b in PAIRS}
        patients = sum(len(next(iter(seeds.values()))) for seeds in found["fusion"].values())
        about = {"patients": patients, "hospitals": len({site for site, _ in found["fusion"]})}
        out[name] = row | about | {key: mine[0].numbers[key] for key in ("limits", "chance")}
    return out


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table: a row per set."""
    rows = []
    for name, found in summarise(parts).items():
        best = found["limits"]
        reach = f"chance {found['chance']:.2f}"
        if best:
            reach = "best possible " + ", ".join(f"{best[arm]:.2f}" for arm in ARMS)
        cells = [f"{name} ({reach})", found["hospitals"], found["patients"], *(f"{found[arm][0]:.3f}" for arm in ARMS)]
        over = [found[f"{a} - {b}"] for a, b in PAIRS]
        goal = "-" if not best else "met" if all(map(above, over)) else "not met"
        rows.append([*cells, *(cell(gap, "+") for gap in over), goal])
    heads = ["set", "hospitals", "patients", *ARMS, *(f"{a} - {b} [95 %]" for a, b in PAIRS), "goal"]
    return {"arms": table(heads, rows, parts)}


def options(words: str) -> Any:
    """Return a parser with what both benchmarks of these hospitals are asked (the other one: modalities.py)."""
    parser = arguments(words)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="folds, weights and batches")
    parser.add_argument("--patients", type=int, default=200, help="of every phantom hospital")
    parser.add_argument("--rounds", type=int, default=20, help="rounds")
    parser.add_argument("--work", type=int, default=30, help="gradient steps of a site in a round")
    parser.add_argument("--depth", type=int, default=1, help="blocks of the trunk")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    return parser


def asked(parser: Any) -> Any:
    """Return what was asked, cut down by --quick; torch's threads are set."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.patients, args.rounds, args.work, args.seeds = 12, 1, 4, args.seeds[:1]
    return args


def main() -> None:
    """Run every set, arm and seed that is missing, and print the table."""
    parser = options(__doc__ or "")
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS), help="sets")
    root_option(parser)
    parser.add_argument("--real-rounds", type=int, default=4, help="rounds on the real sets, which are small")
    args = asked(parser)
    args.data = args.data[:2] if args.quick else args.data
    with kept("fusion", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({"split": SPLIT, **summarise(done)}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run what is not there yet."""
    with tempfile.TemporaryDirectory() as folder:
        for name in args.data:
            folds = FOLDS[name]
            rounds = args.rounds if name.startswith("phantoms") or args.quick else args.real_rounds
            schedule = schedule_of(rounds, args.work)
            about = {"split": SPLIT, "schedule": asdict(schedule), "patients": args.patients, "depth": args.depth}
            about |= {"folds": folds, "batch": BATCH, "augmentation": AUGMENTATION}
            keys = [
                {"data": name, "arm": arm, "seed": seed, "fold": fold}
                for seed in args.seeds
                for fold in range(folds)
                for arm in ARMS
            ]
            keys = [key for key in keys if parts.missing(key, about)]
            if not keys:
                continue
            data = open_data(name, Path(folder), args.patients, args.root)
            for key in keys:
                parts.measure(key, about, partial(one_part, data, key, folds, schedule, args.depth))


def one_part(data: Data, key: Mapping[str, Any], folds: int, schedule: Schedule, depth: int) -> dict[str, Any]:
    """Return the rows of one arm, seed and fold, and what can be reached at best or by chance."""
    found = one_arm(data, key["arm"], key["seed"], key["fold"], folds, schedule, depth)
    return found | {"limits": limits(key["data"], data.spec.modalities), "chance": 1 / len(data.spec.classes)}


if __name__ == "__main__":
    command(main)
