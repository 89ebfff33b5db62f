"""How many rounds and bytes until the model is as good as FedAvg in float32 becomes? From scratch,
from the warm start, by method.

Written down before anything was measured. The hospitals, the schedule (20 rounds of 8 gradient
evaluations) and the mark are those of compression.py: four unequal phantom hospitals; the mark
is 95 % of the validation Dice with which FedAvg from scratch ends, with the same seed. Bytes
are payload of every site, up and down, and the first weights once; a warm start that every site
has installed is not sent, but is counted all the same. GOAL: from the warm start at most half
of the rounds that FedAvg needs from scratch. What the warm start itself cost is paid once, on
synthetic patients, by whoever ships the package; it stands beside the table. Methods that leave
each hospital a model of its own (Per-FedAvg, KL masks) are measured by that model, at equal
work.

    python benchmarks/to_target.py
    python benchmarks/to_target.py --starts scratch warm --arms fedavg quantise_4 perfedavg_fo
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import compression
from common import (
    Part,
    Parts,
    Table,
    arguments,
    command,
    finish,
    kept,
    met_or_not,
    one_settings,
    run_missing,
    show,
    table,
)
from compression_arms import arms
from learners import network, title
from methods import methods
from wardround.research.parts import add_options

# FedAvg with every compression of compression.py, and other methods in float32.
COMPRESSED = ("fedavg", "quantise_8", "quantise_4", "top_k_10", "fedavg_x2")
OTHERS = ("perfedavg_fo", "perfedavg_hf", "klmask")
STARTS = ("scratch", "warm")
GOAL = 0.5


def measure(quick: bool, threads: int, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validation Dice after each round, and the bytes of each way."""
    import torch

    from wardround.models.flat import first_weights

    torch.set_num_threads(threads)
    options = compression.QUICK if quick else compression.FULL
    with tempfile.TemporaryDirectory() as folder:
        sites = compression.open_sites(key["seed"], options, Path(folder))
        # The quick network has other channels, for which there is no warm start.
        initial = None if key["start"] == "scratch" else first_weights(network("warm"), key["seed"])
        if key["arm"] in arms():
            return compression.measure(key["arm"], key["seed"], options, sites, initial)
        return other(key["arm"], key["seed"], options, sites, initial)


def other(method: str, seed: int, options: Mapping[str, Any], sites: Mapping[str, Any], initial: Any) -> dict[str, Any]:
    """Return the same of a method of methods.py in float32: every round sends the whole model up and down."""
    from wardround.algorithms.federation import first_variables
    from wardround.algorithms.schedule import Schedule
    from wardround.core.arrays import size_bytes
    from wardround.models.flat import first_weights
    from wardround.models.nets import UNet3d
    from wardround.research.in_process import InProcessFederation

    algorithm, sharing, server_optimizer = methods()[method]
    schedule = Schedule(
        num_rounds=options["rounds"],
        work=options["work"],
        lr=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
        clip_norm=10.0,
        decay="cosine",
    )
    if initial is None:
        initial = first_weights(UNet3d(channels=tuple(options["channels"])), seed)
    together = InProcessFederation(sites, algorithm, server_optimizer, schedule, sharing=sharing)
    curve: list[float] = []

    def on_round(round_: int, result: Any) -> None:
        models = together.models(result)
        curve.append(float(np.mean([one.score(models[site], one.split.val) for site, one in sites.items()])))

    together.run(initial, on_round)
    layout = next(iter(sites.values())).layout
    size = size_bytes(first_variables(algorithm, layout.unflatten(initial.numpy().copy()))) * len(sites)
    ways = {"up": [size] * len(curve), "down": [size] * len(curve)}
    return {"val": curve, "bytes": {"plain": ways}, "first": size}


def rows_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return one row for each arm and start: rounds and bytes to the mark, as shares of FedAvg's from scratch."""
    base = {part.key["seed"]: part for part in parts if part.key["arm"] == "fedavg" and part.key["start"] == "scratch"}
    rows = []
    for start in STARTS:
        for arm in (*COMPRESSED, *OTHERS):
            mine = {
                p.key["seed"]: p
                for p in parts
                if (p.key["arm"], p.key["start"]) == (arm, start) and p.key["seed"] in base
            }
            if not mine:
                continue
            reached, shares = {}, []
            for seed, part in mine.items():
                mark = compression.MARK * base[seed].numbers["val"][-1]
                reached[seed] = compression.to_mark(part, "plain", mark)
                theirs = compression.to_mark(base[seed], "plain", mark)
                if reached[seed] is not None and theirs is not None:
                    shares.append((reached[seed][0] / theirs[0], reached[seed][1] / theirs[1]))
            whole = len(shares) == len(mine)
            rows.append(
                {
                    "arm": arm,
                    "start": start,
                    "rounds": [None if one is None else one[0] for one in reached.values()],
                    "rounds_share": float(np.mean([one[0] for one in shares])) if whole else None,
                    "bytes_share": float(np.mean([one[1] for one in shares])) if whole else None,
                    "last": float(np.mean([part.numbers["val"][-1] for part in mine.values()])),
                }
            )
    return rows


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the rows, and what the warm start cost."""
    one_settings(parts)
    lines = []
    for one in rows_of(parts):
        rounds = ", ".join("never" if n is None else str(n) for n in one["rounds"])
        shares = ["-" if one[name] is None else f"{one[name]:.2f}" for name in ("rounds_share", "bytes_share")]
        met = one["rounds_share"] is not None and one["rounds_share"] <= GOAL
        goal = "" if one["start"] == "scratch" else met_or_not(met)
        name = title(one["arm"]) if one["arm"] in (*OTHERS, "fedavg") else f"FedAvg, {one['arm']}"
        lines.append([name, one["start"], rounds, *shares, f"{one['last']:.3f}", goal])
    card = warm_start()
    if any(part.key["start"] == "warm" for part in parts):
        lines.append(
            [
                "the warm start itself",
                "",
                f"{card['steps']} steps, {card['seconds']} s, once",
                "-",
                "-",
                "-",
                "",
            ]
        )
    heads = [
        "method",
        "start",
        "rounds to the mark, by seed",
        "of FedAvg's from scratch",
        "bytes, of FedAvg's",
    ]
    return {"target": table([*heads, "last validation Dice", f"<= {GOAL} of the rounds"], lines, parts)}


def warm_start() -> Mapping[str, Any]:
    """Return what the package says about the shipped weights."""
    from wardround.models import shipped

    return shipped.card("randomised_phantoms")


def main() -> None:
    """Run what is missing; exit code 1 where a part failed."""
    parser = arguments(__doc__ or "")
    add_options(parser)
    parser.add_argument(
        "--arms",
        nargs="+",
        default=[*COMPRESSED, *OTHERS],
        choices=[*COMPRESSED, *OTHERS],
        help="rows",
    )
    parser.add_argument("--starts", nargs="+", default=["scratch"], choices=STARTS, help="first weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights and batches")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a part")
    args = parser.parse_args()
    if args.quick:
        args.arms, args.starts, args.seeds = ["fedavg", "quantise_8", "klmask"], ["scratch"], [0]
    with kept("to_target", args) as parts:
        failures = [] if args.show else run(args, parts)
        done = parts.read()
    show(tables(done))
    finish({"rows": rows_of(done)}, as_json=args.json)
    if failures:
        raise SystemExit(1)


def run(args: Any, parts: Parts) -> list[Any]:
    """Measure the parts that are not there yet; return those that failed."""
    options = compression.QUICK if args.quick else compression.FULL
    keys = [
        {"arm": arm, "start": start, "seed": seed} for start in args.starts for seed in args.seeds for arm in args.arms
    ]
    return run_missing(partial(measure, args.quick, args.threads), keys, options, parts, args)


if __name__ == "__main__":
    command(main)
