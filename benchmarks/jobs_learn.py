"""What the classification jobs learn from random weights on the simulator's own phantoms, with the jobs' own settings.

Everything is the job's: network, phantoms, drawing, algorithm, schedule; in one process, without NVFlare. A seed is the split,
first weights and batches (phantoms stay those of the job). Printed: mean over the four hospitals of the balanced accuracy of
each one's model, on validation patients after every round and on training patients at the end; chance is one in the number
of classes. Test patients are not looked at: this script is for choosing settings.

    python benchmarks/jobs_learn.py --json
    python benchmarks/jobs_learn.py --jobs ehr_fusion_fedavg --set lr=0.01
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import Part, Parts, Table, arguments, command, finish, kept, one_settings, say, show, table
from job_sites import job_sites
from wardround.jobs import recipes
from wardround.jobs.building import build
from wardround.research.in_process import InProcessFederation

QUICK = ("num_rounds=1", "work=2", "phantoms.patients=9", "model.depth=1")


def learn(job: recipes.Job, seed: int, folder: Path) -> dict[str, Any]:
    """Return the validation score after each round, the training score at the end, chance, and CPU seconds of all sites."""
    schedule, algorithm = build(job.federation["schedule"], "schedule"), build(job.algorithm["site"], "algorithm")
    sites = job_sites(job, seed, folder)
    together = InProcessFederation(sites, algorithm, build(job.server_optimizer, "server_optimizer"), schedule)
    curve, training = [], []

    def on_round(round_: int, result: Any) -> None:
        models = together.models(result)
        curve.append(float(np.mean([one.score(models[name], one.split.val) for name, one in sites.items()])))
        say(f"{job.name} seed {seed} round {round_ + 1}/{schedule.num_rounds}: validation {curve[-1]:.3f}")
        if round_ + 1 == schedule.num_rounds:
            training.append(float(np.mean([one.score(models[name], one.split.train) for name, one in sites.items()])))

    first = next(iter(sites.values()))
    begun = time.process_time()
    together.run(first.model.vector.clone(), on_round)
    chance = 1 / len(job.task["sampling"]["args"]["classes"])
    seconds = round(time.process_time() - begun, 1)
    return {"val": curve, "train": training[0], "chance": chance, "cpu_s": seconds}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return one row per job: means over seeds; parts of a job with other settings than one another: ConfigRefused."""
    rows = []
    for name in sorted({part.key["job"] for part in parts}):
        mine = [part for part in parts if part.key["job"] == name]
        one_settings(mine)
        found = [part.numbers for part in mine]
        val, train = np.mean([one["val"][-1] for one in found]), np.mean([one["train"] for one in found])
        chance, seconds = found[0]["chance"], np.mean([one["cpu_s"] for one in found])
        seeds = ", ".join(str(part.key["seed"]) for part in mine)
        rows.append([f"`{name}`", seeds, f"{val:.3f}", f"{train:.3f}", f"{chance:.3f}", f"{seconds:.0f}"])
    heads = ["job", "seeds", "balanced accuracy, validation", "training", "chance", "CPU s of all sites"]
    return {"jobs": table(heads, rows, parts)}


def main() -> None:
    """Run every job for every seed that is missing, and print one line for each."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--jobs", nargs="+", default=["tumour_type_fedavg", "ehr_fusion_fedavg"], help="classification jobs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="splits, first weights and batches")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting of the jobs")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    args.seeds = args.seeds[:1] if args.quick else args.seeds
    with kept("jobs_learn", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({part.name: part.numbers for part in done}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the jobs and seeds that are not there yet."""
    import torch

    torch.set_num_threads(args.threads)
    changed = [*args.set, *(QUICK if args.quick else ())]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.jobs:
            job = recipes.job(name, changed)
            for seed in args.seeds:
                place = Path(folder) / name
                parts.measure({"job": name, "seed": seed}, {"set": changed}, partial(learn, job, seed, place))


if __name__ == "__main__":
    command(main)
