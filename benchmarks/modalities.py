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
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common import Part, Parts, Table, cell, command, finish, interval, kept, one_settings, say, show, table
from fusion import SPLIT, Data, asked, open_data, open_sites, options, sampling_of, schedule_of, trained
from wardround.algorithms.schedule import Schedule
from wardround.data.layouts import MODALITIES
from wardround.synthetic.phantom_ehr import bayes_limit
from wardround.tasks import classification as classes_
from wardround.training.class_site import ClassificationSite

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


def summary(parts: Sequence[Part]) -> dict[str, Any]:
    """Return what is shown -> both arms' means over seeds, their difference, the limit."""
    found = {}
    for words, shown in SHOWN.items():
        means = {arm: [mean_of(part.numbers[arm][words]) for part in parts] for arm in ARMS}
        gap = interval([a - b for a, b in zip(means["dropout"], means["plain"], strict=True)])
        limit = bayes_limit(shown, strength=0.0)
        found[words] = {arm: float(np.mean(means[arm])) for arm in ARMS} | {"gap": gap, "limit": limit}
    return found


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table."""
    one_settings(parts)
    rows = [
        [words, f"{one['dropout']:.3f}", f"{one['plain']:.3f}", cell(one["gap"], "+"), f"{one['limit']:.2f}"]
        for words, one in summary(parts).items()
    ]
    heads = ["shown at test", f"trained with dropout {parts[0].settings['dropout']:g}", "without"]
    return {"shown": table([*heads, "difference [95 %]", "limit"], rows, parts)}


def main() -> None:
    """Train both models for every seed that is missing, and test them on every subset."""
    parser = options(__doc__ or "")
    parser.add_argument("--dropout", type=float, default=0.3, help="chance of hiding a modality of a training patient")
    args = asked(parser)
    with kept("modalities", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({"split": SPLIT, "shown": summary(done)}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the seeds that are not there yet."""
    schedule = schedule_of(args.rounds, args.work)
    about = {"split": SPLIT, "schedule": asdict(schedule), "patients": args.patients, "depth": args.depth}
    about |= {"dropout": args.dropout}
    seeds = [seed for seed in args.seeds if parts.missing({"seed": seed}, about)]
    with tempfile.TemporaryDirectory() as folder:
        data = open_data("phantoms", Path(folder), args.patients) if seeds else None
        for seed in seeds:
            parts.measure({"seed": seed}, about, partial(one_seed, data, seed, schedule, args.depth, args.dropout))


if __name__ == "__main__":
    command(main)
