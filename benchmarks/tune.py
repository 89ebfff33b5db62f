"""Tune every method on VALIDATION patients with the same small budget, on a split that the tables do not use (seed 100).

Every method gets three values of its own parameter at the shared schedule; the winner goes into benchmarks/methods.py.

    python benchmarks/tune.py --data lgg --json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, command, finish, root_option, say
from methods import MEAN
from segmentation import open_sites, settings

SEED = 100
RATES = (0.01,)


def grid() -> dict[str, tuple[Any, Any, Any, float]]:
    """Return label -> (algorithm, sharing, rule, learning rate)."""
    from wardround.algorithms.alternating import Alternating
    from wardround.algorithms.ditto import Ditto
    from wardround.algorithms.fedavg import FedAvg
    from wardround.algorithms.fedprox import FedProx
    from wardround.algorithms.per_fedavg import PerFedAvg
    from wardround.algorithms.rules import FedAdam
    from wardround.algorithms.sharing import EVERYTHING, Roles

    rows: dict[str, tuple[Any, Any, Any, float]] = {
        f"fedavg lr={lr}": (FedAvg(), EVERYTHING, MEAN, lr) for lr in (0.02, 0.05, 0.1)
    }
    rows |= {f"fedprox mu={mu}": (FedProx(mu), EVERYTHING, MEAN, 0.05) for mu in (0.001, 0.01, 0.1)}
    rows |= {f"ditto lam={lam}": (Ditto(lam), EVERYTHING, MEAN, 0.05) for lam in (0.01, 0.1, 1.0)}
    rows |= {f"fedrep share={s}": (Alternating(s), Roles(("head",)), MEAN, 0.05) for s in (0.1, 0.25, 0.5)}
    rows |= {f"perfedavg alpha={a}": (PerFedAvg(a, "FO", 0.001), EVERYTHING, MEAN, 0.05) for a in (0.003, 0.01, 0.03)}
    rows |= {f"fedopt lr={s}": (FedAvg(), EVERYTHING, FedAdam(s, 0.9, 0.99, 0.001), 0.05) for s in (0.003, 0.01, 0.03)}
    return rows


def main() -> None:
    """Print the mean validation Dice over hospitals of every row: plain, and after the k of fine-tuning that is best there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("phantoms", "lgg"), help="default: lgg; with --quick: phantoms")
    root_option(parser)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose label begins with one of these")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    import torch

    from wardround.algorithms.base import Steps
    from wardround.algorithms.finetune import fine_tune
    from wardround.algorithms.schedule import Schedule
    from wardround.hospital.consortium import Consortium

    if args.threads:
        torch.set_num_threads(args.threads)
    data = args.data or ("phantoms" if args.quick else "lgg")
    options = settings(data, args.quick)
    if not args.quick:
        options["schedule"] |= {"rounds": 5}
    ks = tuple(k for k in options["ks"] if k)
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sites = open_sites(data, SEED, options, Path(folder), args.root)
        first = next(iter(sites.values()))
        initial = first.model.vector.clone()
        rows = list(grid().items())
        for label, (algorithm, sharing, rule, lr) in rows[:2] if args.quick else rows:
            if args.only and not label.startswith(tuple(args.only)):
                continue
            together = Consortium(
                sites, algorithm, rule, Schedule(**(options["schedule"] | {"lr": lr})), sharing=sharing
            )
            models = together.models(together.run(initial))
            plain, tuned = [], {rate: [] for rate in RATES}
            for name, start in models.items():
                one = sites[name]
                plain.append(one.score(start, one.split.val))
                for rate, best in tuned.items():
                    found = fine_tune(start, one.oracle("fine-tune"), ks, Steps(work=max(ks), lr=rate))
                    best.append(max(one.score(w, one.split.val) for w in found.values()))
            result[label] = {"plain": float(np.mean(plain))} | {
                f"tuned {r}": float(np.mean(v)) for r, v in tuned.items()
            }
            say(f"{label}: {result[label]}")
    print("| setting | " + " | ".join(next(iter(result.values()))) + " |")
    for label, row in result.items():
        print(f"| {label} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    finish(result, as_json=args.json)


if __name__ == "__main__":
    command(main)
