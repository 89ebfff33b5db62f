"""Does a private federation lose Dice? FedAvg through the fixed-point sum against FedAvg with the float32 mean.

Both arms of a seed share split, initial weights and batches, so the test Dice of each patient is paired. The difference
(fixed minus float) is judged by two one-sided t-tests (TOST) over the seeds at +-MARGIN: equivalent when the larger p
is below ALPHA, which is when the 90 % interval lies inside the margin. Beside it a 90 % bootstrap over seeds, then
patients, hospitals fixed. The sum is the codec of the private jobs with its packing; what hides the words changes none.
Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680 (TOST).

    python benchmarks/fixed_point_dice.py --data lgg --json
    python benchmarks/fixed_point_dice.py --data lgg --seeds 0    (one part: seeds may run at the same time)
    python benchmarks/fixed_point_dice.py --show                  (the tables of the parts that are there)
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from common import Part, Parts, Table, arguments, command, finish, kept, one_settings, root_option, say, show, table
from methods import methods
from segmentation import evaluate, open_sites, settings
from wardround.algorithms.federation import SiteSide, first_variables, run
from wardround.algorithms.schedule import Schedule
from wardround.core.arrays import Array, Arrays, RunningMean, norm, subtract
from wardround.core.keystream import WORD
from wardround.core.rng import stream
from wardround.secagg.fixed_point import decode, encode, first_grid, mean_of, next_grid
from wardround.secagg.packing import Packing

MARGIN, ALPHA, REPEATS = 0.02, 0.05, 2000
REFERENCE_PATIENTS = 32


@final
class FixedPointSum:
    """What the private jobs add updates with, here in one process; called with a round it is that round's `Sum`.

    clipped, error: one number per round: values clipped at all sites, ||mean - float mean|| / ||float mean||.
    """

    def __init__(self, variables: Arrays, sites: Sequence[str], bits: int, schedule: Schedule, seed: int) -> None:
        self.sites, self.schedule, self.seed = tuple(sites), schedule, seed
        self.grid = first_grid(variables, bits, weighted=True)
        self.packing = Packing(self.grid.levels, len(self.sites), WORD)
        self.residuals: dict[str, Array] = {}
        self.clipped: list[int] = []
        self.error: list[float] = []

    def __call__(self, round_: int) -> FixedPointSum:
        self.round, self.exact = round_, RunningMean()
        self.words = np.zeros(self.packing.words(self.grid.fields), np.uint64)
        self.clipped.append(0)
        return self

    def add(self, update: Arrays, weight: float) -> None:
        """Add the next site's update as packed integers; what rounding leaves over waits for its next round."""
        site = self.sites[self.exact.count]
        rng = stream(self.seed, "rounding", site, self.round)
        left = self.residuals.get(site)
        coded = encode(self.grid, update, left, weight / REFERENCE_PATIENTS, int(weight), rng)
        self.words += self.packing.pack(coded.fields)
        self.residuals[site] = coded.residual
        self.clipped[-1] += coded.clipped
        self.exact.add(update, weight)

    def mean(self) -> dict[str, Array]:
        """Return the mean that the summed words hold, and agree on the next round's grid from it."""
        sums = self.packing.unpack(self.words, self.grid.fields, self.exact.count)
        totals, patients = decode(self.grid, sums)
        mean, exact = mean_of(self.grid, totals, patients / REFERENCE_PATIENTS), self.exact.mean()
        self.error.append(norm(subtract(mean, exact)) / norm(exact))
        if self.round + 1 < self.schedule.num_rounds:
            ratio = self.schedule.steps(self.round + 1).mean_rate / self.schedule.steps(self.round).mean_rate
            self.grid = next_grid(self.grid, totals, len(self.sites), ratio)
        return mean


def tost(differences: Sequence[float], margin: float = MARGIN) -> dict[str, Any]:
    """Return mean, 90 % t-interval, both one-sided p-values, the larger one, and whether |mean| < margin is shown.

    p_low tests "mean <= -margin", p_high "mean >= margin" | one number: a mean, nothing else is known
    numbers that are all equal: no spread, p is 0 inside the margin and 1 outside
    """
    from scipy import stats

    d, n = np.asarray(differences, np.float64), len(differences)
    mean = float(d.mean())
    if n < 2:
        return {"difference": mean, "low": None, "high": None, "p_low": None, "p_high": None, "p": None} | {
            "equivalent": False
        }
    spread = max(float(d.std(ddof=1)) / math.sqrt(n), 1e-12)
    half = float(stats.t.ppf(1 - ALPHA, n - 1)) * spread
    p_low = float(stats.t.sf((mean + margin) / spread, n - 1))
    p_high = float(stats.t.cdf((mean - margin) / spread, n - 1))
    p = max(p_low, p_high)
    found = {"difference": mean, "low": mean - half, "high": mean + half, "p_low": p_low, "p_high": p_high, "p": p}
    return found | {"equivalent": p < ALPHA}


def bootstrap(sites: Sequence[Mapping[int, Sequence[float]]], repeats: int = REPEATS) -> tuple[float, float]:
    """Return the 90 % interval of the mean over sites of sites[i][seed] = one difference per test patient.

    Seeds are drawn with replacement, the same for all sites; in each drawn seed its test patients at every site. Every
    seed has a split of its own: so patients are drawn anew for each (reports.intervals pairs them by their place).
    """
    rng, seeds = stream(0, "bootstrap"), sorted(sites[0])
    size = (repeats, len(seeds))
    means = np.zeros((len(seeds), *size))
    for place, seed in enumerate(seeds):
        for rows in (np.asarray(site[seed], np.float64) for site in sites):
            means[place] += rows[rng.integers(len(rows), size=(*size, len(rows)))].mean(axis=-1) / len(sites)
    drawn = np.take_along_axis(means, rng.integers(len(seeds), size=size)[None], axis=0)[0].mean(axis=1)
    low, high = np.percentile(drawn, (100 * ALPHA, 100 * (1 - ALPHA)))
    return float(low), float(high)


def compare(parts: Sequence[Part], bits: str) -> dict[str, Any]:
    """Return the verdict on one payload: the unweighted mean over sites, every site, clipping and error per round."""
    mine = [part for part in parts if bits in part.numbers["fixed"]]
    dice = {
        arm: {site: {p.key["seed"]: rows(p.numbers)[site] for p in mine} for site in mine[0].numbers["float"]}
        for arm, rows in (("float", lambda p: p["float"]), ("fixed", lambda p: p["fixed"][bits]["dice"]))
    }
    paired = {
        site: {seed: np.subtract(dice["fixed"][site][seed], rows) for seed, rows in seeds.items()}
        for site, seeds in dice["float"].items()
    }

    def row(names: Sequence[str]) -> dict[str, Any]:
        chosen = [paired[site] for site in names]
        low, high = bootstrap(chosen)
        arms = {
            arm: float(np.mean([np.mean(rows) for site in names for rows in dice[arm][site].values()])) for arm in dice
        }
        patients = sum(len(rows) for site in chosen for rows in site.values())
        seeds = [float(np.mean([site[p.key["seed"]].mean() for site in chosen])) for p in mine]
        return arms | tost(seeds) | {"boot_low": low, "boot_high": high, "pairs": patients, "by_seed": seeds}

    work = [part.numbers["fixed"][bits] for part in mine]
    return row(list(paired)) | {
        "seeds": len(mine),
        "sites": {site: row([site]) for site in paired},
        "clipped": sum(sum(one["clipped"]) for one in work),
        "clipped_by_round": np.sum([one["clipped"] for one in work], axis=0).tolist(),
        "coded": sum(one["coded"] for one in work),
        "error_by_round": np.mean([one["error"] for one in work], axis=0).tolist(),
    }


def rows_of(parts: Sequence[Part]) -> dict[str, Any]:
    """Return payload -> verdict; one_settings: a seed of one schedule is not paired with that of another."""
    one_settings(parts)
    payloads = sorted({bits for part in parts for bits in part.numbers["fixed"]}, key=int, reverse=True)
    return {bits: compare(parts, bits) for bits in payloads}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the verdicts on every data set, payload and hospital; clipping and error by round of each data set."""
    cells, errors, made = [], [], {}
    for data in sorted({part.key["data"] for part in parts}):
        mine = [part for part in parts if part.key["data"] == data]
        for bits, whole in rows_of(mine).items():
            for site, row in ({"mean": whole} | whole["sites"]).items():
                known = row["p"] is not None
                span = f" [{row['low']:+.4f}, {row['high']:+.4f}]" if known else ""
                boot = f"[{row['boot_low']:+.4f}, {row['boot_high']:+.4f}]"
                p = f"{row['p']:.2g}" if known else "-"
                cells.append([data, bits, site, f"{row['float']:.3f}", f"{row['fixed']:.3f}"])
                cells[-1] += [f"{row['difference']:+.4f}{span}", boot, p, "yes" if row["equivalent"] else "**no**"]
            by_round = ", ".join(f"{error:.2g}" for error in whole["error_by_round"])
            errors.append([data, bits, f"{whole['clipped']} of {whole['coded']}", by_round])
    heads = ["data", "bits", "hospital", "float32", "fixed point", "difference [90 %]", "bootstrap 90 %", "p"]
    made["equivalence"] = table([*heads, "equivalent"], cells, parts)
    heads = ["data", "bits", "clipped values", "relative error of the mean update, by round"]
    return made | {"error": table(heads, errors, parts)}


def measure(args: Any, parts: Parts) -> None:
    """Run the float arm once, and every payload beside it, for each seed."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    options = settings(args.data, args.quick) | {"bits": args.bits}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            key = {"data": args.data, "seed": seed}
            if parts.missing(key, options):
                sites = open_sites(args.data, seed, options, Path(folder), args.root)
                parts.measure(key, options, partial(one_seed, sites, seed, Schedule(**options["schedule"]), args.bits))


def one_seed(sites: Mapping[str, Any], seed: int, schedule: Schedule, payloads: Sequence[int]) -> dict[str, Any]:
    """Return the test Dice of float32, and of every payload with its clipped values and errors.

    All arms of a seed run in this one process: two float32 runs on different machines may differ, and then nothing is
    paired.
    """
    algorithm, _, server_optimizer = methods()["fedavg"]
    sides = {
        site: SiteSide(lambda r, one=one: one.objective("train", r), one.train_patients, one.layout, one.roles)
        for site, one in sites.items()
    }
    first = next(iter(sites.values()))
    blocks = first.layout.unflatten(first.model.vector.numpy().copy())

    def arm(name: str, **how: Any) -> dict[str, list[float]]:
        begun = time.monotonic()
        end = run(sides, algorithm, server_optimizer, schedule, blocks, **how)
        dice = {site: evaluate(one, end.personal(algorithm, site, sides[site]))["test"] for site, one in sites.items()}
        means = {site: round(float(np.mean(rows)), 4) for site, rows in dice.items()}
        say(f"seed {seed}, {name}: test {means}, {time.monotonic() - begun:.0f} s")
        return dice

    found: dict[str, Any] = {"float": arm("float32"), "fixed": {}}
    for bits in payloads:
        total = FixedPointSum(first_variables(algorithm, blocks), list(sides), bits, schedule, seed)
        dice = arm(f"{bits} bits", new_sum=total)
        coded = schedule.num_rounds * len(sides) * total.grid.layout.total
        found["fixed"][str(bits)] = {"dice": dice, "clipped": total.clipped, "error": total.error, "coded": coded}
    return found


def main() -> None:
    """Run what is missing, and print the tables of the parts that are there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("phantoms", "lgg"), default="phantoms", help="which hospitals")
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="splits, weights and batches")
    parser.add_argument("--bits", type=int, nargs="+", choices=(8, 16), default=[16, 8], help="payloads")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch decides")
    args = parser.parse_args()
    args.seeds = args.seeds[:2] if args.quick else args.seeds
    with kept("fixed_point_dice", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    mine = [part for part in done if part.key["data"] == args.data]
    finish({"data": args.data, "rows": rows_of(mine)}, as_json=args.json)


if __name__ == "__main__":
    command(main)
