"""What is joining worth to a hospital of a given size? Gain over the own model, against patients
per hospital and hospitals.

Written down before anything was measured.

HOSPITALS. `hippocampus`: 196 real cases of one hospital, dealt to 4 or 8 simulated ones that
differ by `scanner` (images rewritten, synthetic/scanner.py), by `size` (each has patients with
a smaller or larger organ: the label skew of a segmentation task), or not at all (`none`).
`phantoms`: the hospitals of the simulator, each with its own scanner. A hospital keeps 12 test
patients (6 of 8 hippocampus hospitals); of the others the first n train and validate (a
quarter, one at least), so a larger hospital contains the smaller one and the test patients stay
the same. n is 4, 8, 16, 32, 48 as far as there are patients: 4 hippocampus hospitals have up to
37, 8 up to 18. A seed deals other patients, and has other first weights and batches.

TRAINED, all from scratch and to the same end: every hospital alone, FedAvg (and with
fine-tuning, chosen on validation), and centralised with the work of all. 10 rounds of 40
gradient evaluations, batch 4.

COMPARED, paired by patient: FedAvg - local (the curve), FedAvg + fine-tuning - local, FedAvg -
centralised. Intervals: 95 % over patients; hospitals and seeds are fixed, because another seed
is other hospitals. GOALS: the gain's interval above 0 at n = 4 and 8; FedAvg within .01 of
centralised at every n.

    python benchmarks/value_of_joining.py --data hippocampus --skews scanner
    python benchmarks/value_of_joining.py --data phantoms --hospitals 4
    python benchmarks/value_of_joining.py --show --points FILE.json      for the report (reports/value.py)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import value_hospitals
from common import (
    Part,
    Parts,
    Table,
    arguments,
    command,
    finish,
    kept,
    known,
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
from drawing import Series, lines_with_intervals
from learners import Setting, by_patient, learners
from mixtures import tuned, value
from paired import Gain, above, gain, merged, span
from wardround.research.folds import indices
from wardround.research.parts import add_options

PATIENTS = (4, 8, 16, 32, 48)
MOST = {("hippocampus", 4): 37, ("hippocampus", 8): 18}
KS = (0, 5, 20)
FULL = {
    "rounds": 10,
    "work": 40,
    "batch": 4,
    "ks": KS,
    "patch": (24, 32, 24),
    "shape": (32, 32, 32),
    "tests": 12,
}
QUICK = {
    "rounds": 1,
    "work": 4,
    "batch": 2,
    "ks": (0, 1),
    "patch": (8, 8, 8),
    "shape": (16, 16, 16),
    "tests": 2,
}
METHODS = ("local", "fedavg", "central_all")
CLOSE = 0.01
PICTURE = "value_of_joining.svg"


@dataclass(frozen=True)
class Place:
    """Where a part finds real data."""

    root: Path
    quick: bool
    threads: int


def measure(place: Place, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return method -> hospital -> Dice of every test patient, by number."""
    import torch

    from wardround.algorithms.schedule import Schedule
    from wardround.models.flat import first_weights

    torch.set_num_threads(place.threads)
    options = QUICK if place.quick else FULL
    schedule = Schedule(
        num_rounds=options["rounds"],
        work=options["work"],
        lr=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
        clip_norm=10.0,
        decay="cosine",
    )
    with tempfile.TemporaryDirectory() as folder:
        sites, network = value_hospitals.opened(key, options, Path(folder), place.root)
        setting = Setting(sites, schedule, first_weights(network, key["seed"]))
        names = {name: indices(site.cohort.patients) for name, site in sites.items()}
        found: dict[str, dict[str, Any]] = {}
        for method in METHODS:
            models = learners()[method](setting).models
            found[method] = {name: scored(site, names[name], models[name]) for name, site in sites.items()}
            if method == "fedavg":
                found["fedavg+tuned"] = {
                    name: fine_tuned(site, names[name], models[name], options["ks"]) for name, site in sites.items()
                }
        told = {method: round(float(np.mean([value(one) for one in row.values()])), 3) for method, row in found.items()}
        say(f"  {part_name(key)}: {told}")
        return {"test": found}


def scored(site: Any, names: Mapping[str, str], w: Any, cases: Sequence[str] | None = None) -> dict[str, float]:
    """Return the mean Dice of each patient, by number; by default of the test patients."""
    chosen = site.split.test if cases is None else cases
    rows = site.scores(w, chosen, with_hd95=False)
    return by_patient(site, chosen, [row["dice_mean"] for row in rows], names)


def fine_tuned(site: Any, names: Mapping[str, str], w: Any, ks: Sequence[int]) -> dict[str, float]:
    """Return the test Dice after the number of steps, 0 among them, that is best on validation."""
    options = tuned(site, w, ks)
    best = max(options, key=lambda k: value(scored(site, names, options[k], site.split.val)))
    return scored(site, names, options[best])


def gain_of(parts: Sequence[Part], one: str, other: str) -> Gain | None:
    """Return one method less another over the parts of one setting; every hospital of every seed is a stratum."""

    def scores(method: str) -> Any:
        rows = [
            (f"{site} {part.key['seed']}", 0, dice)
            for part in parts
            for site, dice in part.numbers["test"][method].items()
        ]
        return merged(rows)

    return gain(scores(one), scores(other))


def settings_of(parts: Sequence[Part]) -> dict[tuple[str, str, int, int], list[Part]]:
    """Return (data, skew, hospitals, patients) -> the parts of all seeds, in order."""
    found: dict[tuple[str, str, int, int], list[Part]] = {}
    for part in parts:
        key = part.key
        found.setdefault((key["data"], key["skew"], key["hospitals"], key["patients"]), []).append(part)
    return dict(sorted(found.items()))


def points(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the points of the curve, in the form that reports/value.py reads."""
    made = []
    for (data, skew, hospitals, patients), mine in settings_of(parts).items():
        found = gain_of(mine, "fedavg", "local")
        if found is None or found.whole.low is None:
            continue
        what = data if data == "phantoms" else f"{data}, {skew}"
        numbers = {"gain": found.whole.value, "low": found.whole.low, "high": found.whole.high}
        made.append(
            {"patients": patients, "hospitals": hospitals}
            | {name: round(float(number), 4) for name, number in numbers.items()}
            | {"n": found.whole.cases, "what": what}
        )
    return made


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the differences of every setting, the goals, and the picture as a table of one line."""
    known(parts, "data", value_hospitals.DATA)
    for data in sorted({part.key["data"] for part in parts}):
        one_settings([part for part in parts if part.key["data"] == data])
    lines, early, close = [], [], []
    for (data, skew, hospitals, patients), mine in settings_of(parts).items():
        found = [gain_of(mine, *pair) for pair in PAIRS]
        local = np.mean([value(dice) for part in mine for dice in part.numbers["test"]["local"].values()])
        cells = ["-" if one is None else span(one.whole) for one in found]
        lines.append([data, skew, hospitals, patients, len(mine), f"{local:.3f}", *cells])
        if patients <= 8 and found[0] is not None:
            early.append(above(found[0].whole))
        if found[2] is not None:
            close.append(found[2].whole.value >= -CLOSE)
    heads = ["data", "skew", "hospitals", "patients each", "seeds", "local only", "FedAvg - local"]
    heads += ["FedAvg + fine-tuning - local", "FedAvg - centralised"]
    goals = [
        ["the gain's interval above 0 with 4 and 8 patients", _count(early), met_or_not(all(early) if early else None)],
        [f"FedAvg within {CLOSE} of centralised", _count(close), met_or_not(all(close) if close else None)],
    ]
    return {
        "gain": table(heads, lines, parts),
        "goals": table(["goal", "settings", ""], goals, parts),
        "curve": Table([f"![Gain over the own model against patients per hospital]({PICTURE})"], parts),
    }


PAIRS = (("fedavg", "local"), ("fedavg+tuned", "local"), ("fedavg", "central_all"))


def pictures(parts: Sequence[Part]) -> dict[str, str]:
    """Return file name -> SVG, for docs/."""
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for one in points(parts):
        label = f"{one['what']}, {one['hospitals']} hospitals"
        series.setdefault(label, []).append((one["patients"], one["gain"], one["low"], one["high"]))
    made = [Series(label, tuple(rows)) for label, rows in series.items()]
    return (
        {PICTURE: lines_with_intervals(made, "patients per hospital", "gain in Dice over the own model")}
        if made
        else {}
    )


def _count(met: Sequence[bool]) -> str:
    return f"{sum(met)} of {len(met)}"


def main() -> None:
    """Run what is missing; exit code 1 where a part failed."""
    parser = arguments(__doc__ or "")
    root_option(parser)
    add_options(parser)
    parser.add_argument("--data", choices=value_hospitals.DATA, default="hippocampus", help="whose patients")
    parser.add_argument(
        "--skews",
        nargs="+",
        choices=value_hospitals.SKEWS,
        default=["scanner"],
        help="of hippocampus",
    )
    parser.add_argument("--hospitals", nargs="+", type=int, choices=(4, 8), default=[4, 8], help="how many join")
    parser.add_argument("--patients", nargs="+", type=int, choices=PATIENTS, default=list(PATIENTS), help="at each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="hospitals, weights and batches")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a part")
    parser.add_argument("--points", type=Path, metavar="FILE", help="write the points of the curve")
    args = parser.parse_args()
    with kept("value_of_joining", args) as parts:
        failures = [] if args.show else run(args, parts)
        done = parts.read()
    if done:
        show(tables(done))
    if args.points is not None:
        rows = ",\n ".join(json.dumps(one) for one in points(done))
        args.points.write_text(f'{{"points": [\n {rows}\n]}}\n', encoding="utf-8")
    finish({"points": points(done)}, as_json=args.json)
    if failures:
        raise SystemExit(1)


def wanted_keys(args: Any) -> list[dict[str, Any]]:
    """Return the keys of the parts that the flags ask for; sizes for which there are too few patients are left out."""
    if args.quick:
        return [{"data": "phantoms", "skew": "scanner", "hospitals": 4, "patients": 4, "seed": 0}]
    skews = args.skews if args.data == "hippocampus" else ["scanner"]
    return [
        {
            "data": args.data,
            "skew": skew,
            "hospitals": hospitals,
            "patients": patients,
            "seed": seed,
        }
        for hospitals in args.hospitals
        for skew in skews
        for seed in args.seeds
        for patients in args.patients
        if patients <= MOST.get((args.data, hospitals), max(PATIENTS))
    ]


def run(args: Any, parts: Parts) -> list[Any]:
    """Measure the parts that are not there yet; return those that failed."""
    if args.data == "hippocampus" and not args.quick:
        real_set(args.root, "hippocampus_msd", "imagesTr")
    options = QUICK if args.quick else FULL
    return run_missing(
        partial(measure, Place(args.root, args.quick, args.threads)), wanted_keys(args), options, parts, args
    )


if __name__ == "__main__":
    command(main)
