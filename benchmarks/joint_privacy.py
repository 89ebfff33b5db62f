"""Does one noise of all hospitals leave a usable model under patient-level privacy?

Written down before anything was measured.

DATA. `lgg`: the three LGG-TCGA hospitals, 5 folds by patient inside each hospital (as
joining.py), every patient tested once for each seed. `hippocampus`: 196 real cases dealt to 4
or 8 simulated hospitals with other scanners (as value_of_joining.py, with all patients that
there are). `phantoms`: four hospitals of the simulator. Seeds 0, 1, 2.

ARMS, all from the public warm start `randomised_phantoms` (hippocampus takes the blocks that
fit its network), all with 40 rounds and scales, shifts and biases trained (hippocampus: the
head as well, because no public weights fit it):
    joint     one noise of all hospitals, shares for a quorum of all of them, no colluders
    own       the same steps, every hospital adds the whole noise itself
    none      the same steps without noise
    epsilon0  the warm start as it is: nothing private was released
    local     every hospital alone and not private, all weights, 40 rounds x 15 steps
Epsilon 1, 2, 4, 8 per patient at delta 1e-5; add or remove one patient. K = 4 patches per
patient, normalised clip 1; the sums are divided by the public number of training patients; the
final model is the mean of the last half of the models. The learning rate is not tuned on
anything: it is set by arithmetic, so that at LGG and epsilon 8 the random walk of the noise
(about lr / (1 - momentum) x 1.4 x sqrt(40), counting values that the network uses) stays below
what 40 agreeing steps can move. No arm has settings of its own, and epsilon changes the noise
alone.

COMPARED, paired by patient: joint - epsilon0 (the honest figure), joint - own, joint - none, joint -
local. Intervals: 95 %, patients and seeds resampled, hospitals fixed.

GOALS. 1. LGG, epsilon 8: joint - epsilon0 > 0 with the interval above 0. 2. hippocampus: mean Dice of
joint >= .95 of `none` at epsilon 8, and >= .85 at epsilon 2. A null result stays in the table.

    python benchmarks/joint_privacy.py --quick
    python benchmarks/joint_privacy.py --data phantoms
    python benchmarks/joint_privacy.py --data lgg --backend loky --workers 2
    python benchmarks/joint_privacy.py --data hippocampus --hospitals 4 8
    python benchmarks/joint_privacy.py --show
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import value_hospitals
from common import (
    Part,
    Table,
    arguments,
    command,
    finish,
    kept,
    met_or_not,
    one_settings,
    part_name,
    real_set,
    root_option,
    run_missing,
    say,
    show,
    table,
)
from learners import Setting, by_patient
from learners import local as alone
from paired import Gain, above, gain, merged, span
from segmentation import cohorts
from wardround.dp.accounting import best_attack, for_gaussians, full_noise_multiplier_for, mu_for
from wardround.research.folds import folds, indices
from wardround.research.parts import add_options

ARMS = ("joint", "own", "none", "epsilon0", "local")
NOISY = ("joint", "own")
EPSILONS = (1, 2, 4, 8)
DELTA, FOLDS = 1e-5, 5
DATA = ("lgg", "hippocampus", "phantoms")
MOST = {4: 37, 8: 18}
COMMON = {"rounds": 40, "work": 15, "patches": 4, "lr": 0.3, "momentum": 0.5}
FULL: dict[str, dict[str, Any]] = {
    "lgg": COMMON | {"patch": (64, 64, 16), "patients": None, "shape": None, "train": ("affine",)},
    "hippocampus": COMMON | {"patch": (24, 32, 24), "batch": 4, "tests": 12, "train": ("affine", "head")},
    "phantoms": COMMON | {"patch": (24, 24, 24), "patients": 24, "shape": (40, 40, 40), "train": ("affine",)},
}
SMALL = {"rounds": 2, "work": 2, "patches": 2, "patch": (16, 16, 16), "patients": 5, "shape": (24, 24, 24)}
PAIRS = (("joint", "epsilon0"), ("joint", "own"), ("joint", "none"), ("joint", "local"))


@dataclass(frozen=True)
class Place:
    """Where a part finds real data, and where decoded images lie."""

    root: Path
    scratch: Path
    quick: bool


def settings(data: str, quick: bool) -> dict[str, Any]:
    """Return everything that the numbers of a data set's parts depend on beside their keys."""
    return FULL[data] | (SMALL if quick else {})


def opened(key: Mapping[str, Any], place: Place, own: Path) -> tuple[dict[str, Any], Any]:
    """Return the sites of a part, and the network with its public first weights.

    own: a folder for copies of images, which the caller removes
    """
    from learners import network
    from wardround.training.segmentation import Sampling, SegmentationSite

    data, seed = key["data"], key["seed"]
    options = settings(data, place.quick)
    net = network("warm")
    if data == "hippocampus":
        wish = {"data": data, "skew": "scanner", "hospitals": key["hospitals"], "seed": seed}
        wish["patients"] = MOST[key["hospitals"]]
        sites, _ = value_hospitals.opened(wish, options, own, place.root)
        return sites, replace(net, in_channels=2, out_channels=2)
    known = cohorts(data, options, place.scratch / data, place.root)
    sampling = Sampling(options["patch"], 4, tumour_probability=0.67, augment=True)
    sites = {}
    for name, cohort in known.items():
        split = folds(cohort.patients, FOLDS, seed)[key["fold"]]
        sites[name] = SegmentationSite(name, cohort, split, net, sampling, seed, "cpu")
    return sites, net


def measure(place: Place, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Dice of every test patient, by hospital and number of the patient."""
    with tempfile.TemporaryDirectory() as folder:
        return measured(place, key, Path(folder))


def measured(place: Place, key: Mapping[str, Any], own: Path) -> dict[str, Any]:
    """Train the arm of a part and score it; `own` as in `opened`."""
    import torch

    from wardround.algorithms.schedule import Schedule
    from wardround.models.flat import first_weights

    torch.set_num_threads(1)
    options = settings(key["data"], place.quick)
    sites, net = opened(key, place, own)
    rounds, work = options["rounds"], options["work"]
    last = "mean_of_last_half"
    schedule = Schedule(rounds, work, 0.05, 0.9, True, 0.0, 10.0, "cosine_per_step", last)  # type: ignore[arg-type]
    first = first_weights(net, key["seed"])
    if key["arm"] == "local":
        models = dict(alone(Setting(sites, schedule, first)).models)
    else:
        w = first if key["arm"] == "epsilon0" else together(key, options, sites, schedule, first)
        models = dict.fromkeys(sites, w)
    test = {}
    for name, site in sites.items():
        rows = site.scores(models[name], site.split.test, with_hd95=False)
        dice = [row["dice_mean"] for row in rows]
        test[name] = by_patient(site, site.split.test, dice, indices(site.cohort.patients))
    say(f"  {part_name(key)}: { ({name: round(float(np.mean(list(one.values()))), 3) for name, one in test.items()}) }")
    return {"test": test, "train_patients": sum(site.train_patients for site in sites.values())}


def together(
    key: Mapping[str, Any], options: Mapping[str, Any], sites: Mapping[str, Any], schedule: Any, first: Any
) -> Any:
    """Return the shared model after all joint steps."""
    from wardround.algorithms.federation import vectors
    from wardround.algorithms.patient_steps import PatientSteps
    from wardround.algorithms.server_optimizers import FedAvgM
    from wardround.algorithms.train_only import TrainOnly
    from wardround.dp.joint_dp import JointDP
    from wardround.research.joint_federation import JointFederation

    epsilon = key["epsilon"] or 8
    z = full_noise_multiplier_for(epsilon, DELTA, schedule.num_rounds, "patient", in_shares=True)
    everybody = sum(site.train_patients for site in sites.values())
    most = max(site.train_patients for site in sites.values())
    promise = JointDP(1.0, True, z, 16, len(sites), 0, max(64, most), everybody, 16)
    algorithm = PatientSteps(options["patches"])
    step = FedAvgM(options["lr"], options["momentum"])
    federation = JointFederation(
        sites, algorithm, TrainOnly(options["train"]), promise, step, schedule, noise=key["arm"]
    )
    layout = next(iter(sites.values())).layout
    return vectors(algorithm, federation.run(first).variables, layout)["model"]


def keys_of(args: Any) -> list[dict[str, Any]]:
    """Return the keys of all parts that the flags ask for; whole folds of all arms first."""
    counts = args.hospitals if args.data == "hippocampus" else [{"lgg": 3, "phantoms": 4}[args.data]]
    found = [0] if args.data == "hippocampus" else args.folds
    return [
        {"data": args.data, "hospitals": many, "arm": arm, "epsilon": epsilon, "fold": fold, "seed": seed}
        for many, seed, fold in product(counts, args.seeds, found)
        for arm in args.arms
        for epsilon in (args.epsilons if arm in NOISY else [0])
    ]


def scores(parts: Sequence[Part], arm: str, epsilon: int) -> Any:
    """Return site -> seed -> patient -> Dice of one row."""
    wanted = epsilon if arm in NOISY else 0
    mine = [part for part in parts if (part.key["arm"], part.key["epsilon"]) == (arm, wanted)]
    return merged([(site, part.key["seed"], dice) for part in mine for site, dice in part.numbers["test"].items()])


def mean_dice(found: Any) -> float | None:
    """Return the mean over hospitals of a row; None without parts."""
    each = [np.mean([value for seed in seeds.values() for value in seed.values()]) for seeds in found.values()]
    return float(np.mean(each)) if each else None


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the rows, the differences, the goals, and what an epsilon means."""
    lines: list[list[Any]] = []
    apart: list[list[Any]] = []
    goals: list[list[Any]] = []
    groups: dict[tuple[str, int], list[Part]] = {}
    for part in parts:
        groups.setdefault((part.key["data"], part.key["hospitals"]), []).append(part)
    for (data, many), mine in sorted(groups.items()):
        one_settings(mine)
        lines += [[data, many, *row] for row in _rows(mine)]
        apart += [[data, many, *row] for row in _gains(mine)]
        goals += _goals(data, many, mine)
    heads = ["data", "hospitals", "epsilon", *(f"{one} - {other}" for one, other in PAIRS)]
    return {
        "dice": table(["data", "hospitals", "arm", "epsilon", "mean Dice"], lines, parts),
        "gain": table(heads, apart, parts),
        "goals": table(["goal", "found", ""], goals, parts),
        "meaning": table(["epsilon", "mu", "best attack is right", "finds at 1 % false alarms"], _meaning(), parts),
    }


def _rows(parts: Sequence[Part]) -> list[list[Any]]:
    found = []
    for arm in ARMS:
        for epsilon in EPSILONS if arm in NOISY else (0,):
            value = mean_dice(scores(parts, arm, epsilon))
            if value is not None:
                found.append([arm, epsilon or "-", f"{value:.3f}"])
    return found


def _gains(parts: Sequence[Part]) -> list[list[Any]]:
    found = []
    for epsilon in EPSILONS:
        each = [gain(scores(parts, one, epsilon), scores(parts, other, epsilon)) for one, other in PAIRS]
        if any(each):
            found.append([epsilon, *map(_span, each)])
    return found


def _goals(data: str, many: int, parts: Sequence[Part]) -> list[list[Any]]:
    if data == "lgg":
        found = gain(scores(parts, "joint", 8), scores(parts, "epsilon0", 0))
        return [["LGG, epsilon 8: joint - epsilon0 above 0", _span(found), met_or_not(_above(found))]]
    if data != "hippocampus":
        return []
    goals = []
    for epsilon, least in ((8, 0.95), (2, 0.85)):
        share = _share(parts, epsilon)
        words = f"hippocampus, {many} hospitals, epsilon {epsilon}: at least {least} of no noise"
        met = None if share is None else share >= least
        goals.append([words, "-" if share is None else f"{share:.3f}", met_or_not(met)])
    return goals


def _meaning() -> list[list[Any]]:
    found = []
    for epsilon in EPSILONS:
        mu = mu_for(epsilon, for_gaussians(DELTA))
        attack = best_attack(mu)
        found.append([epsilon, f"{mu:.3f}", f"{attack.accuracy:.0%}", f"{attack.tpr:.1%}"])
    return found


def _share(parts: Sequence[Part], epsilon: int) -> float | None:
    joint, none = (mean_dice(scores(parts, arm, epsilon)) for arm in ("joint", "none"))
    return None if joint is None or none is None else joint / none


def _span(found: Gain | None) -> str:
    return "-" if found is None else span(found.whole)


def _above(found: Gain | None) -> bool | None:
    return None if found is None else above(found.whole)


def main() -> None:
    """Run what is missing; exit code 1 where a part failed."""
    parser = arguments(__doc__ or "")
    root_option(parser)
    add_options(parser)
    parser.add_argument("--data", choices=DATA, default="lgg", help="whose patients")
    parser.add_argument("--hospitals", nargs="+", type=int, choices=(4, 8), default=[4, 8], help="of hippocampus")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--epsilons", nargs="+", type=int, choices=EPSILONS, default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="folds, weights and batches")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), choices=range(FOLDS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, kept("joint_privacy", args) as parts:
        if args.quick:
            args.data, args.seeds, args.folds, args.epsilons = "phantoms", [0], [0], [8]
        elif not args.show and args.data != "phantoms":
            real_set(args.root, {"lgg": "lgg_tcga_multisite_nc", "hippocampus": "hippocampus_msd"}[args.data])
        place, options = Place(args.root, Path(folder), args.quick), settings(args.data, args.quick)
        keys = [] if args.show else keys_of(args)
        if args.data != "hippocampus" and any(parts.missing(key, options) for key in keys):
            # Images are decoded here once, so that parts which run side by side find them.
            cohorts(args.data, options, place.scratch / args.data, place.root)
        failures = run_missing(partial(measure, place), keys, options, parts, args) if keys else []
        done = parts.read()
    show(tables(done))
    finish({"parts": len(done)}, as_json=args.json)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    command(main)
