"""Images alone, the record alone, and both: test balanced accuracy of FedAvg on phantom hospitals and on real sets.

    phantoms        4 hospitals, 3 tumour types, one slice of T1, T1ce, T2 and FLAIR, a record of 4 columns: truth known
    phantoms_t1ce   the same patients, T1ce only: no image can tell two of the types apart, the record can help
    lgg             grade of 92 lower-grade gliomas at 3 hospitals: T1, FLAIR, T1ce, a clinical record
    mhh             admission to intensive care of 57 patients of ONE hospital (so: local training): chest film, laboratory

Every arm has the same patients, split, schedule and number of patients drawn (equal local work); nothing is chosen by looking
at test patients, the model after the last round is scored. The record alone is a network without a trunk. Augmentation and
modality dropout are off, images of phantoms are 32 pixels wide, a hospital has 200 patients, and clip_norm is 0.3: with the
jobs' settings the transformer, drawn from the seed, did not leave chance on images in six rounds. These were fixed on
validation patients of another split (seed 100) of the same phantoms, some of whom are test patients of other seeds; their exact
combination was settled by the time that was left, once seed 0 had been seen to learn on validation. Limits of phantoms: the best
accuracy that anybody can have when the images show the type's signs perfectly. Differences are paired by seed (split,
weights, batches) with a 95 % t-interval.

    python benchmarks/fusion.py --json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from common import (
    REAL_DATA,
    Part,
    Parts,
    Table,
    arguments,
    cell,
    command,
    finish,
    interval,
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
from wardround.research.in_process import InProcessFederation
from wardround.research.presets import lgg, mhh
from wardround.research.skew import deal, write_labelled_sites
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_ehr import bayes_limit
from wardround.synthetic.phantom_types import write_types
from wardround.training.classification import CaseSampling, ClassificationSite
from wardround.training.splitting import split_of

SITES, PHANTOM_SEED, SIDE, BATCH, DROPOUT = 4, 7, 32, 16, 0.0
SETS = ("phantoms", "phantoms_t1ce", "lgg", "mhh")
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
    """Return the schedule of every arm: the jobs' rate, but constant, and clipped harder."""
    return Schedule(num_rounds, work, 0.02, 0.9, True, 0.0, 0.3, "constant")


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
        augment=False,
    )


def network_of(sampling: CaseSampling, depth: int) -> ViTFusion:
    """Return the network for these patients."""
    vector, classes = sampling.vector, len(sampling.classes)
    return ViTFusion(
        "vit_tiny_patch16_224", vector.modalities, vector.size, vector.columns, classes, "shared", depth=depth
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


def open_sites(data: Data, sampling: CaseSampling, seed: int, depth: int) -> dict[str, ClassificationSite]:
    """Return hospital -> its side, with this seed's split, weights and batches."""
    network = network_of(sampling, depth)
    return {
        name: sampling.open(name, cohort, split_of(cohort, seed), network, seed, "cpu")
        for name, cohort in data.cohorts.items()
    }


def trained(sites: Mapping[str, ClassificationSite], schedule: Schedule) -> Tensor:
    """Return the shared model after the last round of FedAvg; of one hospital: its local model."""
    together = InProcessFederation(sites, FedAvg(), MEAN, schedule)
    first = next(iter(sites.values()))
    return next(iter(together.models(together.run(first.model.vector.clone())).values()))


def one_seed(data: Data, seed: int, schedule: Schedule, depth: int) -> dict[str, Any]:
    """Return arm -> mean over hospitals of the test balanced accuracy, and each hospital's."""
    found: dict[str, Any] = {"seed": seed}
    for arm in ARMS:
        begun = time.monotonic()
        sites = open_sites(data, sampling_of(data.spec, arm), seed, depth)
        w = trained(sites, schedule)
        each = {name: one.score(w, one.split.test) for name, one in sites.items()}
        val = float(np.mean([one.score(w, one.split.val) for one in sites.values()]))
        found[arm] = float(np.mean(list(each.values())))
        found[f"{arm} by hospital"], found[f"{arm} val"] = each, val
        say(f"  seed {seed}, {arm}: test {found[arm]:.3f}, validation {val:.3f}, {time.monotonic() - begun:.0f} s")
        count = sum(len({one.cohort.patients[case] for case in one.split.test}) for one in sites.values())
    return found | {"test_patients": count}


def limits(name: str, modalities: Sequence[str]) -> dict[str, float] | None:
    """Return arm -> the accuracy that nobody can beat; real patients: None."""
    if not name.startswith("phantoms"):
        return None
    return {
        "images": bayes_limit(modalities, strength=0.0),
        "record": bayes_limit(),
        "fusion": bayes_limit(modalities),
    }


def gaps_of(parts: Sequence[Part]) -> dict[str, tuple[float, float | None, float | None]]:
    """Return both differences, paired by seed."""
    rows = [part.numbers for part in parts]
    return {f"{a} - {b}": interval([row[a] - row[b] for row in rows]) for a, b in PAIRS}


def by_set(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return set -> its parts; parts of a set with other settings than one another: ConfigRefused."""
    known(parts, "data", SETS)
    found = {name: [part for part in parts if part.key["data"] == name] for name in SETS}
    for mine in found.values():
        one_settings(mine)
    return {name: mine for name, mine in found.items() if mine}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table: a row per set."""
    rows = []
    for name, mine in by_set(parts).items():
        found = [part.numbers for part in mine]
        counts = sorted({one["test_patients"] for one in found})
        patients = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        best = found[0]["limits"]
        reach = f"chance {found[0]['chance']:.2f}"
        if best:
            reach = "best possible " + ", ".join(f"{best[arm]:.2f}" for arm in ARMS)
        cells = [f"{name} ({reach})", found[0]["hospitals"], patients]
        cells += [f"{np.mean([one[arm] for one in found]):.3f}" for arm in ARMS]
        rows.append([*cells, *(cell(gap, "+") for gap in gaps_of(mine).values())])
    heads = ["set", "hospitals", "test patients a seed", *ARMS, *(f"{a} - {b} [95 %]" for a, b in PAIRS)]
    return {"arms": table(heads, rows, parts)}


def options(words: str) -> Any:
    """Return a parser with what both benchmarks of these hospitals are asked (the other one: modalities.py)."""
    parser = arguments(words)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    parser.add_argument("--patients", type=int, default=200, help="of every phantom hospital")
    parser.add_argument("--rounds", type=int, default=12, help="rounds")
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
    found = by_set(done).items()
    result = {name: {"rows": [part.numbers for part in mine], "gaps": gaps_of(mine)} for name, mine in found}
    finish({"split": SPLIT, **result}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the sets and seeds that are not there yet."""
    with tempfile.TemporaryDirectory() as folder:
        for name in args.data:
            rounds = args.rounds if name.startswith("phantoms") or args.quick else args.real_rounds
            schedule = schedule_of(rounds, args.work)
            about = {"split": SPLIT, "schedule": asdict(schedule), "patients": args.patients, "depth": args.depth}
            keys = [{"data": name, "seed": seed} for seed in args.seeds]
            keys = [key for key in keys if parts.missing(key, about)]
            if not keys:
                continue
            data = open_data(name, Path(folder), args.patients, args.root)
            for key in keys:
                parts.measure(key, about, partial(one_part, name, data, key["seed"], schedule, args.depth))


def one_part(name: str, data: Data, seed: int, schedule: Schedule, depth: int) -> dict[str, Any]:
    """Return the scores of one seed, and what can be reached at best or by chance."""
    found = one_seed(data, seed, schedule, depth)
    found |= {"hospitals": len(data.cohorts), "limits": limits(name, data.spec.modalities)}
    return found | {"chance": 1 / len(data.spec.classes)}


if __name__ == "__main__":
    command(main)
