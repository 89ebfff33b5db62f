"""Every method at equal local work on the same hospitals: phantoms or the LGG-TCGA hospitals (DU, HT, FG).

Prints per hospital and method the test Dice with a 95 % interval (hierarchical bootstrap: seeds, then patients), the verdict's
choice, and how each hospital's own model does at every other hospital. Everything is chosen on validation patients; a federation
runs in this process through the same `local_round` as in NVFlare.

    python benchmarks/segmentation.py --data lgg --seeds 0 1 2 --json
    python benchmarks/segmentation.py --show                    (the tables of the parts that are there)
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import (
    Part,
    Parts,
    Table,
    arguments,
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
from methods import methods

LGG = ("DU", "HT", "FG")
NAMES = {
    "local": "local only",
    "central": "centralised, same work as one site",
    "central_3x": "centralised, work of all sites",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "scaffold": "SCAFFOLD",
    "fedopt": "FedOpt (Adam)",
    "fedbn": "FedBN",
    "fedrep": "FedRep",
    "ditto": "Ditto",
    "perfedavg_fo": "Per-FedAvg FO",
    "perfedavg_hf": "Per-FedAvg HF",
    "klmask": "KL masks (`brats_klmask`)",
    "klmask_random": "random blocks (control)",
    "klmask_norms": "norms stay (control)",
    "klmask_head": "head stays (control)",
    "fedavgm": "FedAvgM",
    "fedyogi": "FedYogi",
    "mrmtl": "MR-MTL",
}
TUNED = " + fine-tuning"


def settings(data: str, quick: bool) -> dict[str, Any]:
    """Return the schedule, sampling, phantoms and fine-tuning of one data set; the same for every method."""
    ks = (0, 1) if quick else (0, 1, 5, 20)
    base = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "clip_norm": 10.0, "decay": "cosine", "lr": 0.05}
    if data == "lgg":
        work = {"num_rounds": 2, "work": 2} if quick else {"num_rounds": 8, "work": 48}
        return {
            "schedule": base | work,
            "sampling": {"patch": (64, 64, 16), "batch": 2},
            "patients": 6 if quick else None,
            "ks": ks,
        }
    work = {"num_rounds": 2, "work": 2} if quick else {"num_rounds": 6, "work": 40}
    return {
        "schedule": base | work,
        "sampling": {"patch": (16, 16, 16) if quick else (32, 32, 32), "batch": 2},
        "patients": 5 if quick else 24,
        "shape": (24, 24, 24) if quick else (40, 40, 40),
        "ks": ks,
    }


def cohorts(data: str, options: dict[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Return site name -> Cohort. root: where the real data sets are."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    patients = options["patients"]
    if data == "phantoms":
        made = {}
        for index in range(4):
            profile = hospital(index)
            write_cohort(folder / profile.name, profile, 7, shape=options["shape"], patients=patients)
            made[profile.name] = open_cohort(SiteConfig(data=folder / profile.name), folder / "cache" / profile.name)
        return made
    place = real_set(root, "lgg_tcga_multisite_nc", "px64")
    names = sorted(path.name for path in place.iterdir())
    mine = {site: tuple(n for n in names if n.split("_")[1] == site)[:patients] for site in LGG}
    return {site: open_cohort(SiteConfig(data=place, cases=mine[site]), folder / "cache" / site) for site in LGG}


def open_sites(data: str, seed: int, options: dict[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Return site name -> SegmentationSite with this seed's split, initial weights and batches."""
    from wardround.data.splits import split_patients
    from wardround.models.nets import UNet3d
    from wardround.training.segmentation import Sampling, SegmentationSite

    sampling = Sampling(**options["sampling"], tumour_probability=0.67, augment=True)
    return {
        name: SegmentationSite(
            name, cohort, split_patients(cohort.patients, seed=seed), UNet3d(), sampling, seed, "cpu"
        )
        for name, cohort in cohorts(data, options, folder, root).items()
    }


def evaluate(site: Any, w: Any) -> dict[str, Any]:
    """Return validation mean and per-patient test Dice of one model at one site."""
    from wardround.training.segmentation import by_patient

    rows = by_patient(site, site.split.test, site.scores(w, site.split.test, with_hd95=False))
    return {"val": site.score(w, site.split.val), "test": [row["dice_mean"] for row in rows]}


def one_method(name: str, sites: dict[str, Any], schedule: Any, initial: Any, ks: tuple[int, ...]) -> dict[str, Any]:
    """Run one method; return site -> {"0": plain model, "best": after the k chosen on validation} (local, central: plain only)."""
    from wardround.algorithms.base import Steps
    from wardround.algorithms.federation import local_only
    from wardround.algorithms.finetune import fine_tune
    from wardround.research.in_process import InProcessFederation

    if name == "local":
        models = {site: local_only(one.objective("local"), schedule, initial) for site, one in sites.items()}
        matrix = {a: {b: evaluate(sites[b], models[a]) for b in sites} for a in sites}
        return {site: {"0": matrix[site][site], "at": {b: matrix[site][b]["test"] for b in sites}} for site in sites}
    if name in ("central", "central_3x"):
        from wardround.research.pooled_objective import PooledObjective

        objective = PooledObjective(list(sites.values()), "central")
        w = initial
        for _ in range(3 if name == "central_3x" else 1):
            w = local_only(objective, schedule, w)
        return {site: {"0": evaluate(one, w)} for site, one in sites.items()}
    algorithm, sharing, server_optimizer = methods()[name]
    together = InProcessFederation(sites, algorithm, server_optimizer, schedule, sharing=sharing)
    result = together.run(initial, lambda r, res: say(f"    round {r + 1}: {res.history[-1]}"))
    table: dict[str, Any] = {}
    for site, start in together.models(result).items():
        one = sites[site]
        tuned = fine_tune(start, one.objective("fine-tune"), ks, Steps(work=max(ks), lr=0.01))
        scored = {k: evaluate(one, w) for k, w in tuned.items()}
        best = max(scored, key=lambda k: scored[k]["val"])
        table[site] = {"0": scored[0], "best": scored[best], "k": best}
    return table


def summarise(parts: Sequence[Part]) -> dict[str, Any]:
    """Return method -> site -> mean, low, high, cases; and the mean over sites, from all seeds."""
    from wardround.reports.intervals import hierarchical_mean

    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for part in parts:
        method = part.key["method"]
        for site, row in part.numbers["sites"].items():
            for key, label in (("0", method), ("best", f"{method}+tuned")):
                if key in row:
                    found.setdefault(label, {}).setdefault(site, {})[part.key["seed"]] = row[key]["test"]
    out: dict[str, Any] = {}
    for method, sites in found.items():
        rows = {site: hierarchical_mean({site: seeds}) for site, seeds in sites.items()} | {
            "mean": hierarchical_mean(sites)
        }
        out[method] = {s: {"mean": i.value, "low": i.low, "high": i.high, "cases": i.cases} for s, i in rows.items()}
    return out


def verdicts(parts: Sequence[Part]) -> dict[str, Any]:
    """Return site -> the verdict's choices over seeds and their mean test Dice beside the local model's."""
    from wardround.reports.verdict import choose

    out: dict[str, Any] = {}
    for seed in sorted({part.key["seed"] for part in parts}):
        mine = {part.key["method"]: part.numbers for part in parts if part.key["seed"] == seed}
        for site, own in mine.get("local", {"sites": {}})["sites"].items():
            options = {"local": own["0"]}
            if "fedavg" in mine:
                shared = mine["fedavg"]["sites"][site]
                options |= {"fedavg": shared["0"], "fedavg_finetuned": shared["best"]}
            if "perfedavg_fo" in mine:
                options["personalised"] = mine["perfedavg_fo"]["sites"][site]["best"]
            name = choose({key: row["val"] for key, row in options.items()}, mine["local"]["val_cases"][site])
            entry = out.setdefault(site, {"deploy": [], "test": [], "local": []})
            entry["deploy"].append(name)
            entry["test"].append(float(np.mean(options[name]["test"])))
            entry["local"].append(float(np.mean(options["local"]["test"])))
    return out


def matrix(parts: Sequence[Part]) -> dict[str, Any]:
    """Return trained at -> tested at -> mean Dice of local models over seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        for a, row in part.numbers["sites"].items() if part.key["method"] == "local" else ():
            for b, test in row["at"].items():
                found.setdefault(a, {}).setdefault(b, []).append(float(np.mean(test)))
    return {a: {b: float(np.mean(values)) for b, values in row.items()} for a, row in found.items()}


def title(label: str) -> str:
    """Return what a row is called."""
    method, _, tuned = label.partition("+")
    return NAMES[method] + (TUNED if tuned else "")


def scores(parts: Sequence[Part]) -> Table:
    """Return the test Dice of every method, the best mean first."""
    found = summarise(parts)
    sites = [site for site in next(iter(found.values())) if site != "mean"]
    rows = []
    for label, row in sorted(found.items(), key=lambda item: -item[1]["mean"]["mean"]):
        whole = row["mean"]
        # One seed with one patient has no interval.
        span = "" if whole["low"] is None else f" [{whole['low']:.3f}, {whole['high']:.3f}]"
        rows.append([title(label), *(f"{row[site]['mean']:.3f}" for site in sites), f"{whole['mean']:.3f}{span}"])
    return table(["method", *sites, "mean [95 % interval]"], rows, parts)


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return for each data set: the methods, KL masks and their controls, the verdict, local models elsewhere."""
    known(parts, "method", NAMES)
    made = {}
    for data in sorted({part.key["data"] for part in parts}):
        mine = [part for part in parts if part.key["data"] == data]
        one_settings(mine)
        masks = [part for part in mine if part.key["method"].startswith("klmask")]
        made[data] = scores([part for part in mine if part not in masks])
        if masks:
            made[f"{data}-masks"] = scores([*masks, *(part for part in mine if part.key["method"] == "fedavg")])
        own = [part for part in mine if part.key["method"] == "local"]
        if not own:
            continue
        rows = [
            [site, ", ".join(row["deploy"]), f"{np.mean(row['test']):.3f}", f"{np.mean(row['local']):.3f}"]
            for site, row in verdicts(mine).items()
        ]
        heads = ["hospital", "deployed, by seed", "its test Dice", "the local model's"]
        made[f"{data}-verdict"] = table(heads, rows, mine)
        elsewhere = matrix(mine)
        rows = [[a, *(f"{value:.3f}" for value in row.values())] for a, row in elsewhere.items()]
        made[f"{data}-elsewhere"] = table(["trained at", *elsewhere], rows, own)
    return made


def main() -> None:
    """Run what is missing, and print the tables of the parts that are there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("phantoms", "lgg"), default="phantoms", help="which hospitals")
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    names = ["local", "central", "central_3x", *methods()]
    parser.add_argument("--methods", nargs="+", default=names, choices=names, help="rows of the table")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch decides")
    args = parser.parse_args()
    if args.quick:
        args.seeds = args.seeds[:1]
        args.methods = [name for name in args.methods if name in ("local", "fedavg", "perfedavg_fo")]
    with kept("segmentation", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    mine = [part for part in done if part.key["data"] == args.data]
    finish({"methods": summarise(mine), "verdict": verdicts(mine), "matrix": matrix(mine)}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the asked methods for the asked seeds."""
    import torch

    from wardround.algorithms.schedule import Schedule

    if args.threads:
        torch.set_num_threads(args.threads)
    options = settings(args.data, args.quick)
    schedule = Schedule(**options["schedule"])
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            keys = [{"data": args.data, "method": name, "seed": seed} for name in args.methods]
            keys = [key for key in keys if parts.missing(key, options)]
            if not keys:
                continue
            sites = open_sites(args.data, seed, options, Path(folder), args.root)
            initial = next(iter(sites.values())).model.vector.clone()
            for key in keys:
                parts.measure(key, options, partial(one_part, key["method"], sites, schedule, initial, options["ks"]))


def one_part(name: str, sites: dict[str, Any], schedule: Any, initial: Any, ks: tuple[int, ...]) -> dict[str, Any]:
    """Return what one method gives at every site, and how many validation patients each has."""
    found = one_method(name, sites, schedule, initial, ks)
    dice = {site: round(float(np.mean(row["0"]["test"])), 3) for site, row in found.items()}
    val = {site: round(row["0"]["val"], 3) for site, row in found.items()}
    say(f"{name}: val {val} test {dice}")
    return {"sites": found, "val_cases": {site: len(one.split.val) for site, one in sites.items()}}


if __name__ == "__main__":
    command(main)
