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

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, cell, command, finish, interval, plain, say
from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.geometric import GeometricMedian
from wardround.aggregation.krum import Krum
from wardround.aggregation.mean import WeightedMean
from wardround.aggregation.median import CoordinateMedian
from wardround.aggregation.mixing import Mixed
from wardround.aggregation.trimmed import TrimmedMean
from wardround.errors import ConfigRefused

RESULTS = Path(__file__).resolve().parent / "results" / "robustness"
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
    from wardround.data.hospitals import hospital
    from wardround.data.phantoms import write_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.data.splits import split_patients
    from wardround.hospital.segmentation import Sampling, SegmentationSite
    from wardround.models.nets import UNet3d

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
    from wardround.algorithms.rules import Mean
    from wardround.algorithms.schedule import Schedule
    from wardround.hospital.consortium import Consortium
    from wardround.hospital.segmentation import by_patient
    from wardround.research.attacked import run_attacked

    schedule = Schedule(options["rounds"], options["work"], options["lr"], 0.9, True, 0.0, 10.0, "cosine")
    together = Consortium(sites, FedAvg(), Mean(1.0), schedule)
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


def commit() -> str:
    """Return the commit that is measured, with a + where files were changed; no repository: unknown."""
    here = Path(__file__).resolve().parent
    said = [
        subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    if said[0].returncode:
        return "unknown"
    return said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "")


def read_parts(folder: Path) -> list[dict[str, Any]]:
    """Return the parts that are there; parts of other settings than one another: ConfigRefused."""
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    require_alike([part["settings"] for part in parts], folder)
    return parts


def require_alike(found: Sequence[dict[str, Any]], folder: Path) -> None:
    """Raise ConfigRefused unless all settings are the same."""
    if any(one != found[0] for one in found):
        raise ConfigRefused(
            f"the parts in {folder.name}",
            found="parts that were run with other settings",
            expected="one table of one set of settings",
            fix="move the old parts away, or name another folder with --results",
        )


def measure(args: Any, folder: Path) -> None:
    """Run the asked parts that are not in the folder yet."""
    import torch

    torch.set_num_threads(1)
    options = settings(args.quick)
    folder.mkdir(parents=True, exist_ok=True)
    require_alike([options, *(part["settings"] for part in read_parts(folder))], folder)
    names = [(rule, attack) for rule in args.rules for attack in args.attacks]
    with tempfile.TemporaryDirectory() as place:
        for seed in args.seeds:
            opened: dict[int, dict[str, Any]] = {}
            for rule, attack in names:
                path = folder / f"{rule}-{attack}-{seed}.json"
                if path.exists():
                    continue
                count = RULES[rule][1]
                if count not in opened:
                    opened[count] = open_sites(count, seed, options, Path(place))
                    # Scoring loads other weights into the site's network: keep what it began with.
                    initial = next(iter(opened[count].values())).model.vector.clone()
                begun = time.monotonic()
                found = run_part(rule, attack, opened[count], options, initial)
                spent = round(time.monotonic() - begun, 1)
                about = {"rule": rule, "attack": attack, "seed": seed, "commit": commit(), "settings": options}
                text = json.dumps(plain(about | {"seconds": spent} | found), indent=1, allow_nan=False)
                path.with_suffix(".partial").write_text(text + "\n")
                path.with_suffix(".partial").replace(path)
                say(f"{rule} {attack} {seed}: {dice_of(found):.3f}, flags {found['flags']}, {spent} s")


def dice_of(part: dict[str, Any]) -> float:
    """Return the mean over the honest hospitals of their mean test Dice."""
    return over(part, [name for name in part["dice"] if name not in part["hostile"]])


def over(part: dict[str, Any], names: Sequence[str]) -> float:
    """Return the mean over these hospitals of their mean test Dice."""
    return float(np.mean([np.mean(part["dice"][name]) for name in names]))


def summarise(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return rule -> attack -> Dice and cost with t-intervals over seeds, flags, stops, triggers.

    cost: against the mean without an attack, of the same seed and hospitals
    over_loss: against the mean without the hostile hospital, whose patients no rule can give back
    """
    held = {(part["rule"], part["attack"], part["seed"]): part for part in parts}
    table: dict[str, Any] = {}
    for rule, (_, count) in RULES.items():
        for attack in attacks():
            mine = [part for part in parts if (part["rule"], part["attack"]) == (rule, attack)]
            if not mine:
                continue
            costs, losses = [], []
            for part in mine:
                honest = [name for name in part["dice"] if name not in part["hostile"]]
                for reference, into in (("none", costs), ("not_finite", losses)):
                    other = held.get((BASE[count], reference, part["seed"]))
                    if other and not (reference == "not_finite" and attack == "none"):
                        into.append(over(other, honest) - over(part, honest))
            hits = [hit for part in mine for hit in part.get("triggered", [])]
            flagged = [site for part in mine for site in part["flags"] if site not in part["hostile"]]
            table.setdefault(rule, {})[attack] = {
                "seeds": len(mine),
                "dice": interval([dice_of(part) for part in mine]),
                "cost": interval(costs) if costs else None,
                "over_loss": interval(losses) if losses else None,
                "flag_rounds": sum(sum(part["flags"].values()) for part in mine),
                "honest_flagged": len(flagged),
                "stopped": sum(part["stopped"] is not None for part in mine),
                "triggered": float(np.mean(hits)) if hits else None,
                "seconds": sum(part["seconds"] for part in mine),
            }
    return table


def show(table: dict[str, Any]) -> None:
    """Print Dice and costs of every rule and attack."""
    columns = [attack for attack in attacks() if any(attack in row for row in table.values())]
    for title, key, sign in (("test Dice", "dice", ""), ("cost in Dice", "cost", "+")):
        print(f"\n{title} of the honest hospitals, one hostile:\n")
        print("| rule | " + " | ".join(columns) + " |")
        print("|---|" + "---|" * len(columns))
        for rule, row in table.items():
            cells = []
            for attack in columns:
                one = row.get(attack)
                text = cell(one[key] if one else None, sign)
                cells.append(
                    text + (f" (stopped {one['stopped']} of {one['seeds']})" if one and one["stopped"] else "")
                )
            print(f"| {rule} | " + " | ".join(cells) + " |")
    print("\n| rule | rounds with a flag, by attack | of honest hospitals | triggered: no attack | backdoor |")
    print("|---|---|---|---|---|")
    for rule, row in table.items():
        flags = ", ".join(f"{attack} {one['flag_rounds']}" for attack, one in row.items() if one["flag_rounds"])
        wrong = sum(one["honest_flagged"] for one in row.values())
        hits = [row.get(attack, {}).get("triggered") for attack in ("none", "backdoor")]
        shown = ["-" if hit is None else f"{hit:.2f}" for hit in hits]
        print(f"| {rule} | {flags or '-'} | {wrong} | {shown[0]} | {shown[1]} |")


def main() -> None:
    """Run what is missing, and print the tables of all parts."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES), help="rows")
    parser.add_argument("--attacks", nargs="+", default=list(attacks()), choices=list(attacks()), help="columns")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the parts are kept")
    parser.add_argument("--show", action="store_true", help="run nothing, print what is there")
    args = parser.parse_args()
    if args.quick:
        args.rules, args.attacks, args.seeds = *QUICK, args.seeds[:1]
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))
            parts = read_parts(Path(folder))
    else:
        if not args.show:
            measure(args, args.results)
        parts = read_parts(args.results)
    table = summarise(parts)
    show(table)
    finish({"settings": parts[0]["settings"] if parts else None, "rules": table}, as_json=args.json)


if __name__ == "__main__":
    command(main)
