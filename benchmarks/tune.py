"""Tune every method on VALIDATION patients with the same small budget, on a split that the tables do not use (seed 100).

Every method gets three values of its own parameter at the shared schedule; the winner goes into benchmarks/methods.py.

    python benchmarks/tune.py --data lgg --json
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import Part, Parts, Table, arguments, command, finish, kept, known, one_settings, root_option, show, table
from methods import MEAN, method
from segmentation import open_sites, settings

SEED = 100
RATES = (0.01,)


def grid() -> dict[str, tuple[Any, Any, Any, float]]:
    """Return label -> (algorithm, sharing, rule, learning rate).

    Per-FedAvg and KL masks get as many values as the others, and `work` counts gradient evaluations for all of them.
    """
    from wardround.algorithms.alternating import Alternating
    from wardround.algorithms.ditto import Ditto
    from wardround.algorithms.fedavg import FedAvg
    from wardround.algorithms.fedprox import FedProx
    from wardround.algorithms.per_fedavg import PerFedAvg
    from wardround.algorithms.server_optimizers import FedAdam
    from wardround.algorithms.sharing import EVERYTHING, Roles

    rows: dict[str, tuple[Any, Any, Any, float]] = {
        f"fedavg lr={lr}": (FedAvg(), EVERYTHING, MEAN, lr) for lr in (0.02, 0.05, 0.1)
    }
    rows |= {f"fedprox mu={mu}": (FedProx(mu), EVERYTHING, MEAN, 0.05) for mu in (0.001, 0.01, 0.1)}
    rows |= {f"ditto lam={lam}": (Ditto(lam), EVERYTHING, MEAN, 0.05) for lam in (0.01, 0.1, 1.0)}
    rows |= {f"fedrep share={s}": (Alternating(s), Roles(("head",)), MEAN, 0.05) for s in (0.1, 0.25, 0.5)}
    rows |= {f"perfedavg alpha={a}": (PerFedAvg(a, "FO", 0.001), EVERYTHING, MEAN, 0.05) for a in (0.003, 0.01, 0.03)}
    rows |= {f"fedopt lr={s}": (FedAvg(), EVERYTHING, FedAdam(s, 0.9, 0.99, 0.001), 0.05) for s in (0.003, 0.01, 0.03)}
    labels = [f"perfedavg_hf alpha={a}" for a in (0.003, 0.01, 0.03)]
    labels += [f"klmask enter={e}" for e in (1.0, 1.5, 2.0)] + [f"mrmtl lam={lam}" for lam in (0.01, 0.1, 1.0)]
    labels += [f"fedavgm momentum={m}" for m in (0.3, 0.5, 0.9)] + [f"fedyogi lr={s}" for s in (0.003, 0.01, 0.03)]
    return rows | {label: (*method(label), 0.05) for label in labels}


def one_row(label: str, sites: Mapping[str, Any], initial: Any, options: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean validation Dice over hospitals: plain, and after the k of fine-tuning that is best there."""
    from wardround.algorithms.base import Steps
    from wardround.algorithms.finetune import fine_tune
    from wardround.algorithms.schedule import Schedule
    from wardround.research.in_process import InProcessFederation

    algorithm, sharing, server_optimizer, lr = grid()[label]
    ks = tuple(k for k in options["ks"] if k)
    together = InProcessFederation(
        sites, algorithm, server_optimizer, Schedule(**(options["schedule"] | {"lr": lr})), sharing=sharing
    )
    models = together.models(together.run(initial))
    plain, tuned = [], {rate: [] for rate in RATES}
    for name, start in models.items():
        one = sites[name]
        plain.append(one.score(start, one.split.val))
        for rate, best in tuned.items():
            found = fine_tune(start, one.objective("fine-tune"), ks, Steps(work=max(ks), lr=rate))
            best.append(max(one.score(w, one.split.val) for w in found.values()))
    return {"plain": float(np.mean(plain))} | {f"tuned {r}": float(np.mean(v)) for r, v in tuned.items()}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the rows of every data set."""
    known(parts, "row", grid())
    made = {}
    for data in sorted({part.key["data"] for part in parts}):
        mine = {part.key["row"]: part for part in parts if part.key["data"] == data}
        one_settings(list(mine.values()))
        order = [label for label in grid() if label in mine]
        heads = ["setting", *mine[order[0]].numbers]
        rows = [[label, *(f"{value:.3f}" for value in mine[label].numbers.values())] for label in order]
        made[data] = table(heads, rows, list(mine.values()))
    return made


def main() -> None:
    """Run the rows that are missing, and print the tables of those that are there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("phantoms", "lgg"), help="default: lgg; with --quick: phantoms")
    root_option(parser)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose label begins with one of these")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    with kept("tune", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({part.name: part.numbers for part in done}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the rows that are asked for and not there yet."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    data = args.data or ("phantoms" if args.quick else "lgg")
    options = settings(data, args.quick)
    if not args.quick:
        options["schedule"] |= {"num_rounds": 5}
    labels = list(grid())[:2] if args.quick else list(grid())
    keys = [{"data": data, "row": one} for one in labels if not args.only or one.startswith(tuple(args.only))]
    keys = [key for key in keys if parts.missing(key, options)]
    with tempfile.TemporaryDirectory() as folder:
        sites = open_sites(data, SEED, options, Path(folder), args.root) if keys else {}
        for key in keys:
            if key is keys[0]:
                # Scoring loads other weights into the site's network: keep what it began with.
                initial = next(iter(sites.values())).model.vector.clone()
            parts.measure(key, options, partial(one_row, key["row"], sites, initial, options))


if __name__ == "__main__":
    command(main)
