"""Do adaptive scales help? Isotropic against adaptive hospital-level noise at the same mu, on a model whose Fisher is known.

Hospital i holds f_i(w) = 1/2 sum_j h_j (w_j - c_ij)^2 with public curvatures h (its Fisher); it takes WORK gradient steps
a round. The mean model's excess loss 1/2 sum_j h_j (w_j - mean c_j)^2 after all rounds is the result. Arms:

    isotropic   s = 1
    oracle      s from h and from the true v of round 0, which nobody could publish: the best that can be hoped for
    lagged      s from h and from v of the means released before, noise taken off: free; round 0 is isotropic
    bought      s from h and from one noised energy histogram, paid with a tenth of mu^2

Every arm and case gets the clip that is best for it on other seeds, from the same list. What is printed: the ratio of the
final losses, adaptive over isotropic, geometric mean over seeds with a 95 % t-interval of its logarithm; below 1: a gain.
Cases: how far the start is from the optimum, by group, and how curvature is spread. `one_step` has v close to h.

    python benchmarks/adaptive_noise.py --json
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from common import Part, Table, arguments, command, finish, kept, known, one_settings, show, table
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.rng import stream
from wardround.dp.accounting import for_gaussians, mu_for
from wardround.dp.hospital_dp import HospitalDP, privatise
from wardround.dp.scales import (
    by_block,
    energy,
    groups_of,
    isotropic,
    scales,
    sizes_of,
    squares,
    squares_of_energy,
    squares_of_mean,
)
from wardround.secagg.fixed_point import fixed_grid, mean_of

EPSILON, DELTA, PRICE = 8.0, 1e-5, 0.1
ARMS = ("isotropic", "oracle", "lagged", "bought")
TITLES = {
    "oracle": "scales nobody could publish (oracle)",
    "lagged": "from what was released before",
    "bought": "bought with a tenth of mu^2",
    "equal_distance": "steep and flat groups, equal distance",
    "equal_loss": "steep and flat groups, equal loss",
    "one_step": "updates proportional to the gradient",
    "same_curvature": "one curvature everywhere",
    "few_far": "few values far from their optimum",
}
CLIPS = (1 / 64, 1 / 32, 1 / 16, 0.125, 0.25, 0.5, 1.0)
SIZES = (8, 8, 16, 16, 32, 32, 8, 64, 16, 64, 8, 128)
SITES, ROUNDS, WORK, SPREAD = 10, 20, 20, 0.3
Blocks = dict[str, Array]
Scales = Mapping[str, float]


@final
@dataclass(frozen=True)
class Case:
    """h and the typical distance from start to optimum, by group; gradient steps a round and their rate."""

    curvature: tuple[float, ...]
    distance: tuple[float, ...]
    work: int
    rate: float


def moved(weights: Arrays, mean: Arrays, scales: Mapping[str, float]) -> dict[str, Array]:
    """Return w + s U / n for the blocks of `mean` (U / n), the others as they are."""
    found = dict(weights)
    for name, block in mean.items():
        step = weights[name].astype(np.float64) + scales[name] * block.astype(np.float64)
        found[name] = step.astype(np.float32)
    return found


def cases() -> dict[str, Case]:
    """Return the models that are compared. Curvatures span a factor of 1000, in an order that is not the sizes'."""
    order = (5, 0, 9, 3, 11, 1, 7, 4, 10, 2, 8, 6)
    h = tuple(10 ** (3 * place / 11 - 2) for place in order)
    flat = tuple(1.0 for _ in h)
    return {
        "equal_distance": Case(h, flat, WORK, 0.1),
        "equal_loss": Case(h, tuple(1 / math.sqrt(value) for value in h), WORK, 0.1),
        "one_step": Case(h, tuple(1 / math.sqrt(value) for value in h), 1, 0.1),
        "same_curvature": Case(flat, flat, WORK, 0.1),
        "few_far": Case(flat, tuple(10.0 if place % 4 == 0 else 0.1 for place in order), WORK, 0.1),
    }


@final
class Federation:
    """One case with one seed's optima: local work, the noised sum, and the loss of the mean model."""

    def __init__(self, case: Case, seed: int, sites: int) -> None:
        self.layout = Layout(tuple(f"g{k}" for k in range(len(SIZES))), tuple((size,) for size in SIZES))
        self.groups, self.case, self.sites = groups_of(self.layout), case, sites
        self.h, far = (np.repeat(np.array(values), SIZES) for values in (case.curvature, case.distance))
        rng = stream(seed, "adaptive noise", "optima")
        middle = rng.normal(0, 1, self.layout.total) * far
        self.optima = middle + SPREAD * rng.normal(0, 1, (sites, self.layout.total)) * far

    def differences(self, w: Blocks) -> list[Blocks]:
        """Return every site's D after its gradient steps."""
        pull = 1 - (1 - self.case.rate * self.h) ** self.case.work
        return [self.layout.unflatten((pull * (c - self.layout.flatten(w))).astype(np.float32)) for c in self.optima]

    def loss(self, w: Blocks) -> float:
        """Return the excess loss of w."""
        return float(0.5 * np.sum(self.h * (self.layout.flatten(w) - self.optima.mean(axis=0)) ** 2))

    def scales_for(self, v: Sequence[float]) -> dict[str, float]:
        """Return the scales of every block for these mean squared updates."""
        h = [self.case.curvature[name] for name in range(len(SIZES))]
        by_group = [0.0] * len(h)
        for block, group in enumerate(self.groups):
            by_group[group] = h[block]
        return by_block(self.layout, self.groups, scales(v, by_group, sizes_of(self.layout, self.groups)))

    def mean(self, promise: HospitalDP, updates: Sequence[Blocks], s: Scales, layout: Layout) -> Blocks:
        """Return U / n as all sites read it off the summed integers."""
        total: NDArray[np.int64] = np.zeros(layout.total, np.int64)
        for update in updates:
            released = privatise(promise, update, s).update
            total += np.rint(layout.flatten(released).astype(np.float64) / promise.step).astype(np.int64)
        return mean_of(fixed_grid(layout, promise), total, len(updates))

    def first_scales(self, arm: str, promise: HospitalDP) -> dict[str, float]:
        """Return the scales of round 0; `bought` pays for them here."""
        start = self.layout.unflatten(np.zeros(self.layout.total, np.float32))
        found = self.differences(start)
        if arm == "oracle":
            each = [squares(self.layout, self.groups, one) for one in found]
            return self.scales_for([float(value) for value in np.mean(each, axis=0)])
        if arm == "bought":
            z0 = 1 / math.sqrt(PRICE) / mu_for(EPSILON, for_gaussians(DELTA))
            paid = replace(promise, max_update_norm=1.0, noise_multiplier=z0)
            layout = Layout(("energy",), ((max(self.groups) + 1,),))
            parts = [{"energy": energy(self.layout, self.groups, one)} for one in found]
            histogram = self.mean(paid, parts, {"energy": 1.0}, layout)["energy"]
            noise = paid.deviation / math.sqrt(self.sites)
            return self.scales_for(squares_of_energy(histogram, sizes_of(self.layout, self.groups), noise))
        return isotropic(self.layout)

    def run(self, arm: str, clip: float, num_rounds: int) -> float:
        """Return the final loss. clip: over the median norm of the first scaled updates, for this arm's scales."""
        mu = mu_for(EPSILON, for_gaussians(DELTA)) * (math.sqrt(1 - PRICE) if arm == "bought" else 1.0)
        promise = HospitalDP(1.0, math.sqrt(num_rounds) / mu, self.sites, self.sites, 0, distributed=True, bits=16)
        w, s = self.layout.unflatten(np.zeros(self.layout.total, np.float32)), self.first_scales(arm, promise)
        norms = [
            math.sqrt(sum(float(np.sum((block.astype(float) / s[name]) ** 2)) for name, block in one.items()))
            for one in self.differences(w)
        ]
        promise = replace(promise, max_update_norm=clip * float(np.median(norms)))
        known = np.zeros(max(self.groups) + 1)
        for round_ in range(num_rounds):
            mean = self.mean(promise, self.differences(w), s, self.layout)
            w = moved(w, mean, s)
            if arm == "lagged":
                noise = promise.deviation / math.sqrt(self.sites)
                known += squares_of_mean(self.layout, self.groups, mean, s, noise)
                s = self.scales_for((known / (round_ + 1)).tolist())
        return self.loss(w)


def interval(logs: Sequence[float]) -> dict[str, float]:
    """Return the geometric mean of ratios and its 95 % t-interval, from their logarithms."""
    from scipy.stats import t

    values, n = np.asarray(logs, np.float64), len(logs)
    half = float(t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    middle = float(values.mean())
    return {"ratio": math.exp(middle), "low": math.exp(middle - half), "high": math.exp(middle + half), "seeds": n}


def compare(case: Case, tuning: int, seeds: int, num_rounds: int, sites: int) -> dict[str, Any]:
    """Return each arm's clip, its loss over the loss before training, and its ratio to isotropic."""
    losses: dict[str, list[float]] = {}
    clips: dict[str, float] = {}
    for arm in ARMS:

        def tuned(clip: float, arm: str = arm) -> float:
            found = [
                math.log(Federation(case, 1000 + seed, sites).run(arm, clip, num_rounds)) for seed in range(tuning)
            ]
            return float(np.mean(found))

        clips[arm] = min(CLIPS, key=tuned)
        losses[arm] = [Federation(case, seed, sites).run(arm, clips[arm], num_rounds) for seed in range(seeds)]
    zero = {f"g{k}": np.zeros(size, np.float32) for k, size in enumerate(SIZES)}
    start = [Federation(case, seed, sites).loss(zero) for seed in range(seeds)]
    return {
        arm: {
            "clip": clips[arm],
            "left": interval(np.log(np.divide(found, start)).tolist()),
            "against_isotropic": interval(np.log(np.divide(found, losses["isotropic"])).tolist()),
        }
        for arm, found in losses.items()
    }


def bound(case: Case) -> float:
    """Return what theory says of one round's error at best: (sum d sqrt(v h))^2 / (sum d v sum d h), v of round 0."""
    h, d = np.array(case.curvature), np.array(SIZES)
    v = ((1 - (1 - case.rate * h) ** case.work) * np.array(case.distance)) ** 2
    return float(np.sum(d * np.sqrt(v * h)) ** 2 / (np.sum(d * v) * np.sum(d * h)))


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the ratio to isotropic of every case and arm; and each arm's clip and the loss that is left."""
    one_settings(parts)
    known(parts, "case", cases())
    found = {part.key["case"]: part.numbers for part in parts}
    order = [name for name in cases() if name in found]
    ratios = []
    for name in order:
        arms = found[name]["arms"]
        shown = [_span(arms[arm]["against_isotropic"]) for arm in ARMS[1:]]
        ratios.append([TITLES[name], *shown, f"{found[name]['theory']:.3f}"])
    rows = [
        [name, arm, f"{row['clip']:g}", _span(row["left"])]
        for name in order
        for arm, row in found[name]["arms"].items()
    ]
    return {
        "ratios": table(["case", *(TITLES[arm] for arm in ARMS[1:]), "theory, one round"], ratios, parts),
        "losses": table(["case", "arm", "clip / median norm", "loss left [95 %]"], rows, parts),
    }


def _span(one: Mapping[str, float]) -> str:
    """Return a ratio with its interval."""
    return f"{one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def main() -> None:
    """Run the cases that are missing, and print the tables."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=20, help="optima and noise")
    parser.add_argument("--sites", type=int, default=SITES, help="hospitals in every sum")
    args = parser.parse_args()
    tuning, seeds, rounds = (1, 3, 5) if args.quick else (5, args.seeds, ROUNDS)
    options = {"epsilon": EPSILON, "delta": DELTA, "sites": args.sites, "rounds": rounds}
    options |= {"seeds": seeds, "tuning": tuning}
    with kept("adaptive_noise", args) as parts:
        for name, case in () if args.show else tuple(cases().items()):
            parts.measure({"case": name}, options, partial(one_case, case, tuning, seeds, rounds, args.sites))
        done = parts.read()
    show(tables(done))
    finish({"cases": {part.key["case"]: part.numbers for part in done}}, as_json=args.json)


def one_case(case: Case, tuning: int, seeds: int, num_rounds: int, sites: int) -> dict[str, Any]:
    """Return what theory says of one round, and every arm."""
    return {"theory": bound(case), "arms": compare(case, tuning, seeds, num_rounds, sites)}


if __name__ == "__main__":
    command(main)
