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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from adaptive_noise_dice import NoisedSum
from common import Part, Parts, Table, cell, interval, one_settings, table
from methods import MEAN, PARTS
from wardround.algorithms.base import LocalEnd, LocalStart, Steps, descend, plain
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, local_round, run
from wardround.algorithms.schedule import Schedule
from wardround.core.arrays import Array, Arrays, Layout, norm
from wardround.dp.accounting import full_noise_multiplier_for
from wardround.dp.hospital_dp import HospitalDP, clipped, signal_to_noise
from wardround.dp.scales import isotropic

EPSILON, DELTA, PUBLIC, PATCH = 8.0, 1e-5, 16, (24, 24, 24)
SHARES = ("head", "norms", "adapters", "all")
GAPS = (("private", "local"), ("private", "exact"), ("exact", "local"))


def phantoms(indices: Sequence[int], patients: int, folder: Path) -> dict[str, Any]:
    """Return site name -> Cohort of phantom hospitals; written and decoded once."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

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
    from wardround.models.nets import UNet3d
    from wardround.training.segmentation import Sampling, SegmentationSite

    spec = UNet3d(adapter_rank=rank) if rank else UNet3d()
    sampling = Sampling(patch, 2, tumour_probability=0.67, augment=True)
    return {
        name: SegmentationSite(name, cohort, split_patients(cohort.patients, seed=seed), spec, sampling, seed, "cpu")
        for name, cohort in cohorts.items()
    }


def test_dice(site: Any, w: Any) -> list[float]:
    """Return the Dice of every test patient."""
    from wardround.training.segmentation import by_patient

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
        w, _ = descend(w, plain(self.sites[name].objective("train", round_)), steps.work, steps)
        if round_ == 0:
            self.first[name] = w
        return w

    def local_dice(self, name: str) -> list[float]:
        """Return the test Dice of the site's own model: the same batches, nothing shared."""
        if name not in self.local:
            w = self.initial
            for round_ in range(self.schedule.num_rounds):
                w = self.walk(name, round_, w)
            self.local[name] = test_dice(self.sites[name], w)
        return self.local[name]


@final
@dataclass(frozen=True)
class Walked:
    """FedAvg on Walks: a round's oracle is (site, round)."""

    walks: Walks
    name: ClassVar[str] = "FedAvg"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def train(self, start: LocalStart, objective: Any, steps: Steps) -> LocalEnd:
        """Walk from the received part and the own rest."""
        return LocalEnd({"model": self.walks.walk(*objective, start.variables["model"])}, (0.0,))


def one_share(walks: Walks, n: int, share: Any) -> dict[str, Any]:
    """Return values, clip, signal over noise, and arm -> site -> test Dice."""
    names, sites, schedule, sharing = walks.names[:n], walks.sites, walks.schedule, PARTS[share]
    first, rehearsal = sites[names[0]], sites[walks.public].objective("rehearsal")
    start = {"model": walks.initial}
    update, _, _ = local_round(FedAvg(), sharing, start, {}, first.layout, first.roles, rehearsal, schedule.steps(0))
    layout = Layout(tuple(update), tuple(tuple(block.shape) for block in update.values()))
    z = full_noise_multiplier_for(EPSILON, DELTA, schedule.num_rounds, "hospital")
    mu, promise = (
        math.sqrt(schedule.num_rounds) / z,
        HospitalDP(0.5 * norm(update), z, n, n, 0, distributed=True, bits=16),
    )
    found: dict[str, Any] = {
        "values": layout.total,
        "clip": promise.max_update_norm,
        "law": n * mu / math.sqrt(layout.total),
    }
    found["snr"] = signal_to_noise(promise, n, layout.total, schedule.num_rounds)
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


def measure_hospital(args: Any, schedule: Schedule, patients: int, folder: Path, parts: Parts) -> None:
    """Run every share, seed and n that is asked for and not there yet."""
    options = {"schedule": asdict(schedule), "patients": patients, "epsilon": EPSILON, "delta": DELTA, "patch": PATCH}
    keys = [
        {"level": "hospital", "share": share, "n": n, "seed": seed}
        for share in args.share
        for seed in args.seeds
        for n in args.sites
    ]
    keys = [key for key in keys if parts.missing(key, options)]
    if not keys:
        return
    cohorts = phantoms((*range(max(args.sites)), PUBLIC), patients, folder / "hospital")
    walks: dict[tuple[int, int], Walks] = {}
    for key in keys:
        share, seed = key["share"], key["seed"]
        place = seed, int(share == "adapters")
        if place not in walks:
            walks[place] = Walks(seeded(cohorts, seed, PATCH, place[1]), schedule)
        parts.measure(key, options, partial(one_share, walks[place], key["n"], share))


def mean_of_sites(tests: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over sites of the means over test patients."""
    return float(np.mean([np.mean(rows) for rows in tests.values()]))


def summary_hospital(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return one row per share and n, from all seeds."""
    from wardround.reports.intervals import hierarchical_mean

    rows = []
    pairs = {(part.key["share"], part.key["n"]) for part in parts}
    for share, n in sorted(pairs, key=lambda pair: (SHARES.index(pair[0]), pair[1])):
        mine = [part for part in parts if (part.key["share"], part.key["n"]) == (share, n)]
        row: dict[str, Any] = {"share": share, "n": n, "seeds": [part.key["seed"] for part in mine]}
        row |= {
            key: float(np.mean([part.numbers[key] for part in mine]))
            for key in ("values", "clip", "law", "snr", "measured")
        }
        for arm in ("local", "exact", "private"):
            sites = mine[0].numbers["arms"][arm]
            whole = hierarchical_mean({s: {p.key["seed"]: p.numbers["arms"][arm][s] for p in mine} for s in sites})
            row[arm] = {"mean": whole.value, "low": whole.low, "high": whole.high, "cases": whole.cases}
        for a, b in GAPS:
            arms = [part.numbers["arms"] for part in mine]
            row[f"{a} - {b}"] = interval([mean_of_sites(one[a]) - mean_of_sites(one[b]) for one in arms])
        rows.append(row)
    return rows


def table_hospital(parts: Sequence[Part]) -> Table:
    """Return the table of the hospital level."""
    one_settings(parts)
    rows = []
    for row in summary_hospital(parts):
        p = row["private"]
        cells = [
            row["share"],
            row["n"],
            f"{row['values']:,.0f}",
            *(f"{row[k]:.2f}" for k in ("law", "snr", "measured")),
        ]
        cells += [p["cases"], *(f"{row[arm]['mean']:.3f}" for arm in ("local", "exact"))]
        # One seed with one patient has no interval.
        cells += [cell((p["mean"], p["low"], p["high"])), *(cell(row[f"{a} - {b}"], "+") for a, b in GAPS)]
        rows.append(cells)
    heads = ["shared", "hospitals", "numbers d", "law n mu / sqrt(d)", "with quorum and reader", "measured"]
    heads += ["test patients", "local", "shared exactly", "private", *(f"{a} - {b} [95 %]" for a, b in GAPS)]
    return table(heads, rows, parts)
