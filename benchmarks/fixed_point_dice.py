"""Does a private federation lose Dice? FedAvg through the fixed-point sum against FedAvg with the float32 mean.

Both arms of a seed share split, initial weights and batches, so the test Dice of each patient is paired. The difference
(fixed minus float) is judged by two one-sided t-tests (TOST) over the seeds at +-MARGIN: equivalent when the larger p
is below ALPHA, which is when the 90 % interval lies inside the margin. Beside it a 90 % bootstrap over seeds, then
patients, hospitals fixed. The sum is the codec of the private jobs with its packing; what hides the words changes none.
Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680 (TOST).

    python benchmarks/fixed_point_dice.py --data lgg --json
    python benchmarks/fixed_point_dice.py --data lgg --seeds 0 --part out/0.json
    python benchmarks/fixed_point_dice.py --merge out/*.json      (parts of one data set that ran in parallel)
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from common import arguments, command, finish, root_option, say
from methods import methods
from segmentation import evaluate, open_sites, settings
from wardround.algorithms.federation import SiteSide, first_banks, run
from wardround.algorithms.schedule import Schedule
from wardround.arrays import Array, Arrays, RunningMean, norm, subtract
from wardround.core.words import WORD
from wardround.privacy.fixed_point import decode, encode, first_grid, mean_of, next_grid
from wardround.privacy.packing import Packing
from wardround.rng import stream

MARGIN, ALPHA, REPEATS = 0.02, 0.05, 2000
REFERENCE_PATIENTS = 32


@final
class FixedPointSum:
    """What the private jobs add updates with, here in one process; called with a round it is that round's `Sum`.

    clipped, error: one number per round: values clipped at all sites, ||mean - float mean|| / ||float mean||.
    """

    def __init__(self, banks: Arrays, sites: Sequence[str], bits: int, schedule: Schedule, seed: int) -> None:
        self.sites, self.schedule, self.seed = tuple(sites), schedule, seed
        self.grid = first_grid(banks, bits, weighted=True)
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
        if self.round + 1 < self.schedule.rounds:
            ratio = self.schedule.steps(self.round + 1).lr / self.schedule.steps(self.round).lr
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


def compare(parts: Sequence[Mapping[str, Any]], bits: str) -> dict[str, Any]:
    """Return the verdict on one payload: the unweighted mean over sites, every site, clipping and error per round."""
    mine = [part for part in parts if bits in part["fixed"]]
    dice = {
        arm: {site: {p["seed"]: rows(p)[site] for p in mine} for site in mine[0]["float"]}
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
        seeds = [float(np.mean([site[p["seed"]].mean() for site in chosen])) for p in mine]
        return arms | tost(seeds) | {"boot_low": low, "boot_high": high, "pairs": patients, "by_seed": seeds}

    work = [part["fixed"][bits] for part in mine]
    return row(list(paired)) | {
        "seeds": len(mine),
        "sites": {site: row([site]) for site in paired},
        "clipped": sum(sum(one["clipped"]) for one in work),
        "clipped_by_round": np.sum([one["clipped"] for one in work], axis=0).tolist(),
        "coded": sum(one["coded"] for one in work),
        "error_by_round": np.mean([one["error"] for one in work], axis=0).tolist(),
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the tables."""
    print(
        f"| {result['data']} | pairs | float32 | fixed point | difference [90 %] | bootstrap 90 % | p at -{MARGIN} "
        f"| p at +{MARGIN} | larger p | equivalent |"
    )
    print("|" + "---|" * 10)
    for bits, whole in result["rows"].items():
        for site, row in ({"mean": whole} | whole["sites"]).items():
            known = row["p"] is not None
            span = f" [{row['low']:+.4f}, {row['high']:+.4f}]" if known else ""
            ps = " | ".join(f"{row[key]:.2g}" if known else "-" for key in ("p_low", "p_high", "p"))
            print(
                f"| {bits} bits, {site} | {row['pairs']} | {row['float']:.3f} | {row['fixed']:.3f} "
                f"| {row['difference']:+.4f}{span} | [{row['boot_low']:+.4f}, {row['boot_high']:+.4f}] | {ps} "
                f"| {'yes' if row['equivalent'] else 'no'} |"
            )
    rounds = len(next(iter(result["rows"].values()))["error_by_round"])
    print("\n| payload | clipped values | " + " | ".join(f"round {r + 1}" for r in range(rounds)) + " |")
    print("|" + "---|" * (rounds + 2))
    for bits, whole in result["rows"].items():
        errors = " | ".join(f"{error:.2g}" for error in whole["error_by_round"])
        print(f"| {bits} bits | {whole['clipped']} of {whole['coded']} | {errors} |")
    print("\n(rounds: relative L2 error of the mean update, mean over seeds)")


def measure(args: Any) -> list[dict[str, Any]]:
    """Run the float arm once and every payload for each seed."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    algorithm, _, rule = methods()["fedavg"]
    options, done = settings(args.data, args.quick), []
    schedule = Schedule(**options["schedule"])
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds[:2] if args.quick else args.seeds:
            sites = open_sites(args.data, seed, options, Path(folder), args.root)
            sides = {
                site: SiteSide(lambda r, one=one: one.oracle("train", r), one.train_patients, one.layout, one.roles)
                for site, one in sites.items()
            }
            first = next(iter(sites.values()))
            blocks = first.layout.unflatten(first.model.vector.numpy().copy())

            def arm(
                name: str, sites: Any = sites, sides: Any = sides, blocks: Any = blocks, **how: Any
            ) -> dict[str, list[float]]:
                begun = time.monotonic()
                end = run(sides, algorithm, rule, schedule, blocks, **how)
                dice = {
                    site: evaluate(one, end.personal(algorithm, site, sides[site]))["test"]
                    for site, one in sites.items()
                }
                means = {site: round(float(np.mean(rows)), 4) for site, rows in dice.items()}
                say(f"{args.data}, {name}: test {means}, {time.monotonic() - begun:.0f} s")
                return dice

            part = {"data": args.data, "seed": seed, "float": arm(f"seed {seed}, float32"), "fixed": {}}
            done.append(part)
            for bits in args.bits:
                banks = first_banks(algorithm, blocks)
                total = FixedPointSum(banks, list(sides), bits, schedule, seed)
                dice = arm(f"seed {seed}, {bits} bits", new_sum=total)
                coded = schedule.rounds * len(sides) * total.grid.layout.total
                found = {"dice": dice, "clipped": total.clipped, "error": total.error, "coded": coded}
                part["fixed"][str(bits)] = found
                say(f"  clipped {total.clipped}, error {[f'{error:.1e}' for error in total.error]}")
                if args.part:
                    args.part.write_text(json.dumps(done))
    return done


def merge(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the parts of one data set, one per seed; float arms of one seed that differ are not paired: refused."""
    whole: dict[int, dict[str, Any]] = {}
    read = [part for path in paths for part in json.loads(path.read_text())]
    if len({part["data"] for part in read}) != 1:
        raise SystemExit("merge the parts of one data set at a time")
    for part in read:
        mine = whole.setdefault(part["seed"], part | {"fixed": {}})
        if mine["float"] != part["float"]:
            raise SystemExit(f"seed {part['seed']}: two float32 arms that differ; run all payloads of a seed together")
        mine["fixed"].update(part["fixed"])
    return [whole[seed] for seed in sorted(whole)]


def main() -> None:
    """Run the comparison, or merge parts of it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("phantoms", "lgg"), default="phantoms", help="which hospitals")
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="splits, weights and batches")
    parser.add_argument("--bits", type=int, nargs="+", choices=(8, 16), default=[16, 8], help="payloads")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch decides")
    parser.add_argument("--part", type=Path, help="write this run's raw scores here, to be merged later")
    parser.add_argument("--merge", type=Path, nargs="+", help="print the table of these parts, run nothing")
    args = parser.parse_args()
    done = merge(args.merge) if args.merge else measure(args)
    payloads = sorted({bits for part in done for bits in part["fixed"]}, key=int, reverse=True)
    result = {"data": done[0]["data"], "rows": {bits: compare(done, bits) for bits in payloads}}
    show(result)
    finish(result, as_json=args.json)


if __name__ == "__main__":
    command(main)
