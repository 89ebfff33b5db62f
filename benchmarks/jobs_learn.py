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
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, command, finish, say
from job_sites import job_sites
from wardround.hospital.consortium import Consortium
from wardround.jobs import recipes
from wardround.jobs.building import build

QUICK = ("rounds=1", "work=2", "phantoms.patients=9", "model.depth=1")


def learn(job: recipes.Job, seed: int, folder: Path) -> dict[str, Any]:
    """Return the validation score after each round, the training score at the end, and CPU seconds of all sites."""
    schedule, algorithm = build(job.federation["schedule"], "schedule"), build(job.algorithm["site"], "algorithm")
    sites = job_sites(job, seed, folder)
    together = Consortium(sites, algorithm, build(job.rule, "rule"), schedule)
    curve, training = [], []

    def on_round(round_: int, result: Any) -> None:
        models = together.models(result)
        curve.append(float(np.mean([one.score(models[name], one.split.val) for name, one in sites.items()])))
        say(f"{job.name} seed {seed} round {round_ + 1}/{schedule.rounds}: validation {curve[-1]:.3f}")
        if round_ + 1 == schedule.rounds:
            training.append(float(np.mean([one.score(models[name], one.split.train) for name, one in sites.items()])))

    first = next(iter(sites.values()))
    begun = time.process_time()
    together.run(first.model.vector.clone(), on_round)
    return {"val": curve, "train": training[0], "cpu_s": round(time.process_time() - begun, 1)}


def main() -> None:
    """Run every job for every seed and print one line each, and their means."""
    import torch

    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--jobs", nargs="+", default=["tumour_type_fedavg", "ehr_fusion_fedavg"], help="classification jobs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="splits, first weights and batches")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting of the jobs")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.jobs:
            job = recipes.job(name, [*args.set, *(QUICK if args.quick else ())])
            found = [learn(job, seed, Path(folder) / name) for seed in (args.seeds[:1] if args.quick else args.seeds)]
            chance = 1 / len(job.task["sampling"]["args"]["classes"])
            last, train = (
                float(np.mean(values)) for values in zip(*((f["val"][-1], f["train"]) for f in found), strict=True)
            )
            print(
                f"{name}: validation {last:.3f}, training {train:.3f} (chance {chance:.3f}), mean of {len(found)} seeds"
            )
            result[name] = {"seeds": found, "val": last, "train": train, "chance": chance}
    finish(result, as_json=args.json)


if __name__ == "__main__":
    command(main)
