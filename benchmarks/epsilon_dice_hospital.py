"""Hospital level of epsilon_dice.py: n phantom hospitals share a part of the network, noise is added inside the secure sum.

epsilon 8 for each hospital at delta 1e-5; every site adds its share of the noise, sums of fewer than n stay closed, nobody
colludes. Scales are 1. The clip is HALF the norm of one update of a PUBLIC phantom hospital that takes no part. Arms: local
(nothing shared), exact (the same part, no noise, no clip), private. Signal over noise of a whole run is printed three times:
the law n mu / sqrt(d), what quorum and reader leave of it, and measured: the norm of the sum of all clipped updates of all
rounds over the norm of all the noise. Differences are paired by seed, with a 95 % t-interval over seeds.

Schedule and patch (24 x 24 x 24) are short, to be done in an hour. Whether a hospital alone learns was looked at before, on
validation patients of phantom hospitals 17 .. 20 (seed 99): with 4 rounds of 8 and a falling rate two of two did not, with 4 of
16 and a constant rate four of four did. Round 0 starts from the same weights and batches in every arm, so it is walked once for
each site.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from adaptive_noise_dice import NoisedSum
from common import interval, say
from methods import MEAN, PARTS
from wardround.algorithms.base import LocalEnd, LocalStart, Steps, descend, plain
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, local_round, run
from wardround.algorithms.schedule import Schedule
from wardround.arrays import Array, Arrays, Layout, norm
from wardround.privacy.accounting import full_noise_multiplier_for
from wardround.privacy.hospital_dp import HospitalDP, clipped, signal_to_noise
from wardround.privacy.scales import isotropic

EPSILON, DELTA, PUBLIC, PATCH = 8.0, 1e-5, 16, (24, 24, 24)
SHARES = ("head", "norms", "adapters", "all")
GAPS = (("private", "local"), ("private", "exact"), ("exact", "local"))


def phantoms(indices: Sequence[int], patients: int, folder: Path) -> dict[str, Any]:
    """Return site name -> Cohort of phantom hospitals; written and decoded once."""
    from wardround.data.cache import open_cohort
    from wardround.data.hospitals import hospital
    from wardround.data.phantoms import write_cohort
    from wardround.data.site_config import SiteConfig

    found = {}
    for index in indices:
        profile = hospital(index)
        if not (folder / profile.name).exists():
            write_cohort(folder / profile.name, profile, 7, patients=patients)
        found[profile.name] = open_cohort(SiteConfig(data=folder / profile.name), folder / "cache" / profile.name)
    return found


def seeded(cohorts: Mapping[str, Any], seed: int, patch: tuple[int, int, int], rank: int = 0) -> dict[str, Any]:
    """Return site name -> SegmentationSite with this seed's split, first weights and batches; rank 0: no adapters."""
    from wardround.data.splits import split_patients
    from wardround.hospital.segmentation import Sampling, SegmentationSite
    from wardround.models.nets import UNet3d

    spec = UNet3d(adapter_rank=rank) if rank else UNet3d()
    sampling = Sampling(patch, 2, tumour_probability=0.67, augment=True)
    return {
        name: SegmentationSite(name, cohort, split_patients(cohort.patients, seed=seed), spec, sampling, seed, "cpu")
        for name, cohort in cohorts.items()
    }


def test_dice(site: Any, w: Any) -> list[float]:
    """Return the Dice of every test patient."""
    from wardround.hospital.segmentation import by_patient

    rows = by_patient(site, site.split.test, site.scores(w, site.split.test, with_hd95=False))
    return [row["dice_mean"] for row in rows]


@final
class Measured:
    """The package's noised sum of one round, which also keeps what was signal and what was noise; s = 1."""

    def __init__(self, promise: HospitalDP, s: Mapping[str, float], seen: dict[str, Any]) -> None:
        self.sum, self.promise, self.seen = NoisedSum(promise, s), promise, seen

    def add(self, update: Arrays, weight: float) -> None:
        """Add one site's release."""
        u = np.concatenate([np.asarray(block, np.float64).ravel() for block in update.values()])
        before = 0 if self.sum.total is None else self.sum.total
        self.sum.add(update, weight)
        signal = clipped(self.promise, u) * self.promise.fine_step(u.size)
        noise = (self.sum.total - before) * self.promise.step - signal
        for key, value in (("signal", signal), ("noise", noise)):
            self.seen[key] = self.seen.get(key, 0) + value

    def mean(self) -> dict[str, Array]:
        """Return U / n."""
        return self.sum.mean()


@final
class Walks:
    """The local rounds of all arms of one seed, from the same first weights; round 0, the same for all, is walked once."""

    def __init__(self, sites: dict[str, Any], schedule: Schedule) -> None:
        *self.names, self.public = sites
        self.sites, self.schedule, self.initial = sites, schedule, sites[self.public].model.vector.clone()
        self.first: dict[str, Tensor] = {}
        self.local: dict[str, list[float]] = {}

    def walk(self, name: str, round_: int, w: Tensor) -> Tensor:
        """Return w after one round at one site, as FedAvg.train walks it."""
        if round_ == 0 and name in self.first:
            return self.first[name]
        steps = self.schedule.steps(round_)
        w, _ = descend(w, plain(self.sites[name].oracle("train", round_)), steps.work, steps)
        if round_ == 0:
            self.first[name] = w
        return w

    def local_dice(self, name: str) -> list[float]:
        """Return the test Dice of the site's own model: the same batches, nothing shared."""
        if name not in self.local:
            w = self.initial
            for round_ in range(self.schedule.rounds):
                w = self.walk(name, round_, w)
            self.local[name] = test_dice(self.sites[name], w)
        return self.local[name]


@final
@dataclass(frozen=True)
class Walked:
    """FedAvg on Walks: a round's oracle is (site, round)."""

    walks: Walks
    name: ClassVar[str] = "FedAvg"
    banks: ClassVar[tuple[str, ...]] = ("model",)

    def train(self, start: LocalStart, oracle: Any, steps: Steps) -> LocalEnd:
        """Walk from the received part and the own rest."""
        return LocalEnd({"model": self.walks.walk(*oracle, start.banks["model"])}, (0.0,))


def one_share(walks: Walks, n: int, share: Any) -> dict[str, Any]:
    """Return values, clip, signal over noise, and arm -> site -> test Dice."""
    names, sites, schedule, sharing = walks.names[:n], walks.sites, walks.schedule, PARTS[share]
    first, rehearsal = sites[names[0]], sites[walks.public].oracle("rehearsal")
    start = {"model": walks.initial}
    update, _, _ = local_round(FedAvg(), sharing, start, {}, first.layout, first.roles, rehearsal, schedule.steps(0))
    layout = Layout(tuple(update), tuple(tuple(block.shape) for block in update.values()))
    z = full_noise_multiplier_for(EPSILON, DELTA, schedule.rounds, "hospital")
    mu, promise = math.sqrt(schedule.rounds) / z, HospitalDP(0.5 * norm(update), z, n, n, 0, hidden=True, bits=16)
    found: dict[str, Any] = {"values": layout.total, "clip": promise.clip, "law": n * mu / math.sqrt(layout.total)}
    found["snr"] = signal_to_noise(promise, n, layout.total, schedule.rounds)
    found["arms"] = {"local": {name: walks.local_dice(name) for name in names}}
    sides = {name: SiteSide(lambda r, name=name: (name, r), 1.0, first.layout, first.roles) for name in names}
    algorithm, seen = Walked(walks), {}
    sums = {"exact": {}, "private": {"new_sum": lambda r: Measured(promise, isotropic(layout), seen)}}
    for arm, how in sums.items():
        end = run(
            sides,
            algorithm,
            MEAN,
            schedule,
            first.layout.unflatten(walks.initial.numpy().copy()),
            sharing=sharing,
            **how,
        )
        models = {name: end.personal(algorithm, name, sides[name]) for name in names}
        found["arms"][arm] = {name: test_dice(sites[name], w) for name, w in models.items()}
    found["measured"] = float(np.linalg.norm(seen["signal"]) / np.linalg.norm(seen["noise"]))
    return found


def measure_hospital(args: Any, schedule: Schedule, patients: int, folder: Path, keep: Any) -> None:
    """Run every share, seed and n that is asked for; `keep` takes each result as it comes."""
    cohorts = phantoms((*range(max(args.sites)), PUBLIC), patients, folder / "hospital")
    walks: dict[tuple[int, int], Walks] = {}
    for share in args.share:
        rank = int(share == "adapters")
        for seed in args.seeds:
            if (seed, rank) not in walks:
                walks[seed, rank] = Walks(seeded(cohorts, seed, PATCH, rank), schedule)
            for n in args.sites:
                begun = time.monotonic()
                found = one_share(walks[seed, rank], n, share)
                dice = {arm: round(mean_of_sites(tests), 3) for arm, tests in found["arms"].items()}
                say(f"{share}, n {n}, seed {seed}: {dice}, {time.monotonic() - begun:.0f} s")
                keep({"level": "hospital", "share": share, "n": n, "seed": seed} | found)


def mean_of_sites(tests: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over sites of the means over test patients."""
    return float(np.mean([np.mean(rows) for rows in tests.values()]))


def summary_hospital(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per share and n, from all seeds."""
    from wardround.reports.intervals import hierarchical_mean

    rows = []
    for share, n in sorted({(p["share"], p["n"]) for p in parts}, key=lambda key: (SHARES.index(key[0]), key[1])):
        mine = [part for part in parts if (part["share"], part["n"]) == (share, n)]
        row: dict[str, Any] = {"share": share, "n": n, "seeds": [part["seed"] for part in mine]}
        row |= {
            key: float(np.mean([part[key] for part in mine])) for key in ("values", "clip", "law", "snr", "measured")
        }
        for arm in ("local", "exact", "private"):
            by_site = {site: {p["seed"]: p["arms"][arm][site] for p in mine} for site in mine[0]["arms"][arm]}
            whole = hierarchical_mean(by_site)
            row[arm] = {"mean": whole.value, "low": whole.low, "high": whole.high, "cases": whole.cases}
        for a, b in GAPS:
            gaps = [mean_of_sites(part["arms"][a]) - mean_of_sites(part["arms"][b]) for part in mine]
            row[f"{a} - {b}"] = interval(gaps)
        rows.append(row)
    return rows


def show_hospital(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"\nepsilon {EPSILON:g} per hospital at delta {DELTA:g}, test Dice [95 % interval]\n")
    heads = ["shared", "n", "values d", "n mu / sqrt(d)", "less quorum and reader", "measured", "test patients"]
    heads += ["local", "exact", "private", *(f"{a} - {b}" for a, b in GAPS)]
    print("| " + " | ".join(heads) + " |\n" + "|" + "---|" * len(heads))
    for row in rows:
        p = row["private"]
        cells = [row["share"], row["n"], f"{row['values']:.0f}", *(f"{row[k]:.3g}" for k in ("law", "snr", "measured"))]
        cells += [p["cases"], *(f"{row[arm]['mean']:.3f}" for arm in ("local", "exact"))]
        cells += [f"{p['mean']:.3f} [{p['low']:.3f}, {p['high']:.3f}]"]
        for a, b in GAPS:
            mean, low, high = row[f"{a} - {b}"]
            cells.append(f"{mean:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]"))
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
