"""How many bytes does a federation need? Every compression alone, in plaintext and through the
secure sums.

FedAvg on four unequal phantom hospitals, in one process, both directions compressed. Bytes are
payload: of every site, up and down, and the first weights once (float32 in every arm). The mark
is 95 % of the Dice that float32 FedAvg of the same seed ends with, on validation patients. Rows
`x2`, `x4` do twice, four times the work per round in so many fewer rounds. The final test Dice
is paired with FedAvg's, patient by patient. "no loss": the bootstrap 90 % interval of the
difference lies above -MARGIN; "equivalent": it lies within +-MARGIN. The encrypted rows share
the Dice of the masked ones: their sums are the same integers.

    python benchmarks/compression.py --json                     (parts that are there are not run again)
    python benchmarks/compression.py --arms rand_k_8 --seeds 1  (one part)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import Part, Parts, Table, arguments, command, finish, kept, known, one_settings, show, table
from compression_arms import Setting, arms
from fixed_point_dice import bootstrap, tost
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import first_variables
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.core.arrays import size_bytes
from wardround.core.errors import DataRefused

MARGIN, MARK, BASELINE = 0.01, 0.95, "fedavg"
FULL = {
    "rounds": 20,
    "work": 8,
    "patients": [40, 28, 20, 12],
    "shape": [32, 32, 32],
    "patch": [24, 24, 24],
    "channels": [16, 32, 64],
}
QUICK = {
    "rounds": 4,
    "work": 2,
    "patients": [4, 3, 3, 3],
    "shape": [16, 16, 16],
    "patch": [16, 16, 16],
    "channels": [4, 8],
}
FRACTIONS = (0.5, 0.15, 0.35)


def open_sites(seed: int, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return site name -> SegmentationSite, of unequal numbers of patients and unequal
    scanners.
    """
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.data.splits import split_patients
    from wardround.models.nets import UNet3d
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort
    from wardround.training.segmentation import Sampling, SegmentationSite

    sampling = Sampling(tuple(options["patch"]), batch=2, tumour_probability=0.67, augment=False)
    network, sites = UNet3d(channels=tuple(options["channels"])), {}
    for index, patients in enumerate(options["patients"]):
        profile = hospital(index)
        write_cohort(folder / profile.name, profile, 7, shape=tuple(options["shape"]), patients=patients)
        cohort = open_cohort(SiteConfig(data=folder / profile.name), folder / "cache" / profile.name)
        split = split_patients(cohort.patients, FRACTIONS, seed=seed)
        sites[profile.name] = SegmentationSite(profile.name, cohort, split, network, sampling, seed, "cpu")
    return sites


def measure(
    name: str, seed: int, options: Mapping[str, Any], sites: Mapping[str, Any], initial: Any = None
) -> dict[str, Any]:
    """Run one arm on one seed; return its curve on validation, test Dice of every patient, and
    bytes.

    initial: the first weights; None draws them from the seed
    """
    from wardround.models.flat import first_weights
    from wardround.models.nets import UNet3d
    from wardround.research.in_process import InProcessFederation
    from wardround.training.segmentation import by_patient

    factor, make = arms()[name]
    schedule = Schedule(
        num_rounds=options["rounds"] // factor,
        work=options["work"] * factor,
        lr=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
        clip_norm=10.0,
        decay="cosine",
    )
    first = next(iter(sites.values()))
    if initial is None:
        initial = first_weights(UNet3d(channels=tuple(options["channels"])), seed)
    variables = first_variables(FedAvg(), first.layout.unflatten(initial.numpy().copy()))
    arm = make(Setting(variables, tuple(sites), schedule, seed))
    together = InProcessFederation(sites, FedAvg(), Mean(server_lr=1.0), schedule)
    curve: list[float] = []

    def on_round(round_: int, result: Any) -> None:
        models = together.models(result)
        curve.append(float(np.mean([one.score(models[site], one.split.val) for site, one in sites.items()])))

    result = together.run(initial, on_round, arm)
    models, test = together.models(result), {}
    for site, one in sites.items():
        scores = one.scores(models[site], one.split.test, with_hd95=False)
        test[site] = [row["dice_mean"] for row in by_patient(one, one.split.test, scores)]
    return {
        "val": curve,
        "test": test,
        "bytes": arm.sent(),
        "first": size_bytes(variables) * len(sites),
    }


def run_parts(args: Any, options: Mapping[str, Any], parts: Parts) -> None:
    """Measure every part that is asked for and is not there yet."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            keys = [{"arm": name, "seed": seed} for name in args.arms]
            keys = [key for key in keys if parts.missing(key, options)]
            sites = open_sites(seed, options, Path(folder)) if keys else {}
            for key in keys:
                parts.measure(key, options, partial(measure, key["arm"], seed, options, sites))


def to_mark(part: Part, kind: str, mark: float) -> tuple[int, int] | None:
    """Return (rounds, bytes) until the validation Dice reaches the mark; never: None."""
    numbers = part.numbers
    reached = next((place for place, dice in enumerate(numbers["val"], 1) if dice >= mark), None)
    if reached is None:
        return None
    ways = numbers["bytes"][kind]
    return reached, numbers["first"] + sum(ways["up"][:reached]) + sum(ways["down"][:reached])


def whole_run(part: Part, kind: str) -> int:
    """Return the bytes of all rounds and of the first weights."""
    ways = part.numbers["bytes"][kind]
    return int(part.numbers["first"] + sum(ways["up"]) + sum(ways["down"]))


def differences(parts: Mapping[int, Part], base: Mapping[int, Part]) -> dict[str, dict[int, Any]]:
    """Return site -> seed -> test Dice of every patient less FedAvg's."""
    found: dict[str, dict[int, Any]] = {}
    for seed, part in parts.items():
        for site, rows in part.numbers["test"].items():
            theirs = base[seed].numbers["test"][site]
            found.setdefault(site, {})[seed] = np.subtract(rows, theirs)
    return found


def row(name: str, kind: str, parts: Mapping[int, Part], base: Mapping[int, Part]) -> dict[str, Any]:
    """Return one row: all seeds of an arm in one transport, beside FedAvg of the same seeds."""
    mine, theirs = {}, {}
    for seed in parts:
        mark = MARK * base[seed].numbers["val"][-1]
        mine[seed] = to_mark(parts[seed], kind, mark)
        theirs[seed] = to_mark(base[seed], "plain", mark)
    found: dict[str, Any] = {"rounds": None, "bytes": None, "ratio": None}
    if all(mine.values()):
        found = {
            "rounds": [one[0] for one in mine.values()],
            "bytes": float(np.mean([one[1] for one in mine.values()])),
            "ratio": float(np.mean([mine[seed][1] / theirs[seed][1] for seed in mine])),
        }
    paired = differences(parts, base)
    by_seed = [float(np.mean([seeds[seed].mean() for seeds in paired.values()])) for seed in parts]
    low, high = bootstrap(list(paired.values()))
    tests = [np.mean(rows) for part in parts.values() for rows in part.numbers["test"].values()]
    ratios = [whole_run(parts[seed], kind) / whole_run(base[seed], "plain") for seed in parts]
    return {
        "arm": name,
        "transport": kind,
        "seeds": len(parts),
        **found,
        "whole_ratio": float(np.mean(ratios)),
        "seconds": float(np.mean([part.seconds for part in parts.values()])),
        "dice": float(np.mean(tests)),
        "difference": float(np.mean(by_seed)),
        "low": low,
        "high": high,
        "no_loss": low > -MARGIN,
        "equivalent": low > -MARGIN and high < MARGIN,
        "by_seed": by_seed,
        "tost_p": tost(by_seed, MARGIN)["p"],
    }


def rows_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return all rows; arms without FedAvg of the same seed: DataRefused."""
    base = {part.key["seed"]: part for part in parts if part.key["arm"] == BASELINE}
    if missing := sorted({part.key["seed"] for part in parts} - set(base)):
        raise DataRefused(
            "the table of compressions",
            found=f"no part of {BASELINE} for seeds {missing}",
            expected=f"{BASELINE} beside every arm",
            fix=f"run it first: `--arms {BASELINE} --seeds {missing[0]}`",
        )
    rows = []
    for name in arms():
        mine = {part.key["seed"]: part for part in parts if part.key["arm"] == name}
        kinds = next(iter(mine.values())).numbers["bytes"] if mine else ()
        rows += [row(name, kind, mine, base) for kind in kinds]
    return rows


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table; parts of other settings than one another: ConfigRefused."""
    one_settings(parts)
    known(parts, "arm", arms())
    cells = []
    for one in rows_of(parts):
        rounds = "never" if one["rounds"] is None else ", ".join(map(str, one["rounds"]))
        size = "-" if one["bytes"] is None else f"{one['bytes'] / 1e6:.2f}"
        ratio = "-" if one["ratio"] is None else f"{one['ratio']:.3f}"
        span = f"[{one['low']:+.4f}, {one['high']:+.4f}]"
        row_ = [one["arm"], one["transport"], one["seeds"], rounds, size, ratio, f"{one['whole_ratio']:.3f}"]
        row_ += [f"{one['seconds']:.0f}", f"{one['dice']:.3f}", f"{one['difference']:+.4f} {span}"]
        cells.append([*row_, *("yes" if one[key] else "no" for key in ("no_loss", "equivalent"))])
    heads = ["arm", "transport", "seeds", "rounds to 95 %, by seed", "MB to 95 %", "of FedAvg's"]
    heads += ["whole run, of FedAvg's", "s", "test Dice", "less FedAvg's [90 %]", "no loss", "equivalent"]
    return {"bytes": table(heads, cells, parts)}


def main() -> None:
    """Run the parts that are missing, and print the table of all that are there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    parser.add_argument("--arms", nargs="+", default=list(arms()), choices=list(arms()), help="rows of the table")
    args = parser.parse_args()
    args.seeds = args.seeds[:1] if args.quick else args.seeds
    with kept("compression", args) as parts:
        if not args.show:
            run_parts(args, QUICK if args.quick else FULL, parts)
        done = parts.read()
    show(tables(done))
    finish({"rows": rows_of(done)}, as_json=args.json)


if __name__ == "__main__":
    command(main)
