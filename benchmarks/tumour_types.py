"""Tumour types on slices at four hospitals with label skew: what is gained by sharing, by masks, and lost by noise.

Data: `cheng` (glioma, meningioma, pituitary; T1ce slices, pseudo-patients: blocks of neighbouring slices) dealt to four
hospitals by Dirichlet label skew, once. Cross-validation: every hospital's blocks are dealt to five folds evenly within
each class (research/class_folds.py); a part trains one method on three folds of every hospital, chooses on the fourth,
and tests the fifth. Over the folds every block is tested once by a model that has not seen it. A class of which a
hospital has one block or two is trained on there and not tested. A seed is the folds, first weights, batches and noise.

    local        each site alone, the same number of steps        fedavg      everything is shared
    masks_*      KL masks over all blocks, and their controls     norms       FedSim: only the norms are shared, no noise
    dp_iso       norms + hospital-level noise, s = 1              mmpfl_adp   KL masks over the norms + adaptive noise
Clip, v and h of the noise come from a rehearsal at a PUBLIC phantom hospital (typed phantoms, T1ce) that takes no part. Sites
weigh as many training patients as they have, all the same where norms are shared. Masks also look at two batches a round.
k of the fine-tuning is chosen on validation, nothing on test.

Registered before it was run, for alpha 0.5 and the settings below:
    score       of a hospital: the share of a block's slices that are right, mean over the blocks of a class, then over the
                classes tested there; mean over seeds. `blocks`: the same of the most likely class of the mean of a block.
    goals       FedAvg as it comes, mean of the four hospitals: 0.85 or more. FedAvg - local, paired by block and seed:
                the 95 % interval above 0, of the mean of the four hospitals, and at how many of them.
    interval    hospitals and classes are fixed; blocks are drawn with replacement within hospital and class, and seeds
                (reports/intervals.py, hierarchical_mean).
Rounds and bytes (float32, up and down, all sites; personal blocks travel as zeros) until the mean validation score, before
fine-tuning, is 95 % of FedAvg's last one. A site of one class: always saying that class scores 1; `everywhere` is the score
of a model over the test slices of all sites together.
The network, the augmentation and the schedule are those of tumour_types_data.py, Recipe. They are chosen by tune_types.py on
blocks that are held out in another deal (seed 100); these are test blocks of some fold here, as all blocks are.

    python benchmarks/tumour_types.py --alphas 0.5 --methods local fedavg --json      the goals
    python benchmarks/tumour_types.py --json                                          everything
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_noise_dice import DELTA, EPSILON, NoisedSum
from class_scores import above, at_sites, gaps, mean
from common import (
    Part,
    Parts,
    Table,
    arguments,
    cell,
    command,
    finish,
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
    CLASSES,
    FOLDS,
    SITES,
    Recipe,
    everywhere,
    open_public,
    open_sites,
    support,
    tested,
    validated,
    whole_set,
)
from tumour_types_data import settings as settings_of
from tumour_types_scores import by_alpha, over_all, scores, traffic
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

MAIN, ALPHAS, GOAL = 0.5, (0.05, 0.1, 0.5, math.inf), 0.85
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
            rows = {"val": validated(one, w), "rows": tested(one, w), "everywhere": everywhere(sites, w)}
            table[site] = {"0": rows}
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
        rows = {k: {"val": vals[k], "rows": tested(one, tuned[k])} for k in {0, best}}
        for k, row in rows.items():
            row |= {"everywhere": everywhere(sites, tuned[k])} if name in SWEEP else {}
        table[site] = {"0": rows[0], "best": rows[best], "k": best}
    roles = next(iter(sites.values())).roles
    blocks = zip(layout.names, layout.sizes, strict=True)
    values = sum(size for block, size in blocks if roles[block] not in sharing.home_roles)
    masked = {site: float(memory["mask"].sum()) for site, memory in result.memories.items() if "mask" in memory}
    return {"sites": table, "curve": curve, "values": values, "noise": told, "personal_values": masked}


def one_part(name: str, sites: Mapping[str, Any], public: Any, schedule: Schedule, ks: tuple[int, ...]) -> Any:
    """Return what one method gives on one fold, and how many pseudo-patients of which class every site has."""
    found = one_method(name, sites, public, schedule, ks)
    val = float(np.mean([row["0"]["val"] for row in found["sites"].values()]))
    say(f"{name}: val {val:.3f} {[round(value, 3) for value in found.get('curve', [])]}")
    return found | {"support": support(sites)}


def summarise(parts: Sequence[Part]) -> dict[str, Any]:
    """Return alpha -> method -> scores and paired differences with intervals, at every site and over all, and the traffic."""
    one_settings(parts)
    known(parts, "method", NAMES)
    out: dict[str, Any] = {}
    for alpha, methods in by_alpha(parts, NAMES).items():
        local = scores(methods["local"], "0")
        tuned = scores(methods["fedavg"], "best")
        for name, mine in methods.items():
            row: dict[str, Any] = {}
            for key, label in (("0", "plain"), ("best", "tuned")):
                if name == "local" and key == "best":
                    continue
                own = scores(mine, key)
                row[f"{label}_test"] = mean(own)
                row[f"{label}_blocks"] = mean(scores(mine, key, whole_blocks=True))
                row[f"{label}_over_local"] = mean(gaps(own, local))
                row[f"{label}_over_fedavg"] = mean(gaps(own, tuned))
                row[f"{label}_sites"] = at_sites(own)
                row[f"{label}_sites_over_local"] = at_sites(gaps(own, local))
                if name in SWEEP:
                    row[f"{label}_everywhere"] = over_all(mine, key)
            if name != "local":
                row |= traffic(mine, methods["fedavg"])
            out.setdefault(alpha, {})[name] = row
    return out


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the goals, the hospitals, the main table, its rounds and bytes, and the sweep over label skew."""
    result, made = summarise(parts), {}
    rows = result.get(str(MAIN), {})
    if rows:
        mine = [part for part in parts if str(part.key["alpha"]) == str(MAIN)]
        made["goals"] = goals(rows, mine)
        made["hospitals"] = hospitals(rows, mine)
        cells, lines = [], []
        for name, row in rows.items():
            tuned = "tuned" if "tuned_test" in row else "plain"
            after = cell(row["tuned_test"]) if tuned == "tuned" else "-"
            over = [cell(row[f"{tuned}_over_{rival}"], "+") for rival in ("fedavg", "local")]
            cells.append([TITLES[name], cell(row["plain_test"]), cell(row["plain_blocks"]), after, *over])
            if name != "local":
                seeds = ", ".join("not in every fold" if r is None else f"{r:.1f}" for r in row["rounds"])
                total = ", ".join("-" if b is None else f"{b / 1e6:.1f}" for b in row["bytes"])
                snr = f"{row['noise']['snr']:.2f}" if row["noise"] else "-"
                size = f"{row['round_bytes'] / 1e6:.2f}"
                lines.append([TITLES[name], seeds, cell(row["ratio"]), size, total, snr])
        heads = ["method", "as it comes", "whole blocks", "+ fine-tuning", "- (FedAvg + fine-tuning)", "- local"]
        made["methods"] = table(heads, cells, mine)
        heads = ["method", "rounds, by seed", "/ FedAvg's", "MB per round", "MB, by seed", "signal / noise at best"]
        made["rounds"] = table(heads, lines, mine)
    cells = []
    for alpha, found in result.items():
        one, two = found["local"], found["fedavg"]
        shown = [one["plain_test"], two["plain_test"], two["tuned_test"], one["plain_everywhere"]]
        shown += [two["plain_everywhere"], two["tuned_everywhere"]]
        cells.append([alpha, *(cell(value) for value in shown), cell(two["plain_over_local"], "+")])
    heads = ["Dirichlet alpha", "local", "FedAvg", "FedAvg + fine-tuning", "on everyone's test slices: local", "FedAvg"]
    heads += ["+ fine-tuning", "FedAvg - local"]
    return made | {"skew": table(heads, cells, parts)}


def goals(rows: Mapping[str, Any], parts: Sequence[Part]) -> Table:
    """Return what was registered, what was found, and whether it is met."""
    row = rows["fedavg"]
    many = sum(above(gap) for gap in row["plain_sites_over_local"].values())
    found = [
        [f"FedAvg, mean of {SITES} hospitals: {GOAL} or more", cell(row["plain_test"]), row["plain_test"][0] >= GOAL],
        ["FedAvg - local, mean of them: above 0", cell(row["plain_over_local"], "+"), above(row["plain_over_local"])],
        ["the same at every hospital", f"{many} of {SITES}", many == SITES],
    ]
    return table(["goal", "found [95 %]", ""], [[*words, "met" if met else "not met"] for *words, met in found], parts)


def hospitals(rows: Mapping[str, Any], parts: Sequence[Part]) -> Table:
    """Return a row per hospital: its blocks, both scores, and what FedAvg gains over local, plain and fine-tuned."""
    one, two, counts = rows["local"], rows["fedavg"], parts[0].numbers["support"]
    cells = []
    for site in one["plain_sites"]:
        whole = [sum(classes) for classes in zip(*counts[site].values(), strict=True)]
        words = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, whole, strict=True))
        shown = [one["plain_sites"][site], two["plain_sites"][site], two["tuned_sites"][site]]
        over = [cell(two[f"{label}_sites_over_local"][site], "+") for label in ("plain", "tuned")]
        cells.append([site, words, *(f"{value[0]:.3f}" for value in shown), *over])
    heads = ["hospital", "blocks", "local", "FedAvg", "+ fine-tuning", "FedAvg - local", "fine-tuned - local"]
    return table(heads, cells, parts)


def measure(args: Any, parts: Parts) -> None:
    """Run what is not there yet; alpha MAIN first, and there the goals' two methods first."""
    import torch

    torch.set_num_threads(args.threads)
    recipe = Recipe(rounds=args.rounds, work=args.work, lr=args.lr, weight_decay=args.weight_decay)
    recipe = replace(recipe, depth=1, rounds=2, work=2) if args.quick else recipe
    data, folds = args.data or ("phantoms" if args.quick else "cheng"), 3 if args.quick else FOLDS
    settings = {"data": data, **settings_of(recipe, folds)}
    ks = (0, 1) if args.quick else (0, 1, 5, 20)
    seeds = args.seeds[:1] if args.quick else args.seeds
    alphas = sorted([MAIN] if args.quick else args.alphas, key=lambda a: (a != MAIN, a))
    with tempfile.TemporaryDirectory() as name_:
        folder = Path(name_)
        whole = lru_cache(partial(whole_set, data, folder, args.root, 50 if args.quick else 60, recipe.size))
        for alpha, seed, fold in [(alpha, seed, fold) for alpha in alphas for seed in seeds for fold in range(folds)]:
            wanted = [n for n in args.methods if n in (SWEEP if alpha != MAIN else QUICK if args.quick else NAMES)]
            about = {"alpha": alpha if math.isfinite(alpha) else "inf"}
            keys = [about | {"method": name, "seed": seed, "fold": fold} for name in wanted]
            keys = [key for key in keys if parts.missing(key, settings)]
            if not keys:
                continue
            sites = open_sites(whole(), alpha, (seed, fold, folds), folder, recipe)
            public = open_public(folder, seed, recipe) if {key["method"] for key in keys} & set(NOISED) else None
            for key in keys:
                parts.measure(key, settings, partial(one_part, key["method"], sites, public, recipe.schedule, ks))


def main() -> None:
    """Run what is missing of the main table and the sweep, and print them."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", choices=("cheng", "phantoms"), help="default: cheng; with --quick: phantoms")
    root_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="folds, first weights and batches")
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS), help="label skew; inf: none")
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=NAMES, help="rows of the main table")
    parser.add_argument("--rounds", type=int, default=Recipe.rounds, help="of every federation")
    parser.add_argument("--work", type=int, default=Recipe.work, help="gradient steps of a site in a round")
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="of the first round")
    parser.add_argument("--weight-decay", type=float, default=Recipe.weight_decay, help="of every step")
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
