"""Does joining pay at three real hospitals? Every method to its end, and every patient tested.

The LGG-TCGA hospitals DU (45 patients), HT (34) and FG (14). Written down before anything was
measured:

DESIGN. Cross-validation by patient inside each hospital: 5 folds, each patient is tested
exactly once for each seed; a quarter of the other patients are for validation
(research/folds.py). A seed is another deal of folds, other first weights and batches; seeds 0
and 1. `--unseen`: train at two hospitals, all their patients (a quarter for validation), and
test every patient of the third. A part is one method on one fold: (recipe, start, work, method,
fold, seed).

EQUAL WORK. A hospital spends 20 rounds x 60 gradient evaluations (batch 4, patch 64 x 64 x 16)
with every method, alone too; Per-FedAvg takes half (FO) or a quarter (HF) of the steps for it.
"centralised, work of all hospitals" spends three times that, in one schedule, as the federation
does together. `--works 0.5 1 2 4` scales the rounds: a curve, so that nobody's stopping point
decides.

COMPARED, all paired by patient: shared - local, deployed - local, the worst hospital, the
smallest hospital (FG), and the unseen one. "Shared" is the federated method, plain or
fine-tuned, with the best mean VALIDATION Dice over hospitals. Intervals: 95 %, patients and
seeds resampled, hospitals fixed (reports/intervals.py).

GOALS. 1. shared or deployed - local >= +.03, its interval above 0. 2. the same at FG >= +.05.
3. no hospital more than .005 below its own local model with what is deployed. 4. mean Dice of
shared or deployed >= .74. 5. shared within .01 of centralised with the work of all. 6. FedAvg
above every local model at the unseen hospital.

RULE. A goal that needs parts which are not there is "not measured yet"; a comparison in which a
row lacks parts of the other says so. Hyper-parameters are those of methods.py, chosen on
another split (tune.py). Null results stay in the table.

    python benchmarks/joining.py                                       about 12 minutes for a federated part on one slow core
    python benchmarks/joining.py --methods local fedavg --folds 0      a first look
    python benchmarks/joining.py --starts scratch warm --works 0.5 1 2 4 --unseen --backend loky --workers 2
    python benchmarks/joining.py --recipe standard                     the schedule `standard` of the jobs
    python benchmarks/joining.py --show                                the tables of the parts that are there
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import joining_tables
from common import (
    Part,
    Parts,
    Table,
    arguments,
    command,
    finish,
    kept,
    part_name,
    real_set,
    root_option,
    run_missing,
    say,
    show,
)
from learners import ALONE, Models, Setting, by_patient, learners, network
from methods import methods
from mixtures import NEEDS, mixture, tuned
from segmentation import cohorts
from wardround.algorithms.schedule import Schedule
from wardround.research.folds import folds, indices, whole
from wardround.research.parts import add_options

FOLDS, ROUNDS = 5, 20
KS = (0, 1, 5, 20)
PATCH = (64, 64, 16)
PLAIN = {
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.0,
    "clip_norm": 10.0,
    "decay": "cosine",
    "lr": 0.05,
}


def of_a_job(changes: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of a brain tumour job with these settings, with the patches of these images."""
    from wardround.jobs import recipes

    job = recipes.job("brats_fedavg", changes)
    schedule = dict(job.federation["schedule"]["args"])
    rounds = schedule.pop("num_rounds")
    return {
        "rounds": rounds,
        "schedule": schedule,
        "sampling": {**job.task["sampling"]["args"], "patch": PATCH},
    }


# What a hospital does in a round, and how patches are drawn. A new recipe is a row; its parts have its name.
RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: {
        "rounds": ROUNDS,
        "schedule": PLAIN | {"work": 60},
        "sampling": {"patch": PATCH, "batch": 4, "tumour_probability": 0.67, "augment": True},
    },
    "standard": lambda: of_a_job(["schedule=standard"]),
    "quick": lambda: {
        "rounds": 1,
        "schedule": PLAIN | {"work": 4},
        "sampling": {
            "patch": (16, 16, 16),
            "batch": 2,
            "tumour_probability": 0.67,
            "augment": True,
        },
    },
}


@dataclass(frozen=True)
class Place:
    """Where a part finds its data and leaves models that another part needs."""

    root: Path
    scratch: Path
    threads: int


def settings(recipe: str) -> dict[str, Any]:
    """Return everything that the numbers of a recipe's parts depend on beside their keys."""
    quick = {"patients": 5, "shape": (24, 24, 24), "folds": 2, "ks": (0, 1)}
    full = {"patients": None, "shape": None, "folds": FOLDS, "ks": KS}
    return RECIPES[recipe]() | (quick if recipe == "quick" else full)


def data_of(recipe: str) -> str:
    """Return whose patients a recipe is for."""
    return "phantoms" if recipe == "quick" else "lgg"


def opened(key: Mapping[str, Any], place: Place) -> tuple[Setting, dict[str, Any], dict[str, Any]]:
    """Return the setting of a part, the hospitals that it tests (name -> site), and the numbers of all their patients."""
    from wardround.models.flat import first_weights
    from wardround.training.segmentation import Sampling, SegmentationSite

    options, seed = settings(key["recipe"]), key["seed"]
    known = cohorts(data_of(key["recipe"]), options, place.scratch, place.root)
    net, sampling = network(key["start"]), Sampling(**options["sampling"])
    schedule = Schedule(num_rounds=max(1, round(options["rounds"] * key["work"])), **options["schedule"])
    left_out = str(key["fold"]).removeprefix("no_") if str(key["fold"]).startswith("no_") else None
    sites, tested = {}, {}
    for name, cohort in known.items():
        patients = cohort.patients
        split = whole(patients, seed) if left_out else folds(patients, options["folds"], seed)[key["fold"]]
        site = SegmentationSite(name, cohort, split, net, sampling, seed, "cpu")
        if name != left_out:
            sites[name] = site
        if left_out is None or name == left_out:
            tested[name] = site
    names = {name: indices(cohort.patients) for name, cohort in known.items()}
    return Setting(sites, schedule, first_weights(net, seed)), tested, names


def measure(place: Place, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one method gives on one fold: Dice of every validation and test patient, by number."""
    import torch

    if place.threads:
        torch.set_num_threads(place.threads)
    setting, tested, names = opened(key, place)
    method, options = key["method"], settings(key["recipe"])
    cause = {name: value for name, value in key.items() if name != "method"}
    models, needed = (
        Models(place.scratch / "models"),
        {one for row in NEEDS.values() for one in row},
    )
    wanted = NEEDS.get(method, (method,))
    trained = {one: models.trained(cause, options, setting, one, keep=one in needed) for one in wanted}
    if len(tested) < len(names):
        return {"unseen": {name: unseen(method, site, names[name], trained) for name, site in tested.items()}}
    found = {}
    for name, site in tested.items():
        if method in NEEDS:
            found[name] = mixture(method, name, site, names[name], trained, options["ks"])
        else:
            ks = (0,) if method in ALONE else options["ks"]
            found[name] = evaluated(site, names[name], trained[method].models[name], ks)
    dice = {name: round(float(np.mean(list(row["test"].values()))), 3) for name, row in found.items()}
    say(f"  {part_name(key)}: test {dice}")
    return {"sites": found}


def scored(site: Any, names: Mapping[str, str], w: Any, cases: Sequence[str]) -> dict[str, float]:
    """Return the mean Dice over the known regions of each patient, by number."""
    rows = site.scores(w, cases, with_hd95=False)
    return by_patient(site, cases, [row["dice_mean"] for row in rows], names)


def evaluated(site: Any, names: Mapping[str, str], w: Any, ks: Sequence[int]) -> dict[str, Any]:
    """Return the scores of a model, and under "tuned" those after the k > 0 that is best on validation."""
    split = site.split
    row: dict[str, Any] = {
        "val": scored(site, names, w, split.val),
        "test": scored(site, names, w, split.test),
    }
    if max(ks) == 0:
        return row
    each = {k: (one, scored(site, names, one, split.val)) for k, one in tuned(site, w, ks).items() if k}
    k = max(each, key=lambda k: float(np.mean(list(each[k][1].values()))))
    return row | {"tuned": {"k": k, "val": each[k][1], "test": scored(site, names, each[k][0], split.test)}}


def unseen(method: str, site: Any, names: Mapping[str, str], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores at a hospital that took no part, of the shared model or of every local one."""
    from mixtures import answers, mean_of

    cases = site.cohort.cases
    made = trained.get(method)
    if method == "ensemble":
        local = trained["local"].models.values()
        return {"shared": mean_of([answers(site, names, w, cases) for w in local]).dice(cases)}
    models = {"shared": made.shared} if made.shared is not None else made.models
    return {name: scored(site, names, w, cases) for name, w in models.items()}


def wanted_keys(args: Any) -> list[dict[str, Any]]:
    """Return the keys of all parts that the flags ask for: first one fold of everything that every comparison needs."""
    recipe = "quick" if args.quick else args.recipe
    # The column of folds varies slowest, so that a run that is broken off has whole folds of all methods.
    columns = product(args.works, args.starts, args.seeds, args.folds)
    keys = [
        {
            "recipe": recipe,
            "start": start,
            "work": work,
            "method": method,
            "fold": fold,
            "seed": seed,
        }
        for work, start, seed, fold in columns
        for method in args.methods
    ]
    if args.unseen:
        travels = [name for name in args.methods if name not in ("deployed", *stays())]
        left_out = [(start, seed, site) for start in args.starts for seed in args.seeds for site in hospitals(recipe)]
        keys += [
            {
                "recipe": recipe,
                "start": start,
                "work": 1,
                "method": method,
                "fold": f"no_{site}",
                "seed": seed,
            }
            for start, seed, site in left_out
            for method in travels
        ]
    return keys


def hospitals(recipe: str) -> tuple[str, ...]:
    """Return the hospitals that may be left out."""
    from segmentation import LGG

    return ("north",) if recipe == "quick" else LGG


def stays() -> list[str]:
    """Return the methods that leave no model for a hospital which took no part."""
    from wardround.algorithms.sharing import EVERYTHING

    return [name for name, (_, sharing, _) in methods().items() if sharing != EVERYTHING]


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the tables of docs/results.md."""
    return joining_tables.all_of(parts, [*learners(), *NEEDS])


def main() -> None:
    """Run what is missing, and print the tables of the parts that are there; exit code 1 where a part failed."""
    parser = arguments(__doc__ or "")
    root_option(parser)
    add_options(parser)
    names = [*learners(), *NEEDS]
    first = ["local", "fedavg", "central_all", "deployed"]
    order = [*first, *(name for name in names if name not in first)]
    parser.add_argument("--methods", nargs="+", default=order, choices=order, help="rows of the table")
    parser.add_argument("--recipe", default="plain", choices=[name for name in RECIPES if name != "quick"])
    parser.add_argument(
        "--starts",
        nargs="+",
        default=["scratch"],
        choices=["scratch", "warm"],
        help="first weights",
    )
    parser.add_argument("--works", nargs="+", type=float, default=[1.0], help="multiples of the rounds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="folds, weights and batches")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), choices=range(FOLDS))
    parser.add_argument("--unseen", action="store_true", help="leave each hospital out as well")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a part; 0: torch decides")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(tempfile.gettempdir()) / "wardround-joining",
        metavar="DIR",
        help="decoded images and models that another part needs; no part of the results",
    )
    args = parser.parse_args()
    args.works = [int(work) if work == int(work) else work for work in args.works]
    with tempfile.TemporaryDirectory() as folder, kept("joining", args) as parts:
        if args.quick:
            args.scratch, args.seeds, args.folds, args.unseen = Path(folder), [0], [0], True
            args.methods = [name for name in args.methods if name in ("local", "fedavg", "deployed", "ensemble")]
        failures = [] if args.show else run(args, parts)
        done = parts.read()
    show(tables(done))
    finish(joining_tables.summary(done), as_json=args.json)
    if failures:
        raise SystemExit(1)


def run(args: Any, parts: Parts) -> list[Any]:
    """Measure the parts that are asked for and not there yet; return those that failed."""
    if not args.quick:
        real_set(args.root, "lgg_tcga_multisite_nc", "px64")
    place = Place(args.root, args.scratch, args.threads)
    recipe = "quick" if args.quick else args.recipe
    options, keys = settings(recipe), wanted_keys(args)
    if any(parts.missing(key, options) for key in keys):
        # Images are decoded here once, so that parts which run side by side find them.
        cohorts(data_of(recipe), options, place.scratch, place.root)
    return run_missing(partial(measure, place), keys, options, parts, args)


if __name__ == "__main__":
    command(main)
