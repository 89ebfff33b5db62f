"""Isotropic against adaptive hospital-level noise on phantom hospitals: test Dice at the same mu, a small part shared.

Only the head, the norms, or low-rank adapters (rank 1) are shared; everything else stays home, so every hospital keeps a
model of its own. Clip, v and h come from a rehearsal at a PUBLIC phantom hospital that takes no part, as `wardround scales`
does it: clip is HALF its update norm, v its squared update, h its mean squared gradient at the first weights. Arms: local
(nothing shared), exact (no noise, no clip), isotropic, adaptive. Differences are paired by seed, with a 95 % t-interval.

    python benchmarks/adaptive_noise_dice.py --seeds 0 1 2 3 4 --json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from common import (
    Part,
    Parts,
    Table,
    arguments,
    cell,
    command,
    finish,
    interval,
    kept,
    known,
    one_settings,
    say,
    show,
    table,
)
from methods import MEAN, PARTS
from segmentation import evaluate
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_only
from wardround.algorithms.schedule import Schedule
from wardround.core.arrays import Array, Arrays, Layout
from wardround.dp.accounting import full_noise_multiplier_for
from wardround.dp.hospital_dp import HospitalDP, privatise, signal_to_noise
from wardround.dp.scales import by_block, groups_of
from wardround.research.in_process import InProcessFederation
from wardround.research.scale_estimation import estimate
from wardround.secagg.fixed_point import Ints, fixed_grid, mean_of

EPSILON, DELTA, SITES, PUBLIC = 8.0, 1e-5, 4, 8
ARMS = ("local", "exact", "isotropic", "adaptive")
SHARES = ("head", "norms", "adapters", "all")
GAPS = (("adaptive", "isotropic"), ("isotropic", "exact"))


@final
class NoisedSum:
    """The package's mechanism as the `Sum` of one round."""

    def __init__(self, promise: HospitalDP, s: Mapping[str, float]) -> None:
        self.promise, self.scales, self.count = promise, s, 0
        self.total: Ints | None = None

    def add(self, update: Arrays, weight: float) -> None:
        """Add one site's release; weights are equal."""
        released = privatise(self.promise, update, self.scales).update
        self.layout = Layout(tuple(released), tuple(tuple(block.shape) for block in released.values()))
        q = np.rint(self.layout.flatten(released).astype(np.float64) / self.promise.step).astype(np.int64)
        self.total = q if self.total is None else self.total + q
        self.count += 1

    def mean(self) -> dict[str, Array]:
        """Return s U / n."""
        mean = mean_of(fixed_grid(self.layout, self.promise), self.total, self.count)
        return {name: np.float32(self.scales[name]) * block for name, block in mean.items()}


def open_all(seed: int, patients: int, folder: Path, share: str) -> dict[str, Any]:
    """Return site name -> SegmentationSite; the last one is the public hospital."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.data.splits import split_patients
    from wardround.models.nets import UNet3d
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort
    from wardround.training.segmentation import Sampling, SegmentationSite

    spec = UNet3d(adapter_rank=1 if share == "adapters" else 0)
    sampling, found = Sampling((32, 32, 32), 2, tumour_probability=0.67, augment=True), {}
    for index in (*range(SITES), PUBLIC):
        profile = hospital(index)
        if not (folder / profile.name).exists():
            write_cohort(folder / profile.name, profile, 7, patients=patients)
        cohort = open_cohort(SiteConfig(data=folder / profile.name), folder / "cache" / profile.name)
        split = split_patients(cohort.patients, seed=seed)
        found[profile.name] = SegmentationSite(profile.name, cohort, split, spec, sampling, seed, "cpu")
    return found


def one_seed(sites: dict[str, Any], share: Any, schedule: Schedule) -> dict[str, Any]:
    """Return arm -> mean test Dice over sites, and what the noise was."""
    *names, public = sites
    part = PARTS[share]
    seen = estimate(sites[public], FedAvg(), part, sites[public].model.vector.clone(), schedule.steps(0), 16)
    layout = seen.layout
    by_group = {"isotropic": (1.0,) * len(seen.v), "adaptive": seen.scales}
    s = {arm: by_block(layout, groups_of(layout), one) for arm, one in by_group.items()}
    z = full_noise_multiplier_for(EPSILON, DELTA, schedule.num_rounds, "hospital")
    initial = sites[names[0]].model.vector.clone()
    together = InProcessFederation(
        {name: sites[name] for name in names}, FedAvg(), MEAN, schedule, equal=True, sharing=part
    )
    found: dict[str, Any] = {"values": layout.total}
    for arm in ARMS:
        begun = time.monotonic()
        if arm == "local":
            models = {
                name: local_only(sites[name].objective("train", 0), schedule, sites[name].model.vector)
                for name in names
            }
        else:
            how: dict[str, Any] = {}
            if arm != "exact":
                promise = HospitalDP(seen.clip(by_group[arm]), z, SITES, SITES, 0, distributed=True, bits=16)
                found["snr"] = signal_to_noise(promise, SITES, layout.total, schedule.num_rounds)
                how["new_sum"] = lambda r, promise=promise, arm=arm: NoisedSum(promise, s[arm])
            models = together.models(together.run(initial, **how))
        scored = [float(np.mean(evaluate(sites[name], models[name])["test"])) for name in names]
        found[arm] = float(np.mean(scored))
        say(f"  {share}, {arm}: {found[arm]:.3f}, {time.monotonic() - begun:.0f} s")
    return found


def gaps_of(parts: Sequence[Part]) -> dict[str, tuple[float, float | None, float | None]]:
    """Return both differences, paired by seed."""
    rows = [part.numbers for part in parts]
    return {f"{a} - {b}": interval([row[a] - row[b] for row in rows]) for a, b in GAPS}


def by_share(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return what is shared -> its parts."""
    known(parts, "share", SHARES)
    found = {name: [part for part in parts if part.key["share"] == name] for name in SHARES}
    return {name: mine for name, mine in found.items() if mine}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table."""
    one_settings(parts)
    rows = []
    for share, mine in by_share(parts).items():
        found = [part.numbers for part in mine]
        cells = [share, len(mine), found[0]["values"], f"{found[0]['snr']:.2f}"]
        cells += [f"{np.mean([row[arm] for row in found]):.3f}" for arm in ARMS]
        rows.append([*cells, *(cell(gap, "+") for gap in gaps_of(mine).values())])
    heads = ["shared", "seeds", "values", "signal / noise at best", *ARMS, *(f"{a} - {b} [95 %]" for a, b in GAPS)]
    return {"dice": table(heads, rows, parts)}


def main() -> None:
    """Run all arms for every seed and part that is missing, and print the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--share", nargs="+", choices=SHARES, default=list(SHARES[:3]), help="parts of the network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="splits, weights, batches and noise")
    parser.add_argument("--patients", type=int, default=12, help="of every hospital")
    parser.add_argument("--rounds", type=int, default=4, help="sums that are released")
    parser.add_argument("--work", type=int, default=16, help="gradient steps of a site in a round")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.work, args.patients = 2, 4, 5
        args.share, args.seeds = args.share[:1], args.seeds[:1]
    with kept("adaptive_noise_dice", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    found = by_share(done).items()
    result = {name: {"rows": [part.numbers for part in mine], "gaps": gaps_of(mine)} for name, mine in found}
    finish(result, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Run the seeds and shares that are not there yet."""
    schedule = Schedule(args.rounds, args.work, 0.05, 0.9, True, 0.0, 10.0, "cosine")
    options = {"epsilon": EPSILON, "delta": DELTA, "patients": args.patients, "rounds": args.rounds, "work": args.work}
    with tempfile.TemporaryDirectory() as folder:
        for share in args.share:
            for seed in args.seeds:
                key = {"share": share, "seed": seed}
                if parts.missing(key, options):
                    sites = open_all(seed, args.patients, Path(folder), share)
                    parts.measure(key, options, partial(one_seed, sites, share, schedule))


if __name__ == "__main__":
    command(main)
