"""Tumour types on slices at four hospitals with label skew: what is gained by sharing, by masks, and lost by noise.

Data: `cheng` (glioma, meningioma, pituitary; T1ce slices, pseudo-patients: blocks of neighbouring slices) dealt by Dirichlet
label skew. A seed is a deal, a split, first weights, batches and noise. Scores are balanced accuracies over the slices of the
classes PRESENT in a site's part (the parts keep every site's support), mean over sites, 95 % t-interval over seeds;
`everywhere`: over the test slices of all sites together. k of the fine-tuning is chosen on validation, nothing on test.

    local        each site alone, the same number of steps        fedavg      everything is shared
    masks_*      KL masks over all blocks, and their controls     norms       FedSim: only the norms are shared, no noise
    dp_iso       norms + hospital-level noise, s = 1              mmpfl_adp   KL masks over the norms + adaptive noise
Clip, v and h of the noise come from a rehearsal at a PUBLIC phantom hospital (typed phantoms, T1ce) that takes no part. Sites
weigh as many training patients as they have, all the same where norms are shared. Masks also look at two batches a round.
Rounds and bytes (float32, up and down, all sites; personal blocks travel as zeros) until the mean validation score, before
fine-tuning, is 95 % of FedAvg's last one. A site of one class: always saying that class scores 1.
The split is by the patient's id alone by default, which can leave a class of a small site out of its test part.

    python benchmarks/tumour_types.py --json
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_noise_dice import DELTA, EPSILON, NoisedSum
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
    root_option,
    say,
    show,
    table,
)
from methods import MASKS, MEAN, PARTS
from tumour_types_data import (
    SITES,
    SPLITS,
    everywhere,
    open_public,
    open_sites,
    support,
    tested,
    validated,
    whole_set,
)
from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_only
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING, Sharing
from wardround.dp.accounting import for_gaussians, mu_for
from wardround.dp.hospital_dp import HospitalDP, signal_to_noise
from wardround.dp.scales import by_block, groups_of
from wardround.research.in_process import InProcessFederation
from wardround.research.scale_estimation import estimate

MAIN, ALPHAS, REACH = 0.5, (0.05, 0.1, 0.5, math.inf), 0.95
SWEEP, NOISED = ("local", "fedavg"), ("dp_iso", "mmpfl_adp")
METHODS: dict[str, Sharing] = {
    "fedavg": EVERYTHING,
    "masks_kl": KLMask(choose="kl", **MASKS),
    "dp_iso": PARTS["norms"],
    "mmpfl_adp": KLMask(choose="kl", **MASKS | {"home": PARTS["norms"].home_roles}),
    "masks_random": KLMask(choose="random", **MASKS),
    "masks_norms": KLMask(choose="norms", **MASKS),
    "masks_head": KLMask(choose="head", **MASKS),
    "norms": PARTS["norms"],
}
NAMES = ("local", *METHODS)
TITLES = {
    "local": "local only",
    "fedavg": "FedAvg",
    "masks_kl": "KL masks",
    "dp_iso": "norms shared, isotropic noise, epsilon 8 per hospital",
    "mmpfl_adp": "MM-PFL-ADP: masks over the norms, adaptive noise, epsilon 8 per hospital",
    "masks_random": "KL masks: random blocks (control)",
    "masks_norms": "KL masks: norms stay (control)",
    "masks_head": "KL masks: head stays (control)",
    "norms": "norms shared, no noise",
}
QUICK = ("local", "fedavg", "mmpfl_adp")


def noise(name: str, public: Any, schedule: Schedule) -> tuple[Any, dict[str, float]]:
    """Return the sum of a noised method, and what it promises: clip, multiplier, signal-to-noise ratio at best."""
    seen = estimate(public, FedAvg(), PARTS["norms"], public.model.vector.clone(), schedule.steps(0), 16)
    s = seen.scales if name == "mmpfl_adp" else (1.0,) * len(seen.v)
    z = math.sqrt(schedule.num_rounds) / mu_for(EPSILON, for_gaussians(DELTA))
    promise = HospitalDP(seen.clip(s), z, SITES, SITES, 0, distributed=True, bits=16)
    ratio = signal_to_noise(promise, SITES, seen.layout.total, schedule.num_rounds)
    blocks = by_block(seen.layout, groups_of(seen.layout), s)
    told = {"clip": promise.max_update_norm, "z": z, "snr": ratio, "least_scale": min(s), "largest_scale": max(s)}
    return lambda round_: NoisedSum(promise, blocks), told


def one_method(name: str, sites: Mapping[str, Any], public: Any, schedule: Schedule, ks: tuple[int, ...]) -> Any:
    """Return site -> {"0": plain, "best": after k steps, "k"}, the validation score by round, values shared, the noise."""
    initial = next(iter(sites.values())).model.vector.clone()
    if name == "local":
        table = {}
        for site, one in sites.items():
            w = local_only(one.objective("train", 0), schedule, initial)
            table[site] = {"0": {"val": validated(one, w), **tested(one, w), "everywhere": everywhere(sites, w)}}
        return {"sites": table}
    sharing, layout = METHODS[name], next(iter(sites.values())).layout
    equal = bool(sharing.home_roles)
    together = InProcessFederation(sites, FedAvg(), MEAN, schedule, equal, sharing)
    new_sum, told = noise(name, public, schedule) if name in NOISED else (None, {})
    curve: list[float] = []

    def on_round(round_: int, result: Any) -> None:
        each = [validated(sites[site], w) for site, w in together.models(result).items()]
        curve.append(float(np.mean(each)))

    how = {} if new_sum is None else {"new_sum": new_sum}
    result = together.run(initial, on_round, **how)
    table = {}
    for site, start in together.models(result).items():
        one = sites[site]
        tuned = fine_tune(start, one.objective("fine-tune"), ks, Steps(work=max(ks), lr=0.005))
        vals = {k: validated(one, w) for k, w in tuned.items()}
        best = max(vals, key=lambda k: (vals[k], -k))
        rows = {k: {"val": vals[k], **tested(one, tuned[k])} for k in {0, best}}
        for k, row in rows.items():
            row |= {"everywhere": everywhere(sites, tuned[k])} if name in SWEEP else {}
        table[site] = {"0": rows[0], "best": rows[best], "k": best}
    roles = next(iter(sites.values())).roles
    blocks = zip(layout.names, layout.sizes, strict=True)
    values = sum(size for block, size in blocks if roles[block] not in sharing.home_roles)
    masked = {site: float(memory["mask"].sum()) for site, memory in result.memories.items() if "mask" in memory}
    return {"sites": table, "curve": curve, "values": values, "noise": told, "personal_values": masked}


def one_part(name: str, sites: Mapping[str, Any], public: Any, schedule: Schedule, ks: tuple[int, ...]) -> Any:
    """Return what one method gives, and how many pseudo-patients of which class every site has."""
    found = one_method(name, sites, public, schedule, ks)
    score, val = means(found, "0"), means(found, "0", "val")
    say(f"{name}: test {score:.3f} val {val:.3f} {[round(value, 3) for value in found.get('curve', [])]}")
    return found | {"support": support(sites)}


def means(found: Mapping[str, Any], key: str, what: str = "test") -> float:
    """Return the mean over sites."""
    return float(np.mean([row[key][what] for row in found["sites"].values()]))


def reached(curve: Sequence[float], base: Sequence[float]) -> int | None:
    """Return after how many rounds a validation score is REACH of FedAvg's last one; never: None."""
    return next((r + 1 for r, value in enumerate(curve) if value >= REACH * base[-1]), None)


def by_alpha(parts: Sequence[Part]) -> dict[str, dict[str, dict[int, Any]]]:
    """Return alpha -> method -> seed -> what was found, of the methods that have every seed which FedAvg has.

    local and FedAvg are what all rows are compared with: an alpha without both of some seed is left out.
    """
    found: dict[str, dict[str, dict[int, Any]]] = {}
    for part in parts:
        methods = found.setdefault(str(part.key["alpha"]), {})
        methods.setdefault(part.key["method"], {})[part.key["seed"]] = part.numbers
    made = {}
    for alpha in sorted(found, key=float):
        seeds = set(found[alpha].get("fedavg", {})) & set(found[alpha].get("local", {}))
        whole = [name for name in NAMES if seeds and seeds <= set(found[alpha].get(name, {}))]
        if whole:
            made[alpha] = {name: {seed: found[alpha][name][seed] for seed in sorted(seeds)} for name in whole}
    return made


def summarise(parts: Sequence[Part]) -> dict[str, Any]:
    """Return alpha -> method -> means over seeds with intervals, differences to FedAvg + fine-tune, rounds and bytes."""
    one_settings(parts)
    known(parts, "method", NAMES)
    out: dict[str, Any] = {}
    for alpha, methods in by_alpha(parts).items():
        seeds = methods["fedavg"]
        for name, mine in methods.items():
            row: dict[str, Any] = {}
            for key, label in (("0", "plain"), ("best", "tuned")):
                if name == "local" and key == "best":
                    continue
                for what in ("test", "blocks", "val", *(["everywhere"] if name in SWEEP else [])):
                    row[f"{label}_{what}"] = interval([means(mine[seed], key, what) for seed in seeds])
                for rival, rung in (("fedavg", "best"), ("local", "0")):
                    gaps = [means(mine[seed], key) - means(methods[rival][seed], rung) for seed in seeds]
                    row[f"{label}_over_{rival}"] = interval(gaps)
            if name != "local":
                base = {seed: one["curve"] for seed, one in seeds.items()}
                rounds = [reached(mine[seed]["curve"], base[seed]) for seed in seeds]
                bases = [reached(base[seed], base[seed]) for seed in seeds]
                pairs = [a / b for a, b in zip(rounds, bases, strict=True) if a is not None and b is not None]
                first = next(iter(mine.values()))
                per_round = 2 * 4 * SITES * first["values"]
                row |= {"rounds": rounds, "ratio": interval(pairs) if pairs else None, "round_bytes": per_round}
                row["bytes"] = [None if r is None else r * per_round for r in rounds]
                row["noise"] = first["noise"]
            out.setdefault(alpha, {})[name] = row
    return out


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the main table, its rounds and bytes, and the sweep over label skew."""
    result, made = summarise(parts), {}
    rows = result.get(str(MAIN), {})
    if rows:
        main_parts = [part for part in parts if str(part.key["alpha"]) == str(MAIN)]
        cells, traffic = [], []
        for name, row in rows.items():
            tuned = "tuned" if "tuned_test" in row else "plain"
            after = cell(row["tuned_test"]) if tuned == "tuned" else "-"
            over = [cell(row[f"{tuned}_over_{rival}"], "+") for rival in ("fedavg", "local")]
            cells.append([TITLES[name], cell(row["plain_test"]), after, *over])
            if name != "local":
                seeds = ", ".join("never" if r is None else str(r) for r in row["rounds"])
                total = ", ".join("never" if b is None else f"{b / 1e6:.2f}" for b in row["bytes"])
                snr = f"{row['noise']['snr']:.2f}" if row["noise"] else "-"
                size = f"{row['round_bytes'] / 1e6:.2f}"
                traffic.append([TITLES[name], seeds, cell(row["ratio"]), size, total, snr])
        heads = ["method", "as it comes", "+ fine-tuning", "- (FedAvg + fine-tuning)", "- local"]
        made["methods"] = table(heads, cells, main_parts)
        heads = ["method", "rounds, by seed", "/ FedAvg's", "MB per round", "MB, by seed", "signal / noise at best"]
        made["rounds"] = table(heads, traffic, main_parts)
    cells = []
    for alpha, found in result.items():
        one, two = found["local"], found["fedavg"]
        shown = [one["plain_test"], two["plain_test"], two["tuned_test"], one["plain_everywhere"]]
        shown += [two["plain_everywhere"], two["tuned_everywhere"]]
        cells.append([alpha, *(cell(value) for value in shown), single(parts, alpha)])
    heads = ["Dirichlet alpha", "local", "FedAvg", "FedAvg + fine-tuning", "on everyone's test slices: local", "FedAvg"]
    heads += ["+ fine-tuning", f"sites with one class in test, of {SITES}, by seed"]
    return made | {"skew": table(heads, cells, parts)}


def single(parts: Sequence[Part], alpha: str) -> str:
    """Return for every seed at how many sites the test part holds one class."""
    mine = [part for part in parts if (str(part.key["alpha"]), part.key["method"]) == (alpha, "local")]
    return ", ".join(
        str(sum(sum(count > 0 for count in row["test"]) == 1 for row in part.numbers["support"].values()))
        for part in mine
    )


def measure(args: Any, parts: Parts) -> None:
    """Run what is not there yet; alpha MAIN with all methods first."""
    import torch

    torch.set_num_threads(args.threads)
    rounds, work = (2, 2) if args.quick else (args.rounds, args.work)
    data = args.data or ("phantoms" if args.quick else "cheng")
    settings = {"data": data, "rounds": rounds, "work": work, "lr": args.lr, "split": args.split}
    schedule = Schedule(rounds, work, args.lr, 0.9, True, 0.0, 1.0, "cosine")
    ks = (0, 1) if args.quick else (0, 1, 5, 20)
    seeds = args.seeds[:1] if args.quick else args.seeds
    alphas = sorted([MAIN] if args.quick else args.alphas, key=lambda a: (a != MAIN, a))
    with tempfile.TemporaryDirectory() as name_:
        folder = Path(name_)
        whole = lru_cache(partial(whole_set, data, folder, args.root, 30 if args.quick else 60))
        for alpha, seed in [(alpha, seed) for alpha in alphas for seed in seeds]:
            wanted = [n for n in args.methods if n in (SWEEP if alpha != MAIN else QUICK if args.quick else NAMES)]
            keys = [
                {"alpha": alpha if math.isfinite(alpha) else "inf", "method": name, "seed": seed} for name in wanted
            ]
            keys = [key for key in keys if parts.missing(key, settings)]
            if not keys:
                continue
            sites = open_sites(whole(), alpha, seed, folder, args.split)
            public = open_public(folder, seed) if {key["method"] for key in keys} & set(NOISED) else None
            for key in keys:
                parts.measure(key, settings, partial(one_part, key["method"], sites, public, schedule, ks))


def main() -> None:
    """Run what is missing of the main table and the sweep, and print them."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("cheng", "phantoms"), help="default: cheng; with --quick: phantoms")
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="deals, splits, weights and batches")
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS), help="label skew; inf: none")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="the second is that of the jobs")
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=NAMES, help="rows of the main table")
    parser.add_argument("--rounds", type=int, default=8, help="of every federation")
    parser.add_argument("--work", type=int, default=10, help="gradient steps of a site in a round")
    parser.add_argument("--lr", type=float, default=0.02, help="of the first round")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    with kept("tumour_types", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({"alphas": summarise(done)}, as_json=args.json)


if __name__ == "__main__":
    command(main)
