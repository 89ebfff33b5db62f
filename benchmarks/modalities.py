"""Any subset of the modalities: a model trained with modality dropout against one without, tested with less than it was trained on.

Phantom hospitals with three tumour types, images only, FedAvg at equal local work (fusion.py has the hospitals, the network,
the schedule and how they were fixed). Both models are tested with everything that a patient has, with each modality withheld,
and with each one alone; a patient who has nothing of what is shown is left out (west has no T2: it is not in the mean of `t2
alone`, and withholding T2 changes nothing there). Balanced accuracy on test patients, mean over hospitals; nothing is chosen,
the models after the last round are scored. Differences are paired by seed (split, weights, batches) with a 95 % t-interval.
Limit: the best accuracy that anybody can have when the images show the type's signs perfectly.

    python benchmarks/modalities.py --json
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import arguments, finish, say
from fusion import Data, open_data, open_sites, sampling_of, schedule_of, spread, trained, words_of
from wardround.algorithms.schedule import Schedule
from wardround.data.layouts import MODALITIES
from wardround.data.phantom_record import bayes_limit
from wardround.hospital.classification import ClassificationSite
from wardround.tasks import classification as classes_

ARMS = ("dropout", "plain")
SHOWN: dict[str, tuple[str, ...]] = {
    "all": MODALITIES,
    **{f"without {one}": tuple(m for m in MODALITIES if m != one) for one in MODALITIES},
    **{f"{one} alone": (one,) for one in MODALITIES},
}


def accuracy(site: ClassificationSite, w: Tensor, shown: Sequence[str]) -> float | None:
    """Return the balanced accuracy on test patients of whom `shown` is shown; None: nobody has any of it."""
    cohort = site.cohort
    got = cohort.batch(list(site.split.test))
    present = got.present & np.array([m in shown for m in cohort.spec.modalities])
    rows = np.flatnonzero(present.any(1))
    if not len(rows):
        return None
    inputs = site.sampling.inputs(got.images[rows], present[rows], got.values[rows], got.known[rows])
    cases = [site.split.test[row] for row in rows]
    chances = dict(zip(cases, classes_.softmax(site.model.outputs(w, inputs)), strict=True))
    _, means, labels = classes_.by_patient(chances, cohort.labels, cohort.patients)
    return classes_.balanced_accuracy(means, labels)


def one_seed(data: Data, seed: int, schedule: Schedule, depth: int, dropout: float) -> dict[str, Any]:
    """Return arm -> what is shown -> hospital -> balanced accuracy (None: nobody has it)."""
    found: dict[str, Any] = {"seed": seed}
    for arm in ARMS:
        begun = time.monotonic()
        sites = open_sites(data, sampling_of(data.spec, "images", dropout if arm == "dropout" else 0.0), seed, depth)
        w = trained(sites, schedule)
        found[arm] = {
            words: {name: accuracy(one, w, shown) for name, one in sites.items()} for words, shown in SHOWN.items()
        }
        told = ", ".join(f"{words} {mean_of(found[arm][words]):.2f}" for words in SHOWN)
        val = float(np.mean([one.score(w, one.split.val) for one in sites.values()]))
        say(f"  seed {seed}, {arm}: validation {val:.2f}, test: {told}, {time.monotonic() - begun:.0f} s")
    return found


def mean_of(each: Mapping[str, float | None]) -> float:
    """Return the mean over the hospitals that have a number."""
    return float(np.mean([value for value in each.values() if value is not None]))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is shown -> both arms' means over seeds, their difference, the limit."""
    found = {}
    for words, shown in SHOWN.items():
        means = {arm: [mean_of(row[arm][words]) for row in rows] for arm in ARMS}
        gap = spread([a - b for a, b in zip(means["dropout"], means["plain"], strict=True)])
        limit = bayes_limit(shown, strength=0.0)
        found[words] = {arm: float(np.mean(means[arm])) for arm in ARMS} | {"gap": gap, "limit": limit}
    return found


def main() -> None:
    """Train both models for every seed and test them on every subset."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    parser.add_argument("--dropout", type=float, default=0.3, help="chance of hiding a modality of a training patient")
    parser.add_argument("--patients", type=int, default=200, help="of every phantom hospital")
    parser.add_argument("--rounds", type=int, default=12, help="rounds")
    parser.add_argument("--work", type=int, default=30, help="gradient steps of a site in a round")
    parser.add_argument("--depth", type=int, default=1, help="blocks of the trunk")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--part", type=Path, help="write the raw scores here after every seed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    patients, schedule, seeds = args.patients, schedule_of(args.rounds, args.work), args.seeds
    if args.quick:
        patients, schedule, seeds = 12, schedule_of(1, 4), seeds[:1]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = open_data("phantoms", Path(folder), patients)
        for seed in seeds:
            rows.append(one_seed(data, seed, schedule, args.depth, args.dropout))
            if args.part:
                args.part.write_text(json.dumps(rows))
    told = summary(rows)
    print(f"| shown at test | trained with dropout {args.dropout:g} | without | difference [95 %] | limit |")
    print("|---|---|---|---|---|")
    for words, one in told.items():
        gap, limit = words_of(one["gap"]), one["limit"]
        print(f"| {words} | {one['dropout']:.3f} | {one['plain']:.3f} | {gap} | {limit:.2f} |")
    finish({"shown": told, "rows": rows}, as_json=args.json)


if __name__ == "__main__":
    main()
