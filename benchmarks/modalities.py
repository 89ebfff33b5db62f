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

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common import cell, command, finish, interval, say
from fusion import SPLIT, Data, asked, open_data, open_sites, options, over, sampling_of, schedule_of, trained
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
        gap = interval([a - b for a, b in zip(means["dropout"], means["plain"], strict=True)])
        limit = bayes_limit(shown, strength=0.0)
        found[words] = {arm: float(np.mean(means[arm])) for arm in ARMS} | {"gap": gap, "limit": limit}
    return found


def main() -> None:
    """Train both models for every seed and test them on every subset."""
    parser = options(__doc__ or "")
    parser.add_argument("--dropout", type=float, default=0.3, help="chance of hiding a modality of a training patient")
    args = asked(parser)
    schedule = schedule_of(args.rounds, args.work)
    with tempfile.TemporaryDirectory() as folder:
        data = open_data("phantoms", Path(folder), args.patients)
        rows = over(args, lambda seed: one_seed(data, seed, schedule, args.depth, args.dropout), lambda rows: rows)
    told = summary(rows)
    print(f"| shown at test | trained with dropout {args.dropout:g} | without | difference [95 %] | limit |")
    print("|---|---|---|---|---|")
    for words, one in told.items():
        gap = cell(one["gap"], "+")
        print(f"| {words} | {one['dropout']:.3f} | {one['plain']:.3f} | {gap} | {one['limit']:.2f} |")
    finish({"split": SPLIT, "shown": told, "rows": rows}, as_json=args.json)


if __name__ == "__main__":
    command(main)
