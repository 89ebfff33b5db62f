"""Numbers of tumour_types.py: what every block says, differences paired by block and seed, rounds and bytes to a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from class_scores import Ends, Scores
from common import Part, interval
from tumour_types_data import SITES

REACH = 0.95

# One method: seed -> fold -> what was found.
Found = Mapping[int, Mapping[int, Any]]


def scores(found: Found, key: str, *, whole_blocks: bool = False) -> Scores:
    """Return every block's score at every site and of every class.

    key: "0" for the model as it comes, "best" for the fine-tuned one.
    whole_blocks: 1 where the mean of a block's slices is right, 0 elsewhere; else the share of its slices that are right.
    """
    out: Scores = {}
    for seed, folds in found.items():
        for site in next(iter(folds.values()))["sites"]:
            rows = sorted(row for part in folds.values() for row in part["sites"][site][key]["rows"])
            for label in sorted({row[1] for row in rows}):
                right = [row[4] if whole_blocks else row[3] / row[2] for row in rows if row[1] == label]
                out.setdefault((site, label), {})[seed] = np.array(right, float)
    return out


def over_all(found: Found, key: str) -> Ends:
    """Return the balanced accuracy of every site's model over the test slices of all sites, mean over sites and seeds."""
    each = []
    for folds in found.values():
        parts = [[site[key]["everywhere"] for site in part["sites"].values()] for part in folds.values()]
        slices, right = np.array(parts, float).sum((0, 1)).T
        each.append(float(np.mean(right[slices > 0] / slices[slices > 0])))
    return interval(each)


def reached(curve: Sequence[float], base: Sequence[float]) -> int | None:
    """Return after how many rounds a validation score is REACH of FedAvg's last one; never: None."""
    return next((r + 1 for r, value in enumerate(curve) if value >= REACH * base[-1]), None)


def traffic(mine: Found, base: Found) -> dict[str, Any]:
    """Return rounds and bytes to FedAvg's score: by seed the mean over folds, None where some fold never reaches it."""
    rounds: list[float | None] = []
    ratios = []
    for seed, folds in mine.items():
        pairs = [(reached(part["curve"], base[seed][f]["curve"]), base[seed][f]["curve"]) for f, part in folds.items()]
        own = [r for r, _ in pairs if r is not None]
        rounds.append(float(np.mean(own)) if len(own) == len(pairs) else None)
        both = [(r, reached(curve, curve)) for r, curve in pairs if r is not None]
        ratios += [float(np.mean([r / b for r, b in both if b is not None]))] if both else []
    first = next(iter(next(iter(mine.values())).values()))
    size = 2 * 4 * SITES * first["values"]
    total = [None if r is None else r * size for r in rounds]
    about = {"rounds": rounds, "ratio": interval(ratios) if ratios else None, "round_bytes": size}
    return about | {"bytes": total, "noise": first["noise"]}


def by_alpha(parts: Sequence[Part], order: Sequence[str]) -> dict[str, dict[str, Found]]:
    """Return alpha -> method -> seed -> fold -> what was found, of seeds that have every fold.

    local and FedAvg are what all rows are compared with: an alpha without both is left out, and so is a method that
    lacks a seed which both have. Methods come in this order.
    """
    found: dict[str, dict[str, dict[int, dict[int, Any]]]] = {}
    count = parts[0].settings["folds"] if parts else 0
    for part in parts:
        methods = found.setdefault(str(part.key["alpha"]), {})
        seeds = methods.setdefault(part.key["method"], {})
        seeds.setdefault(part.key["seed"], {})[part.key["fold"]] = part.numbers
    made = {}
    for alpha in sorted(found, key=float):
        whole = {
            name: {seed for seed, folds in seeds.items() if len(folds) == count} for name, seeds in found[alpha].items()
        }
        seeds = whole.get("fedavg", set()) & whole.get("local", set())
        names = [name for name in order if seeds and seeds <= whole.get(name, set())]
        if names:
            made[alpha] = {name: {seed: found[alpha][name][seed] for seed in sorted(seeds)} for name in names}
    return made
