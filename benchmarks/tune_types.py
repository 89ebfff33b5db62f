"""Choose network, augmentation and schedule of tumour_types.py: FedAvg on a deal that its tables do not use (seed 100).

Every row is the recipe of tumour_types_data.py with one thing changed. Three folds of every hospital train, the other two are
held out; the number is the balanced accuracy over the held-out slices, of every hospital's classes (mean over hospitals) and
of all hospitals together, for FedAvg as it comes and for local training. No table of tumour_types.py is made from these parts.

    python benchmarks/tune_types.py --json
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from common import Part, Parts, Table, arguments, command, finish, kept, known, one_settings, root_option, show, table
from methods import MEAN
from tumour_types_data import FOLDS, Recipe, open_sites, scored, settings, whole_set
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_only
from wardround.research.in_process import InProcessFederation
from wardround.tasks.classification import balanced_accuracy

ALPHA, DEAL = 0.5, 100
SMALL = {"flip": 0.5}
LARGE = {"flip": 0.5, "rotation": 30.0, "zoom": 0.2, "shift": 0.1}
CHANGES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "stem=patch": {"stem": "patch"},
    "balanced=False": {"balanced": False},
    "lr=0.01": {"lr": 0.01},
    "lr=0.03": {"lr": 0.03},
    "size=96": {"size": 96},
    "size=128, patch=32": {"size": 128, "patch": 32},
    "clip_norm=1": {"clip_norm": 1.0},
    "depth=1": {"depth": 1},
    "depth=4": {"depth": 4},
    "patch=8": {"patch": 8},
    "small augmentation": {"augmentation": SMALL},
    "large augmentation": {"augmentation": LARGE},
    "weight_decay=0.01": {"weight_decay": 0.01},
    "batch=32": {"batch": 32},
    "work x2": {"work": 2 * Recipe.work},
    "work x4": {"work": 4 * Recipe.work},
}


def one_row(sites: Mapping[str, Any], recipe: Recipe) -> dict[str, float]:
    """Return the scores on held-out blocks, of FedAvg and of local training."""
    initial = next(iter(sites.values())).model.vector.clone()
    together = InProcessFederation(sites, FedAvg(), MEAN, recipe.schedule)
    models = {"FedAvg": together.models(together.run(initial))}
    models["local"] = {
        name: local_only(one.objective("train", 0), recipe.schedule, initial) for name, one in sites.items()
    }
    found = {}
    for method, each in models.items():
        parts = [scored(sites[name], w, held_out(sites[name])) for name, w in each.items()]
        found[f"{method}, mean of hospitals"] = float(np.mean([balanced_accuracy(*part) for part in parts]))
        found[f"{method}, all together"] = balanced_accuracy(*map(np.concatenate, zip(*parts, strict=True)))
    return found


def held_out(site: Any) -> tuple[str, ...]:
    """Return the cases of the two folds that do not train."""
    return (*site.split.val, *site.split.test)


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return a row per change that was measured."""
    known(parts, "row", CHANGES)
    one_settings(parts)
    found = {part.key["row"]: part for part in parts}
    heads = ["changed", *(parts[0].numbers if parts else ()), "seconds"]
    rows = [
        [label, *(f"{value:.3f}" for value in found[label].numbers.values()), f"{found[label].seconds:.0f}"]
        for label in CHANGES
        if label in found
    ]
    return {"rows": table(heads, rows, parts)} if rows else {}


def main() -> None:
    """Run the rows that are missing, and print the table of those that are there."""
    parser = arguments(__doc__ or "")
    root_option(parser)
    parser.add_argument("--only", nargs="*", default=list(CHANGES), choices=CHANGES, help="rows")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    with kept("tune_types", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({part.name: part.numbers for part in done}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the rows that are asked for and not there yet."""
    import torch

    torch.set_num_threads(args.threads)
    data, labels = ("phantoms", args.only[:1]) if args.quick else ("cheng", args.only)
    base = replace(Recipe(), depth=1, rounds=2, work=2) if args.quick else Recipe()
    # The recipe may be changed by what is found; a row says what it was made of, beside the change.
    about = {"data": data, "base": settings(base, FOLDS, DEAL)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = cache(partial(whole_set, data, folder, args.root, 50))
        for label in labels:
            if parts.missing({"row": label}, about):
                recipe = replace(base, **CHANGES[label])
                sites = open_sites(whole(recipe.size), ALPHA, (DEAL, 0, FOLDS), folder, recipe, DEAL)
                parts.measure({"row": label}, about, partial(one_row, sites, recipe))


if __name__ == "__main__":
    command(main)
