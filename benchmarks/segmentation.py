"""Every method at equal local work on the same hospitals: phantoms or the LGG-TCGA hospitals (DU, HT, FG).

Prints per hospital and method the test Dice with a 95 % interval (hierarchical bootstrap: seeds, then patients), the verdict's
choice, and how each hospital's own model does at every other hospital. Everything is chosen on validation patients; a federation
runs in this process through the same `local_round` as in NVFlare.

    python benchmarks/segmentation.py --data lgg --seeds 0 1 2 --json
    python benchmarks/segmentation.py --merge out/*.json        (parts that ran in parallel)
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, command, finish, real_set, root_option, say
from methods import methods

LGG = ("DU", "HT", "FG")


def settings(data: str, quick: bool) -> dict[str, Any]:
    """Return the schedule, sampling, phantoms and fine-tuning of one data set; the same for every method."""
    ks = (0, 1) if quick else (0, 1, 5, 20)
    base = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "clip_norm": 10.0, "decay": "cosine", "lr": 0.05}
    if data == "lgg":
        work = {"rounds": 2, "work": 2} if quick else {"rounds": 8, "work": 48}
        return {
            "schedule": base | work,
            "sampling": {"patch": (64, 64, 16), "batch": 2},
            "patients": 6 if quick else None,
            "ks": ks,
        }
    work = {"rounds": 2, "work": 2} if quick else {"rounds": 6, "work": 40}
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
    from wardround.data.hospitals import hospital
    from wardround.data.phantoms import write_cohort
    from wardround.data.site_config import SiteConfig

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
    from wardround.hospital.segmentation import Sampling, SegmentationSite
    from wardround.models.nets import UNet3d

    sampling = Sampling(**options["sampling"], tumour_probability=0.67, augment=True)
    return {
        name: SegmentationSite(
            name, cohort, split_patients(cohort.patients, seed=seed), UNet3d(), sampling, seed, "cpu"
        )
        for name, cohort in cohorts(data, options, folder, root).items()
    }


def evaluate(site: Any, w: Any) -> dict[str, Any]:
    """Return validation mean and per-patient test Dice of one model at one site."""
    from wardround.hospital.segmentation import by_patient

    rows = by_patient(site, site.split.test, site.scores(w, site.split.test, with_hd95=False))
    return {"val": site.score(w, site.split.val), "test": [row["dice_mean"] for row in rows]}


def one_method(
    name: str, sites: dict[str, Any], schedule: Any, chosen: dict[str, Any], ks: tuple[int, ...]
) -> dict[str, Any]:
    """Run one method; return site -> {"0": plain model, "best": after the k chosen on validation} (local, central: plain only)."""
    from wardround.algorithms.base import Steps
    from wardround.algorithms.federation import local_only
    from wardround.algorithms.finetune import fine_tune
    from wardround.hospital.consortium import Consortium

    any_site = next(iter(sites.values()))
    initial = any_site.model.vector.clone() if "initial" not in chosen else chosen["initial"]
    chosen["initial"] = initial
    if name == "local":
        models = {site: local_only(one.oracle("local"), schedule, initial) for site, one in sites.items()}
        matrix = {a: {b: evaluate(sites[b], models[a]) for b in sites} for a in sites}
        return {site: {"0": matrix[site][site], "at": {b: matrix[site][b]["test"] for b in sites}} for site in sites}
    if name in ("central", "central_3x"):
        from wardround.hospital.pooled import PooledOracle

        oracle = PooledOracle(list(sites.values()), "central")
        w = initial
        for _ in range(3 if name == "central_3x" else 1):
            w = local_only(oracle, schedule, w)
        return {site: {"0": evaluate(one, w)} for site, one in sites.items()}
    algorithm, sharing, rule = methods()[name]
    together = Consortium(sites, algorithm, rule, schedule, sharing=sharing)
    result = together.run(initial, lambda r, res: say(f"    round {r + 1}: {res.history[-1]}"))
    table: dict[str, Any] = {}
    for site, start in together.models(result).items():
        one = sites[site]
        tuned = fine_tune(start, one.oracle("fine-tune"), ks, Steps(work=max(ks), lr=0.01))
        scored = {k: evaluate(one, w) for k, w in tuned.items()}
        best = max(scored, key=lambda k: scored[k]["val"])
        table[site] = {"0": scored[0], "best": scored[best], "k": best}
    return table


def summarise(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return method -> site -> mean, low, high, cases; and the mean over sites, from all seeds."""
    from wardround.reports.intervals import hierarchical_mean

    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for part in parts:
        for method, table in part["methods"].items():
            for site, row in table.items():
                for key, label in (("0", method), ("best", f"{method}+tuned")):
                    if key in row:
                        found.setdefault(label, {}).setdefault(site, {})[part["seed"]] = row[key]["test"]
    out: dict[str, Any] = {}
    for method, sites in found.items():
        rows = {site: hierarchical_mean({site: seeds}) for site, seeds in sites.items()} | {
            "mean": hierarchical_mean(sites)
        }
        out[method] = {s: {"mean": i.value, "low": i.low, "high": i.high, "cases": i.cases} for s, i in rows.items()}
    return out


def verdicts(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return site -> the verdict's choices over seeds and their mean test Dice beside the local model's."""
    from wardround.reports.verdict import choose

    out: dict[str, Any] = {}
    for part in parts:
        table = part["methods"]
        for site in table.get("local", {}):
            options = {"local": table["local"][site]["0"]}
            if "fedavg" in table:
                options |= {"fedavg": table["fedavg"][site]["0"], "fedavg_finetuned": table["fedavg"][site]["best"]}
            if "perfedavg_fo" in table:
                options["personalised"] = table["perfedavg_fo"][site]["best"]
            name = choose({key: row["val"] for key, row in options.items()}, part["val_cases"][site])
            entry = out.setdefault(site, {"deploy": [], "test": [], "local": []})
            entry["deploy"].append(name)
            entry["test"].append(float(np.mean(options[name]["test"])))
            entry["local"].append(float(np.mean(options["local"]["test"])))
    return out


def matrix(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return trained at -> tested at -> mean Dice of local models over seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        for a, row in part["methods"].get("local", {}).items():
            for b, test in row["at"].items():
                found.setdefault(a, {}).setdefault(b, []).append(float(np.mean(test)))
    return {a: {b: float(np.mean(values)) for b, values in row.items()} for a, row in found.items()}


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    sites = [site for site in next(iter(result["methods"].values())) if site != "mean"]
    print("| method | " + " | ".join(sites) + " | mean [95 % interval] |")
    print("|---|" + "---|" * (len(sites) + 1))
    for method, rows in sorted(result["methods"].items(), key=lambda item: -item[1]["mean"]["mean"]):
        cells = [f"{rows[site]['mean']:.3f} ({rows[site]['cases']})" for site in sites]
        whole = rows["mean"]
        print(
            f"| {method} | " + " | ".join(cells) + f" | {whole['mean']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}] |"
        )
    print("\nverdict:")
    for site, row in result["verdict"].items():
        print(f"  {site}: {row['deploy']}, test {np.mean(row['test']):.3f}, local {np.mean(row['local']):.3f}")
    print("\nlocal models elsewhere (rows: trained at, columns: tested at):")
    for a, row in result["matrix"].items():
        print(f"  {a}: " + ", ".join(f"{b} {value:.3f}" for b, value in row.items()))


def main() -> None:
    """Run the table, or merge parts of it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("phantoms", "lgg"), default="phantoms", help="which hospitals")
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    names = ["local", "central", "central_3x", *methods()]
    parser.add_argument("--methods", nargs="+", default=names, choices=names, help="rows of the table")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch decides")
    parser.add_argument("--part", type=Path, help="write this run's raw scores here, to be merged later")
    parser.add_argument("--merge", type=Path, nargs="+", help="print the table of these parts, run nothing")
    args = parser.parse_args()
    if args.merge:
        raw = [json.loads(path.read_text()) for path in args.merge]
        parts: dict[tuple[str, int], dict[str, Any]] = {}
        for part in (one for parts_ in raw for one in parts_):
            whole = parts.setdefault((part["data"], part["seed"]), part | {"methods": {}})
            whole["methods"].update(part["methods"])
        done = list(parts.values())
    else:
        done = measure(args)
    result = {"methods": summarise(done), "verdict": verdicts(done), "matrix": matrix(done)}
    show(result)
    finish(result, as_json=args.json)


def measure(args: Any) -> list[dict[str, Any]]:
    """Run the asked methods for the asked seeds."""
    import torch

    from wardround.algorithms.schedule import Schedule

    if args.threads:
        torch.set_num_threads(args.threads)
    seeds = args.seeds[:1] if args.quick else args.seeds
    names = [n for n in args.methods if n in ("local", "fedavg", "perfedavg_fo")] if args.quick else args.methods
    options, done = settings(args.data, args.quick), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            sites = open_sites(args.data, seed, options, Path(folder), args.root)
            schedule, chosen = Schedule(**options["schedule"]), {}
            val_cases = {site: len(one.split.val) for site, one in sites.items()}
            part = {"data": args.data, "seed": seed, "val_cases": val_cases, "methods": {}}
            done.append(part)
            for name in names:
                begun = time.monotonic()
                part["methods"][name] = one_method(name, sites, schedule, chosen, options["ks"])
                dice = {s: round(float(np.mean(r["0"]["test"])), 3) for s, r in part["methods"][name].items()}
                val = {s: round(r["0"]["val"], 3) for s, r in part["methods"][name].items()}
                say(f"seed {seed} {name}: val {val} test {dice}, {time.monotonic() - begun:.0f} s")
                if args.part:
                    args.part.write_text(json.dumps(done))
    return done


if __name__ == "__main__":
    command(main)
