"""`wardround baseline` trains what a job is compared with: the same network, data,
split and budget, without a federation.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround import __version__
from wardround.cli import like
from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.core.terminal import (
    DONE,
    command,
    existing,
    folder,
    group,
    interval,
    positive,
    say,
    table,
)

if TYPE_CHECKING:
    from torch import Tensor

    from wardround.training.mixture import Mixture

TEXT = """
Train the models that a federation is compared with. They have the network, first weights, patients, split, patches and
schedule of a job. `local` trains every hospital alone. `ensemble` does the same and takes the mean of all their predictions,
for which every hospital would have to give its own model to the others. `central` trains on all patients in one place; a real
consortium may never pool its data like this. Both need the data of all sites on one machine.

  wardround baseline local    --job brats_perfedavg --sites sites.json
  wardround baseline ensemble --job brats_perfedavg --sites sites.json
  wardround baseline central  --job brats_perfedavg --sites sites.json
"""
KINDS = {
    "local": "One model per hospital, trained on its own patients alone: the report's `local` candidate.",
    "ensemble": "The mean of the probabilities of all hospitals' own models, scored at each hospital.",
    "central": "One model, trained on the pooled training patients of all hospitals (each patient equally likely).",
}
MORE = """
Each model gets rounds x work gradient evaluations, which is what ONE site spends in the job. --work-factor N multiplies
`work`; give the number of sites to spend what the whole federation spends.
The command prints a table on each hospital's test patients (mean [95 % interval over patients]; HD95 in mm), and writes
OUT/baseline.json and OUT/*.npz (for `wardround predict`).

  wardround baseline {kind} --job brats_perfedavg --sites sites.json --set num_rounds=10
"""
_COLUMNS = (
    "dice_mean",
    "dice_ET",
    "dice_TC",
    "dice_WT",
    "hd95_mm_ET",
    "hd95_mm_TC",
    "hd95_mm_WT",
)


def add(commands: Any) -> None:
    """Declare the command."""
    kinds = group(
        commands,
        "baseline",
        "train each hospital alone, or all in one place",
        TEXT,
    )
    for kind, sentence in KINDS.items():
        parser = command(
            kinds,
            kind,
            sentence.rstrip("."),
            sentence + "\n" + MORE.format(kind=kind),
            run,
        )
        parser.set_defaults(kind=kind)
        parser.add_argument(
            "--job",
            required=True,
            metavar="NAME",
            help="whose settings (`wardround jobs list`)",
        )
        parser.add_argument(
            "--sites",
            type=existing,
            metavar="JSON",
            help="sites.json; default: what WARDROUND_SITES names",
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="K=V",
            help="change a setting of the job",
        )
        like.add(parser)
        parser.add_argument(
            "--work-factor",
            type=positive,
            default=1,
            metavar="N",
            help="times the work of one site; default 1",
        )
        parser.add_argument(
            "--out",
            type=folder,
            metavar="DIR",
            help=f"default wardround_runs/baseline_{kind}",
        )
        parser.add_argument(
            "--device",
            metavar="D",
            help="auto, cpu, cuda, cuda:N for all sites; default: as each site says",
        )


def run(args: argparse.Namespace) -> int:
    """Train the models, score them on each hospital's test patients, print the table
    and write OUT/baseline.json with the weights.
    """
    from wardround.data.site_config import read_sites
    from wardround.jobs import building, recipes
    from wardround.jobs.folder import about
    from wardround.models.flat import first_weights
    from wardround.research import baselines
    from wardround.training.opening import BY_FLAG, pick_device

    job = recipes.job(args.job, args.set)
    spec = building.build(job.task["model"], "model")
    sampling = building.build(job.task["sampling"], "sampling")
    schedule = building.build(job.federation["schedule"], "schedule")
    schedule = replace(schedule, work=schedule.work * args.work_factor)
    configs = read_sites(_sites_file(args))
    if args.device:
        pick_device(args.device, BY_FLAG)
        configs = {name: replace(config, device=args.device) for name, config in configs.items()}
    patient_dp = job.dp is not None and job.dp["unit"] == "patient"
    out = args.out or Path("wardround_runs") / f"baseline_{args.kind}"
    seed = job.task["seed"]
    begun = time.monotonic()
    sites = baselines.open_sites(
        configs,
        spec,
        sampling,
        seed,
        out / "cache",
        say,
        patient_dp=patient_dp,
    )
    initial, settings = first_weights(spec, seed), about(job) | {"work": schedule.work}
    if args.kind == "central":
        central = baselines.train_central(sites, schedule, initial, say)
        models: dict[str, Tensor | Mixture] = dict.fromkeys(sites, central)
        baselines.keep(out / "central.npz", central, spec, list(sites.values()), settings)
    else:
        alone = baselines.train_local(sites, schedule, initial, say)
        for name, w in alone.items():
            baselines.keep(out / f"{name}.npz", w, spec, [sites[name]], settings)
        together = args.kind == "ensemble"
        models = dict.fromkeys(sites, baselines.ensemble(alone)) if together else dict(alone)
    say("scoring the test patients")
    scores = {name: baselines.score(site, models[name]) for name, site in sites.items()}
    labels = {name: config.name or name for name, config in configs.items()}
    result = {
        "baseline": args.kind,
        "version": __version__,
        "gradient_evaluations": schedule.num_rounds * schedule.work,
        "settings": settings,
        "sites": {name: {"label": labels[name], **row} for name, row in scores.items()},
        "seconds": round(time.monotonic() - begun, 1),
    }
    files.write(out / "baseline.json", json.dumps(result, indent=1) + "\n")
    print(show(result))
    print(f"written: {out / 'baseline.json'} and {'central.npz' if args.kind == 'central' else 'one .npz per site'}")
    return DONE


def show(result: dict[str, Any]) -> str:
    """Return the table of test scores, one row per hospital, and below it the mean and
    the worst score over the hospitals.
    """
    from wardround.messages.allowed_names import CLASSIFICATION
    from wardround.reports.summary import main_metric

    rows = []
    first = next(iter(result["sites"].values()))["test"]
    columns = [key for key in (*_COLUMNS, *CLASSIFICATION) if key in first]
    score = main_metric({"test": first}) or {}
    main = next(key for key in columns if first[key] is score)
    for name, row in result["sites"].items():
        site = name if row["label"] == name else f"{name} ({row['label']})"
        cells = [interval(row["test"].get(key), 1 if key.startswith("hd95") else 3) for key in columns]
        rows.append([site, str(row["cases"]), f"{row['val']:.3f}", *cells])
    means = [row["test"][main]["value"] for row in result["sites"].values()]
    lines = [
        f"{result['baseline']}: {result['gradient_evaluations']} gradient evaluations per model; test patients, "
        "mean [95 % interval]; a dash: the region is unknown there",
        table(
            ("site", "cases", "val", *(key.replace("_", " ") for key in columns)),
            rows,
        ),
        f"mean over sites: {sum(means) / len(means):.3f}, worst {min(means):.3f}",
    ]
    return "\n".join(lines)


def _sites_file(args: argparse.Namespace) -> Path:
    named = args.sites or os.environ.get("WARDROUND_SITES")
    if not named:
        raise ConfigRefused(
            "a baseline",
            found="no --sites, and WARDROUND_SITES is not set",
            expected="a JSON file that says where each site's cases are",
            fix="`wardround partition` splits a dataset, `wardround phantoms` invents one; both write OUT/sites.json",
        )
    return Path(named).expanduser()
