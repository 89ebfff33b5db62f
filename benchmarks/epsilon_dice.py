"""Epsilon against Dice: patient level (DP-SGD) at 1, 2, 4, 8 and inf, and hospital level (noise in the secure sum).

PATIENT LEVEL. FedAvg with private gradients (training/dp_training.py), equal weights, 4 phantom hospitals and the 3 LGG hospitals.
Schedule: phantoms 3 rounds of 40 private gradients per site, as in the job (app_configs), patches of 32 x 32 x 32; LGG 3 rounds
of 24, patches of 48 x 48 x 16 (segmentation.py: 8 of 48, 64 x 64 x 16): small, to be done in an hour; settled when test Dice
of `local` and `FedAvg` at seed 0 had been seen, but no private row. The noise follows from the target epsilon at delta 1e-5
for all gradients. Clip, sampling rate and reference patients are the job's defaults (1.0, 0.25, 16). The learning rate is the
job's (0.05) or one of two smaller ones (0.01, 0.002), whichever has the best mean VALIDATION Dice at epsilon 8 at four other
phantom hospitals (4 .. 7, seed 99; `--tune` prints it): 0.05, which was also best without noise. It is the same for every
epsilon and for both data sets.
Rows that are not private: "inf, clipped" is the same with noise multiplier 1e-6 (PatientDP refuses 0), the same clip, sampling
and learning rate; "FedAvg" and "local" take as many plain gradients, of 2 patients each, at the learning rate of
segmentation.py; "first weights" is the untrained network. Intervals: seeds and patients resampled, hospitals fixed. Noise and
draws of patients come from the operating system, so private rows are not the same numbers twice. Signal over noise at best:
sqrt(steps) q N / (z sqrt(d n)) with N training patients at n sites and d weights: all gradients fill the clip and agree.

HOSPITAL LEVEL. See epsilon_dice_hospital.py. 3 rounds of 16 gradients per site at a constant rate, 16 patients per site.

    python benchmarks/epsilon_dice.py --json
    python benchmarks/epsilon_dice.py --level hospital --share head     (some parts; they may run at the same time)
    python benchmarks/epsilon_dice.py --show                            (the tables of the parts that are there)
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from common import (
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
    root_option,
    say,
    show,
    table,
)
from epsilon_dice_hospital import (
    SHARES,
    mean_of_sites,
    measure_hospital,
    phantoms,
    seeded,
    summary_hospital,
    table_hospital,
    test_dice,
)
from methods import MEAN
from segmentation import cohorts, settings

DELTA, RATE, REFERENCE, CLIP = 1e-5, 0.25, 16, 1.0
EPSILONS = (1.0, 2.0, 4.0, 8.0)
LR, RATES, TUNE_SEED = 0.05, (0.002, 0.01, 0.05), 99
PATCH = {"phantoms": (32, 32, 32), "lgg": (48, 48, 16)}
WORK = {"phantoms": 40, "lgg": 24}
PRIVATE = tuple(f"{epsilon:g}" for epsilon in reversed(EPSILONS))
ROWS = ("local", "FedAvg", "inf, clipped", *PRIVATE, "first weights")


@lru_cache
def noise(epsilon: float, steps: int) -> dict[str, float]:
    """Return noise multiplier, mu, and the accuracy of the best attack of a whole run."""
    from wardround.dp.accounting import claim, noise_multiplier_for
    from wardround.dp.releases import SampledGaussianRelease

    z = noise_multiplier_for(epsilon, DELTA, RATE, steps)
    found = claim([SampledGaussianRelease("patient", z, RATE, steps)], "patient", DELTA)
    return {"z": z, "mu": found.mu, "attack": found.attack.accuracy, "epsilon": found.epsilon}


def open_cohorts(data: str, quick: bool, folder: Path, root: Path) -> dict[str, Any]:
    """Return site name -> Cohort of one data set. root: where the real ones are."""
    options = settings(data, quick)
    if data == "phantoms":
        return phantoms(range(4), options["patients"], folder / data)
    return cohorts(data, options, folder / data, root)


def federated(sites: Mapping[str, Any], schedule: Any, initial: Any, objective: Callable[..., Any]) -> Any:
    """Return the model of FedAvg with equal weights; objective(name, round)."""
    from wardround.algorithms.fedavg import FedAvg
    from wardround.algorithms.federation import SiteSide, run, vectors

    sides = {
        name: SiteSide(lambda r, name=name: objective(name, r), 1.0, one.layout, one.roles)
        for name, one in sites.items()
    }
    layout = next(iter(sites.values())).layout
    end = run(sides, FedAvg(), MEAN, schedule, layout.unflatten(initial.numpy().copy()))
    return vectors(FedAvg(), end.variables, layout)["model"]


def private(homes: Mapping[str, Any], schedule: Any, initial: Any, z: float) -> Any:
    """Return the model of FedAvg on private gradients."""
    from wardround.dp.dp_sgd import PatientDP

    for home in homes.values():
        home.promise = PatientDP(CLIP, z, RATE, REFERENCE)
    sites = {name: home.site for name, home in homes.items()}
    return federated(sites, schedule, initial, lambda name, r: homes[name].objective(schedule.work, "train", r))


def homes_of(sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return site name -> DPSite; checked once, whatever the noise."""
    from wardround.dp.dp_sgd import PatientDP
    from wardround.training.dp_training import DPSite

    return {name: DPSite(one, PatientDP(CLIP, 1.0, RATE, REFERENCE)) for name, one in sites.items()}


def one_row(row: str, sites: Any, homes: Any, initial: Any, plain: Any, own: Any) -> dict[str, list[float]]:
    """Return site -> test Dice of one row; plain, own: the schedules of plain and private training."""
    from wardround.algorithms.federation import local_only

    if row == "local":
        return {n: test_dice(one, local_only(one.objective("local"), plain, initial)) for n, one in sites.items()}
    if row == "first weights":
        w = initial
    elif row == "FedAvg":
        w = federated(sites, plain, initial, lambda name, r: sites[name].objective("train", r))
    else:
        z = 1e-6 if row == "inf, clipped" else noise(float(row), own.num_rounds * own.work)["z"]
        w = private(homes, own, initial, z)
    return {name: test_dice(one, w) for name, one in sites.items()}


def patch_of(data: str, quick: bool) -> tuple[int, int, int]:
    """Return the shape of a training patch in voxels."""
    return (16, 16, 16) if quick else PATCH[data]


def schedules(data: str, quick: bool, lr: float = LR) -> tuple[Any, Any]:
    """Return (plain, private)."""
    from wardround.algorithms.schedule import Schedule

    work = {"num_rounds": 2, "work": 4} if quick else {"num_rounds": 3, "work": WORK[data]}
    base = settings(data, quick)["schedule"] | work
    return Schedule(**base), Schedule(**base | {"lr": lr})


def measure_patient(args: Any, folder: Path, parts: Parts) -> None:
    """Run every row of every data set and seed that is asked for and not there yet."""
    rows = ("local", "inf, clipped", "8", "first weights") if args.quick else ROWS
    for data in args.data:
        plain, own = schedules(data, args.quick)
        options = {"plain": asdict(plain), "private": asdict(own), "patch": patch_of(data, args.quick), "delta": DELTA}
        opened = lru_cache(partial(open_cohorts, data, args.quick, folder, args.root))
        for seed in args.seeds:
            keys = [{"level": "patient", "data": data, "row": row, "seed": seed} for row in rows]
            keys = [key for key in keys if parts.missing(key, options)]
            if not keys:
                continue
            sites = seeded(opened(), seed, patch_of(data, args.quick))
            initial = next(iter(sites.values())).model.vector.clone()
            homes = homes_of(sites)
            for key in keys:
                found = partial(one_part, key["row"], sites, homes, initial, plain, own)
                parts.measure(key, options, found)


def one_part(row: str, sites: Any, homes: Any, initial: Any, plain: Any, own: Any) -> dict[str, Any]:
    """Return the test Dice of one row, training patients, and for a private row what its noise was."""
    tests = one_row(row, sites, homes, initial, plain, own)
    say(f"{row}: {mean_of_sites(tests):.3f}")
    found: dict[str, Any] = {"tests": tests, "train": {name: one.train_patients for name, one in sites.items()}}
    if row in PRIVATE:
        steps = own.num_rounds * own.work
        found["noise"] = noise(float(row), steps) | {"steps": steps, "values": initial.numel()}
    return found


def tune(folder: Path, quick: bool) -> dict[str, Any]:
    """Print mean validation Dice of each learning rate at epsilon 8 and inf, at hospitals that no table uses."""
    sites = seeded(phantoms(range(4, 8), 5 if quick else 24, folder), TUNE_SEED, patch_of("phantoms", quick))
    initial = next(iter(sites.values())).model.vector.clone()
    homes, found = homes_of(sites), {}
    for lr in RATES[:1] if quick else RATES:
        _, own = schedules("phantoms", quick, lr)
        row = {}
        for label, z in (("8", noise(8.0, own.num_rounds * own.work)["z"]), ("inf, clipped", 1e-6)):
            w = private(homes, own, initial, z)
            row[label] = float(np.mean([one.mean_dice(w, one.split.val) for one in sites.values()]))
        found[f"{lr:g}"] = row
        print(f"lr {lr:g}: validation Dice " + ", ".join(f"{k} {value:.3f}" for k, value in row.items()), flush=True)
    return found


def summary_patient(parts: Sequence[Part]) -> dict[str, Any]:
    """Return row -> what the noise was, and Dice per site and over sites, from all seeds of one data set."""
    from wardround.reports.intervals import hierarchical_mean

    out: dict[str, Any] = {}
    for row in ROWS:
        mine = [part for part in parts if part.key["row"] == row]
        if not mine:
            continue
        first = mine[0].numbers
        sites = {site: {p.key["seed"]: p.numbers["tests"][site] for p in mine} for site in first["tests"]}
        dice = {site: hierarchical_mean({site: seeds}) for site, seeds in sites.items()}
        dice["mean"] = hierarchical_mean(sites)
        out[row] = {
            "dice": {s: {"mean": i.value, "low": i.low, "high": i.high, "cases": i.cases} for s, i in dice.items()},
            "noise": first.get("noise"),
            "snr": at_best(mine) if "noise" in first else None,
            "seeds": [part.key["seed"] for part in mine],
        }
    return out


def at_best(parts: Sequence[Part]) -> float:
    """Return signal over noise of a whole run if every gradient filled its clip and all pointed the same way."""
    found = [part.numbers for part in parts]
    train = float(np.mean([sum(one["train"].values()) for one in found]))
    noised, sites = found[0]["noise"], len(found[0]["train"])
    return math.sqrt(noised["steps"]) * RATE * train / (noised["z"] * math.sqrt(sites * noised["values"]))


def table_patient(parts: Sequence[Part]) -> Table:
    """Return the table of one data set."""
    one_settings(parts)
    known(parts, "row", ROWS)
    result = summary_patient(parts)
    heads = ["epsilon", "z", "mu", "best attack", "signal / noise at best"]
    heads += [f"{name} ({one['cases']})" for name, one in next(iter(result.values()))["dice"].items()]
    rows = []
    for row, one in result.items():
        n, cells = one["noise"], [""] * 4
        if n is not None:
            cells = [f"{n['z']:.2f}", f"{n['mu']:.2f}", f"{n['attack']:.1%}", f"{one['snr']:.2f}"]
        dice = [cell((d["mean"], d["low"], d["high"])) for d in one["dice"].values()]
        rows.append([row, *cells, *dice])
    heads[-1] += " [95 % interval]"
    return table(heads, rows, parts)


def by_table(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return name of a table -> its parts."""
    made: dict[str, list[Part]] = {}
    for part in parts:
        name = f"patient-{part.key['data']}" if part.key["level"] == "patient" else "hospital"
        made.setdefault(name, []).append(part)
    return made


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return one table per data set of the patient level, and one of the hospital level."""
    return {
        name: table_hospital(mine) if name == "hospital" else table_patient(mine)
        for name, mine in by_table(parts).items()
    }


def main() -> None:
    """Run what is asked for and missing, and print the tables."""
    parser = arguments((__doc__ or "").replace("%", "%%"))
    parser.add_argument("--level", choices=("patient", "hospital", "both"), default="both", help="whom the noise hides")
    parser.add_argument(
        "--data", choices=("phantoms", "lgg"), nargs="+", default=["phantoms", "lgg"], help="patient level"
    )
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, first weights and batches")
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 8, 16], help="hospital level: n, at most 16")
    parser.add_argument(
        "--share", choices=SHARES, nargs="+", default=list(SHARES), help="hospital level: what is shared"
    )
    parser.add_argument("--tune", action="store_true", help="choose the learning rate on validation patients, and stop")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.sites, args.share, args.data = args.seeds[:1], [3], args.share[:1], ["phantoms"]
    if args.tune:
        with tempfile.TemporaryDirectory() as folder:
            return finish(tune(Path(folder), args.quick), as_json=args.json)
    with kept("epsilon_dice", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    summaries = {
        name: summary_hospital(mine) if name == "hospital" else summary_patient(mine)
        for name, mine in by_table(done).items()
    }
    return finish(summaries, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run everything that is asked for and not there yet."""
    import torch

    from wardround.algorithms.schedule import Schedule

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.level != "hospital":
            measure_patient(args, folder, parts)
        if args.level != "patient":
            rounds, work, patients = (2, 3, 5) if args.quick else (3, 16, 16)
            schedule = Schedule(rounds, work, 0.05, 0.9, True, 0.0, 10.0, "constant")
            measure_hospital(args, schedule, patients, folder, parts)


if __name__ == "__main__":
    command(main)
