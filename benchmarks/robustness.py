"""What a robust rule costs, and one hostile hospital under it: FedAvg on unequal phantom hospitals.

Every part (a rule, an attack, a seed) is one JSON file with its commit, settings and seconds. Parts
that are there are not run again, so a run that was broken off goes on. All parts of a seed share
split, initial weights and batches.
There are four hospitals, of which one is hostile. Krum needs 2f + 3 that answer, so its rows have
six, beside a mean of six. An update that is not finite is refused as it is read: with a mean, that
column is the federation without the hostile hospital.
The cost is Dice lost against the mean without an attack, over the honest hospitals' test patients.

    python benchmarks/robustness.py --json                       (about 40 minutes of one core)
    python benchmarks/robustness.py --rules mean6 krum --seeds 0
    python benchmarks/robustness.py --show                       (the tables of the parts that are there)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
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
    interval,
    kept,
    known,
    one_settings,
    show,
    table,
)
from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.geometric import GeometricMedian
from wardround.aggregation.krum import Krum
from wardround.aggregation.mean import WeightedMean
from wardround.aggregation.median import CoordinateMedian
from wardround.aggregation.mixing import Mixed
from wardround.aggregation.trimmed import TrimmedMean

F = 1
# name -> (the aggregation, how many hospitals)
RULES: dict[str, tuple[Any, int]] = {
    "mean": (WeightedMean(), 4),
    "clipped": (ClippedMean(F), 4),
    "median": (CoordinateMedian(F), 4),
    "trimmed": (TrimmedMean(F), 4),
    "rfa": (GeometricMedian(F), 4),
    "mixed_rfa": (Mixed(GeometricMedian(F)), 4),
    "mean6": (WeightedMean(), 6),
    "krum": (Krum(F), 6),
    "multikrum": (Krum(F, keep=4), 6),
}
BASE = {4: "mean", 6: "mean6"}
HOSTILE = 2
PATIENTS = (32, 24, 20, 16, 20, 16)
NO_COST, ATTACK_COST = 0.01, 0.02
QUICK = (["mean", "clipped", "rfa"], ["none", "sign_flip", "not_finite", "backdoor"])


def attacks() -> dict[str, Any]:
    """Return name -> Attack; "none": None."""
    from wardround.research import poisoning

    empty = poisoning.empty_regions
    return {
        "none": None,
        "not_finite": poisoning.not_finite(),
        "sign_flip": poisoning.sign_flip(),
        "label_flip": poisoning.label_flip(empty),
        "replacement": poisoning.replacement(empty),
        "alie": poisoning.alie(),
        "inner_product": poisoning.inner_product(),
        "backdoor": poisoning.backdoor(poisoning.Backdoor()),
    }


def settings(quick: bool) -> dict[str, Any]:
    """Return everything that the numbers depend on, beside the rule, the attack and the seed."""
    size = 16 if quick else 24
    return {
        "size": size,
        "batch": 2,
        "channels": [4, 8] if quick else [4, 8, 16],
        "patients": [6] * len(PATIENTS) if quick else list(PATIENTS),
        "rounds": 2 if quick else 14,
        "work": 2 if quick else 10,
        "lr": 0.1,
        "f": F,
        "hostile": HOSTILE,
    }


def open_sites(count: int, seed: int, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return name -> SegmentationSite of the first `count` hospitals, with this seed's split and weights."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.data.splits import split_patients
    from wardround.models.nets import UNet3d
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort
    from wardround.training.segmentation import Sampling, SegmentationSite

    shape = (options["size"],) * 3
    sampling = Sampling(shape, options["batch"], tumour_probability=0.67, augment=True)
    network = UNet3d(channels=tuple(options["channels"]))
    made = {}
    for index in range(count):
        profile = hospital(index)
        data = folder / profile.name
        write_cohort(data, profile, 7, shape=shape, patients=options["patients"][index])
        cohort = open_cohort(SiteConfig(data=data), folder / "cache" / profile.name)
        split = split_patients(cohort.patients, seed=seed)
        made[profile.name] = SegmentationSite(profile.name, cohort, split, network, sampling, seed, "cpu")
    return made


def triggered(site: Any, w: Any) -> list[bool]:
    """Return for every test case with a tumour found whether the trigger makes 9/10 of it vanish."""
    import torch

    from wardround.research.poisoning import Backdoor
    from wardround.tasks.inference import predict_regions

    found = []
    for number, case in enumerate(site.split.test):
        clean = site.predict(w, case).sum()
        volume = site.volume(case)
        image = torch.from_numpy(np.asarray(volume.image, np.float32))[None]
        stamped = Backdoor().stamp(image, number)[0].numpy()
        seen = predict_regions(
            site.model.module, stamped, volume.present, site.sampling.size, site.device, site.task.outputs
        ).sum()
        if clean:
            found.append(bool(seen < 0.1 * clean))
    return found


def run_part(rule: str, attack: str, sites: dict[str, Any], options: dict[str, Any], initial: Any) -> dict[str, Any]:
    """Run one federation; return the test Dice of every patient, flags, refusals, and how far it came."""
    from wardround.algorithms.fedavg import FedAvg
    from wardround.algorithms.schedule import Schedule
    from wardround.algorithms.server_optimizers import Mean
    from wardround.research.attacked import run_attacked
    from wardround.research.in_process import InProcessFederation
    from wardround.training.segmentation import by_patient

    schedule = Schedule(options["rounds"], options["work"], options["lr"], 0.9, True, 0.0, 10.0, "cosine")
    together = InProcessFederation(sites, FedAvg(), Mean(1.0), schedule)
    one = next(iter(sites.values()))
    model = one.layout.unflatten(initial.numpy().copy())
    hostile = [] if attack == "none" else [list(sites)[options["hostile"]]]
    outcome = run_attacked(
        together.sides, FedAvg(), Mean(1.0), schedule, model, RULES[rule][0], attacks()[attack], hostile
    )
    models = together.models(outcome.result) if outcome.result else dict.fromkeys(sites, initial)
    dice = {}
    for name, site in sites.items():
        rows = by_patient(site, site.split.test, site.scores(models[name], site.split.test, with_hd95=False))
        dice[name] = [round(row["dice_mean"], 5) for row in rows]
    found: dict[str, Any] = {
        "dice": dice,
        "hostile": hostile,
        "rounds": len(outcome.rounds),
        "flags": outcome.flags(),
        "refused": sum(len(one) for one in outcome.missing),
        "stopped": outcome.stopped,
    }
    if attack in ("none", "backdoor"):
        honest = [name for name in sites if name not in hostile]
        found["triggered"] = [hit for name in honest for hit in triggered(sites[name], models[name])]
    return found


def measure(args: Any, parts: Parts) -> None:
    """Run the asked parts that are not there yet."""
    import torch

    torch.set_num_threads(1)
    options = settings(args.quick)
    names = [(rule, attack) for rule in args.rules for attack in args.attacks]
    with tempfile.TemporaryDirectory() as place:
        for seed in args.seeds:
            opened: dict[int, dict[str, Any]] = {}
            for rule, attack in names:
                key = {"rule": rule, "attack": attack, "seed": seed}
                if not parts.missing(key, options):
                    continue
                count = RULES[rule][1]
                if count not in opened:
                    opened[count] = open_sites(count, seed, options, Path(place))
                    # Scoring loads other weights into the site's network: keep what it began with.
                    initial = next(iter(opened[count].values())).model.vector.clone()
                parts.measure(key, options, partial(run_part, rule, attack, opened[count], options, initial))


def honest_of(part: Part) -> list[str]:
    """Return the names of the hospitals that do not attack."""
    return [name for name in part.numbers["dice"] if name not in part.numbers["hostile"]]


def over(part: Part, names: Sequence[str]) -> float:
    """Return the mean over these hospitals of their mean test Dice."""
    return float(np.mean([np.mean(part.numbers["dice"][name]) for name in names]))


def summarise(parts: Sequence[Part]) -> dict[str, Any]:
    """Return rule -> attack -> Dice and cost with t-intervals over seeds, flags, stops, triggers.

    cost: against the mean without an attack, of the same seed and hospitals
    over_loss: against the mean without the hostile hospital, whose patients no rule can give back
    """
    held = {tuple(part.key.values()): part for part in parts}
    table: dict[str, Any] = {}
    for rule, (_, count) in RULES.items():
        for attack in attacks():
            mine = [part for part in parts if (part.key["rule"], part.key["attack"]) == (rule, attack)]
            if not mine:
                continue
            costs, losses = [], []
            for part in mine:
                honest = honest_of(part)
                for reference, into in (("none", costs), ("not_finite", losses)):
                    other = held.get((BASE[count], reference, part.key["seed"]))
                    if other and not (reference == "not_finite" and attack == "none"):
                        into.append(over(other, honest) - over(part, honest))
            hits = [hit for part in mine for hit in part.numbers.get("triggered", [])]
            flagged = [site for part in mine for site in part.numbers["flags"] if site in honest_of(part)]
            table.setdefault(rule, {})[attack] = {
                "seeds": len(mine),
                "dice": interval([over(part, honest_of(part)) for part in mine]),
                "cost": interval(costs) if costs else None,
                "over_loss": interval(losses) if losses else None,
                "flag_rounds": sum(sum(part.numbers["flags"].values()) for part in mine),
                "honest_flagged": len(flagged),
                "stopped": sum(part.numbers["stopped"] is not None for part in mine),
                "triggered": float(np.mean(hits)) if hits else None,
                "seconds": sum(part.seconds for part in mine),
            }
    return table


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return Dice, costs and flags of every rule and attack; parts of other settings than one another: ConfigRefused."""
    one_settings(parts)
    known(parts, "rule", RULES)
    known(parts, "attack", attacks())
    found = summarise(parts)
    columns = [attack for attack in attacks() if any(attack in row for row in found.values())]
    made = {}
    for key, sign in (("dice", ""), ("cost", "+"), ("over_loss", "+")):
        # Without an attack there is no hostile hospital whose loss could be set apart.
        shown = [attack for attack in columns if (key, attack) != ("over_loss", "none")]
        rows = [
            [rule, seeds_of(row), *(_cell(row.get(attack), key, sign) for attack in shown)]
            for rule, row in found.items()
        ]
        made[key] = table(["rule", "seeds", *shown], rows, parts)
    rows = []
    for rule, row in found.items():
        flags = ", ".join(f"{attack} {one['flag_rounds']}" for attack, one in row.items() if one["flag_rounds"])
        wrong = sum(one["honest_flagged"] for one in row.values())
        hits = [row.get(attack, {}).get("triggered") for attack in ("none", "backdoor")]
        rows.append([rule, flags or "-", wrong, *("-" if hit is None else f"{hit:.2f}" for hit in hits)])
    heads = [
        "rule",
        "rounds with a flag, by attack",
        "honest hospitals flagged",
        "trigger works: no attack",
        "backdoor",
    ]
    return made | {"flags": table(heads, rows, parts)}


def seeds_of(row: Mapping[str, Any]) -> str:
    """Return how many seeds a row has: one number, or from the fewest to the most over its attacks."""
    counts = sorted({one["seeds"] for one in row.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _cell(one: Mapping[str, Any] | None, key: str, sign: str) -> str:
    """Return one interval, and in how many seeds the run was stopped."""
    if one is None:
        return "-"
    return cell(one[key], sign) + (f" (stopped {one['stopped']} of {one['seeds']})" if one["stopped"] else "")


def main() -> None:
    """Run what is missing, and print the tables of all parts that are there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES), help="rows")
    parser.add_argument("--attacks", nargs="+", default=list(attacks()), choices=list(attacks()), help="columns")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    args = parser.parse_args()
    if args.quick:
        args.rules, args.attacks, args.seeds = *QUICK, args.seeds[:1]
    with kept("robustness", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({"rules": summarise(done)}, as_json=args.json)


if __name__ == "__main__":
    command(main)
