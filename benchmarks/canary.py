"""Is the hospital-level promise true? A canary hospital takes part or sends zero, and the best attacker has to tell which.

Every run is a whole job of ROUNDS rounds: all hospitals clip, scale, add noise and round with the package's own code, the
integers are packed, added and unpacked, and one hospital that knows everything but the other hospitals' noise reads the
sums. Its statistic is the likelihood ratio of the two Gaussian worlds (a matched filter), its threshold is taken from
runs of their own. Clopper-Pearson bounds on its error rates give mu >= Phi^-1(1 - FPR) - Phi^-1(FNR), at confidence
1 - ERROR for both together. Each control is a mechanism that claims too much; the audit has to flag it.
Sources: Dong et al. 2022, arXiv:1905.02383 (trade-off); Nasr et al. 2023, arXiv:2302.07956 (audits of mu).

    python benchmarks/canary.py --json
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import final

import numpy as np
from numpy.typing import NDArray

from common import Part, Table, arguments, command, finish, kept, known, one_settings, show, table
from wardround.core.keystream import WORD
from wardround.core.rng import stream
from wardround.dp.accounting import mu_of
from wardround.dp.hospital_dp import HospitalDP, clipped, noised
from wardround.dp.releases import GaussianRelease
from wardround.dp.scales import scales
from wardround.secagg.packing import Packing

ERROR, RUNS, QUICK_RUNS, ROUNDS, VALUES = 1e-6, 10_000, 1_000, 4, 16
PROMISE = HospitalDP(
    max_update_norm=0.5, noise_multiplier=1.0, sites=6, min_clients=4, colluders=0, distributed=True, bits=8
)
SCALES = np.repeat(scales((4.0, 1.0, 0.02, 0.3), (0.1, 1.0, 1.0, 5.0), (4,) * 4), 4)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[bool, int], Floats]


@final
@dataclass(frozen=True)
class Audit:
    """What `runs` runs in each world show: at the confidence asked for, mu is at least `lower`."""

    claimed: float
    lower: float
    fpr: float
    fnr: float
    runs: int

    @property
    def flagged(self) -> bool:
        """Tell whether the claim is refuted."""
        return self.lower > self.claimed


def upper(count: int, runs: int, error: float) -> float:
    """Return the one-sided Clopper-Pearson upper bound of a probability, wrong with a chance of at most `error`."""
    from scipy.stats import beta

    return 1.0 if count >= runs else float(beta.ppf(1 - error, count + 1, runs - count))


def lower_mu(false_positives: int, false_negatives: int, runs: int, error: float) -> float:
    """Return the least mu whose trade-off curve allows these counts; 0 or more. `error` is shared by both bounds."""
    from scipy.special import ndtri

    fpr, fnr = (upper(count, runs, error / 2) for count in (false_positives, false_negatives))
    return max(0.0, float(-ndtri(fpr) - ndtri(fnr))) if fpr < 1 and fnr < 1 else 0.0


def threshold(without: Floats, present: Floats, error: float) -> float:
    """Return the threshold with the largest `lower_mu` on these runs: above it the attacker says "present"."""
    values = np.unique(np.concatenate([without, present]))
    between = (values[1:] + values[:-1]) / 2
    candidates = between[:: max(1, len(between) // 200)] if len(between) else values
    out, in_ = np.sort(without), np.sort(present)
    scored = [
        (
            lower_mu(
                int(len(out) - np.searchsorted(out, t, "right")), int(np.searchsorted(in_, t, "right")), len(out), error
            ),
            t,
        )
        for t in candidates
    ]
    return float(max(scored)[1])


def audit(statistic: Statistic, claimed: float, runs: int, error: float = ERROR) -> Audit:
    """Return the audit of a statistic: (canary present, number of runs) -> float64 [runs]. The larger, the likelier present."""
    cut = threshold(statistic(False, runs // 4), statistic(True, runs // 4), error)
    false_positives = int(np.count_nonzero(statistic(False, runs) > cut))
    false_negatives = int(np.count_nonzero(statistic(True, runs) <= cut))
    lower = lower_mu(false_positives, false_negatives, runs, error)
    return Audit(claimed, lower, false_positives / runs, false_negatives / runs, runs)


@final
@dataclass(frozen=True)
class World:
    """A job that can be attacked. counted: sites in the sum, at least min_clients. site: what one of them does with x."""

    promise: HospitalDP
    counted: int
    site: Callable[[HospitalDP, Ints], Ints] = noised
    num_rounds: int = ROUNDS

    def signals(self, present: bool) -> Ints:
        """Return x / g of every counted site, int64 [counted, VALUES]: reader first, canary last (zero if not present)."""
        raw = stream(0, "canary", "others").normal(0, 0.3, (self.counted, VALUES)) * SCALES
        raw[-1] = stream(0, "canary", "direction").normal(0, 1, VALUES) * SCALES * 10 * present
        return clipped(self.promise, raw / SCALES)

    def statistic(self, present: bool, runs: int) -> Floats:
        """Return the matched filter over all rounds, in units of the clip, of what the reader cannot explain itself."""
        total = np.zeros(runs)
        fine = self.promise.fine_step(VALUES)
        known, canary = self.signals(False), self.signals(True)[-1] * fine
        packing = Packing(self.promise.levels, self.promise.sites, WORD)
        for _ in range(self.num_rounds):
            own: Ints | None = None
            words = np.zeros(packing.words(runs * VALUES), np.uint64)
            for x in self.signals(present):
                q = self.site(self.promise, np.broadcast_to(x, (runs, VALUES)))
                own = q if own is None else own
                words += packing.pack(q.ravel().astype(np.int32))
            opened = packing.unpack(words, runs * VALUES, self.counted).reshape(runs, VALUES)
            total += ((opened - own) * self.promise.step - known[1:].sum(axis=0) * fine) @ canary
        return total / self.promise.max_update_norm**2


def claimed_mu(promise: HospitalDP, num_rounds: int) -> float:
    """Return what the package's own accountant says of the job."""
    return mu_of([promise.release] * num_rounds, "hospital")


def weaker(factor: float) -> Callable[[HospitalDP, Ints], Ints]:
    """Return a site whose noise is `factor` of the promised one; 0: none, its update is only rounded."""

    def site(promise: HospitalDP, x: Ints) -> Ints:
        if factor == 0:
            found: Ints = np.rint(x * (promise.fine_step(VALUES) / promise.step)).astype(np.int64)
            return found
        silent = replace(promise, noise_multiplier=promise.noise_multiplier * factor, bits=16)
        exact = noised(silent, np.rint(x * (promise.fine_step(VALUES) / silent.fine_step(VALUES))).astype(np.int64))
        return np.rint(exact * (silent.step / promise.step)).astype(np.int64)

    return site


def unscaled_clip(present: bool, runs: int) -> Floats:
    """Clip ||D||, then give "important" coordinates a quarter of the noise, as published relatives do: same claim."""
    important = np.where(np.arange(VALUES) < 4, 0.25, 1.0)
    canary = clipped(PROMISE, np.where(np.arange(VALUES) == 0, 10.0, 0.0))
    total = np.zeros(runs)
    for _ in range(ROUNDS):
        for site in range(PROMISE.shares):
            x = canary * (present and site == 0)
            noise = noised(PROMISE, np.zeros((runs, VALUES), np.int64)) * (PROMISE.step * important)
            total += (x * PROMISE.fine_step(VALUES) + noise)[:, 0]
    return total


def revealing_zeros(present: bool, runs: int) -> Floats:
    """Each site sends, with full noise, only the blocks that it chose; the sum is exactly zero where nobody sent."""
    blocks = np.repeat(np.arange(4), VALUES // 4)
    x = clipped(PROMISE, np.full(VALUES, 1.0)) * (blocks == 3)
    opened = np.zeros((runs, VALUES), np.int64)
    for mine in (0, 1, 2):
        opened += noised(PROMISE, np.zeros((runs, VALUES), np.int64)) * (blocks == mine)
    if present:
        opened += noised(PROMISE, np.broadcast_to(x, (runs, VALUES))) * (blocks == 3)
    return -np.count_nonzero(opened[:, blocks == 3] == 0, axis=1).astype(np.float64)


def controls() -> dict[str, tuple[Statistic, float]]:
    """Return name -> (statistic, mu that the broken mechanism claims)."""
    claim, least = claimed_mu(PROMISE, ROUNDS), PROMISE.min_clients
    every_site = replace(PROMISE, min_clients=PROMISE.sites)
    return {
        "noise_off": (World(PROMISE, least, weaker(0.0)).statistic, claim),
        "noise_tenth": (World(PROMISE, least, weaker(0.1)).statistic, claim),
        "unscaled_clip": (unscaled_clip, claim),
        "accountant_reset": (World(PROMISE, least).statistic, claimed_mu(PROMISE, 1)),
        "revealing_zeros": (
            revealing_zeros,
            mu_of([GaussianRelease("hospital", PROMISE.noise_multiplier, 1)], "hospital"),
        ),
        "dropout_ignored": (World(every_site, 3).statistic, claimed_mu(every_site, ROUNDS)),
    }


def mechanisms() -> dict[str, tuple[Statistic, float]]:
    """Return name -> (statistic, mu claimed): the mechanism as it is, and every control."""
    honest = World(PROMISE, PROMISE.min_clients).statistic
    return {"honest": (honest, claimed_mu(PROMISE, ROUNDS)), **controls()}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table."""
    one_settings(parts)
    audits, verdict = audits_of(parts), {True: "refuted", False: "stands"}
    rows = [
        [name, *(f"{value:.3f}" for value in (one.claimed, one.lower, one.fpr, one.fnr)), verdict[one.flagged]]
        for name, one in audits.items()
    ]
    return {"audit": table(["mechanism", "mu claimed", "mu at least", "FPR", "FNR", "claim"], rows, parts)}


def audits_of(parts: Sequence[Part]) -> dict[str, Audit]:
    """Return name -> Audit, the honest mechanism first."""
    known(parts, "mechanism", mechanisms())
    found = {part.key["mechanism"]: Audit(**part.numbers) for part in parts}
    return {name: found[name] for name in mechanisms() if name in found}


def main() -> None:
    """Run the audit; fail if the mechanism is refuted, if the attack is weak, or if a control gets away."""
    args = arguments(__doc__ or "").parse_args()
    runs = QUICK_RUNS if args.quick else RUNS
    with kept("canary", args) as parts:
        for name, (statistic, claim) in () if args.show else tuple(mechanisms().items()):
            found = partial(audit, statistic, claim, runs)
            parts.measure({"mechanism": name}, {"runs": runs}, lambda found=found: asdict(found()))
        done = parts.read()
    show(tables(done))
    audits = audits_of(done)
    whole, missed = audits["honest"], [name for name, one in audits.items() if name != "honest" and not one.flagged]
    share = whole.lower / whole.claimed
    print(f"\n{whole.runs} runs in each world; the attack shows {share:.0%} of the claim")
    result = {
        "mu_claimed": whole.claimed,
        "mu_lower": whole.lower,
        "runs": whole.runs,
        "controls": {name: one.flagged for name, one in audits.items() if name != "honest"},
        "controls_mu": {name: [one.claimed, one.lower] for name, one in audits.items() if name != "honest"},
    }
    finish(result, as_json=args.json)
    if whole.flagged or missed or (share <= 0.8 and not args.quick) or math.isnan(share):
        raise SystemExit(f"the audit failed: refuted {whole.flagged}, missed {missed}, share {share:.2f}")


if __name__ == "__main__":
    command(main)
