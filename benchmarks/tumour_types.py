"""Tumour types on slices at four hospitals with label skew: what is gained by sharing, by masks, and lost by noise.

Data: `cheng` (glioma, meningioma, pituitary; T1ce slices, pseudo-patients: blocks of neighbouring slices) dealt by Dirichlet
label skew. A seed is a deal, a split, first weights, batches and noise. Scores are balanced accuracies over the slices of the
classes PRESENT in a site's part (support is printed), mean over sites, 95 % t-interval over seeds; `everywhere`: over the test
slices of all sites together. k of the fine-tuning is chosen on validation; nothing is chosen on test.

    local        each site alone, the same number of steps        fedavg      everything is shared
    masks_*      KL masks over all blocks, and their controls     norms       FedSim: only the norms are shared, no noise
    dp_iso       norms + hospital-level noise, s = 1              mmpfl_adp   KL masks over the norms + adaptive noise
Clip, v and h of the noise come from a rehearsal at a PUBLIC phantom hospital (typed phantoms, T1ce) that takes no part. Sites
weigh as many training patients as they have, all the same where norms are shared. Masks also look at two batches a round.
Rounds and bytes (float32, up and down, all sites; personal blocks travel as zeros) until the mean validation score, before
fine-tuning, is 95 % of FedAvg's last one. A site of one class: always saying that class scores 1.
The README's tables have the split by the patient's id alone, which can leave a class of a small site out of its test part.

    python benchmarks/tumour_types.py --save parts.json --json
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_noise_dice import DELTA, EPSILON, NoisedSum
from common import arguments, cell, command, finish, interval, root_option, say
from methods import MASKS, MEAN, PARTS
from tumour_types_data import (
    CLASSES,
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
from wardround.hospital.consortium import Consortium
from wardround.hospital.rehearsal import rehearse
from wardround.privacy.accounting import for_gaussians, mu_for
from wardround.privacy.hospital_dp import HospitalDP, signal_to_noise
from wardround.privacy.scales import by_block, groups_of

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
QUICK = ("local", "fedavg", "mmpfl_adp")


def noise(name: str, public: Any, schedule: Schedule) -> tuple[Any, dict[str, float]]:
    """Return the sum of a noised method, and what it promises: clip, multiplier, signal-to-noise ratio at best."""
    seen = rehearse(public, FedAvg(), PARTS["norms"], public.model.vector.clone(), schedule.steps(0), 16)
    s = seen.scales if name == "mmpfl_adp" else (1.0,) * len(seen.v)
    z = math.sqrt(schedule.rounds) / mu_for(EPSILON, for_gaussians(DELTA))
    promise = HospitalDP(seen.clip(s), z, SITES, SITES, 0, hidden=True, bits=16)
    ratio = signal_to_noise(promise, SITES, seen.layout.total, schedule.rounds)
    blocks = by_block(seen.layout, groups_of(seen.layout), s)
    told = {"clip": promise.clip, "z": z, "snr": ratio, "least_scale": min(s), "largest_scale": max(s)}
    return lambda round_: NoisedSum(promise, blocks), told


def one_method(name: str, sites: Mapping[str, Any], public: Any, schedule: Schedule, ks: tuple[int, ...]) -> Any:
    """Return site -> {"0": plain, "best": after k steps, "k"}, the validation score by round, values shared, the noise."""
    initial = next(iter(sites.values())).model.vector.clone()
    if name == "local":
        table = {}
        for site, one in sites.items():
            w = local_only(one.oracle("train", 0), schedule, initial)
            table[site] = {"0": {"val": validated(one, w), **tested(one, w), "everywhere": everywhere(sites, w)}}
        return {"sites": table}
    sharing, layout = METHODS[name], next(iter(sites.values())).layout
    equal = bool(sharing.home_roles)
    together = Consortium(sites, FedAvg(), MEAN, schedule, equal, sharing)
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
        tuned = fine_tune(start, one.oracle("fine-tune"), ks, Steps(work=max(ks), lr=0.005))
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


def means(part: Mapping[str, Any], method: str, key: str, what: str = "test") -> float:
    """Return the mean over sites."""
    return float(np.mean([row[key][what] for row in part["methods"][method]["sites"].values()]))


def reached(part: Mapping[str, Any], method: str) -> int | None:
    """Return after how many rounds the validation score is REACH of FedAvg's last one; never: None."""
    goal = REACH * part["methods"]["fedavg"]["curve"][-1]
    return next((r + 1 for r, value in enumerate(part["methods"][method]["curve"]) if value >= goal), None)


def summarise(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return alpha -> method -> means over seeds with intervals, differences to FedAvg + fine-tune, rounds and bytes."""
    out: dict[str, Any] = {}
    for alpha in sorted({part["alpha"] for part in parts}):
        mine = [part for part in parts if part["alpha"] == alpha]
        everyone = [name for name in NAMES if all(name in part["methods"] for part in mine)]
        for name in everyone if set(SWEEP) <= set(everyone) else ():
            row: dict[str, Any] = {}
            for key, label in (("0", "plain"), ("best", "tuned")):
                if name == "local" and key == "best":
                    continue
                for what in ("test", "blocks", "val", *(["everywhere"] if name in SWEEP else [])):
                    row[f"{label}_{what}"] = interval([means(part, name, key, what) for part in mine])
                for rival, rung in (("fedavg", "best"), ("local", "0")):
                    gaps = [means(part, name, key) - means(part, rival, rung) for part in mine]
                    row[f"{label}_over_{rival}"] = interval(gaps)
            if name != "local":
                rounds, base = [reached(p, name) for p in mine], [reached(p, "fedavg") for p in mine]
                pairs = [a / b for a, b in zip(rounds, base, strict=True) if a is not None and b is not None]
                per_round = 2 * 4 * SITES * mine[0]["methods"][name]["values"]
                row |= {"rounds": rounds, "ratio": interval(pairs) if pairs else None, "round_bytes": per_round}
                row["bytes"] = [None if r is None else r * per_round for r in rounds]
                row["noise"] = mine[0]["methods"][name]["noise"]
            out.setdefault(str(alpha), {})[name] = row
    return out


def show(parts: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Print support, the scores of every site, the main table, rounds and bytes, and the sweep."""
    for part in parts:
        print(f"\nalpha {part['alpha']}, seed {part['seed']}: pseudo-patients ({', '.join(CLASSES)})")
        for site, row in part["support"].items():
            print(f"  {site}: " + ", ".join(f"{name} {'/'.join(map(str, counts))}" for name, counts in row.items()))
        for name, found in part["methods"].items():
            cells = [
                f"{r['0']['test']:.2f}" + (f" > {r['best']['test']:.2f} (k {r['k']})" if "k" in r else "")
                for r in found["sites"].values()
            ]
            print(f"    {name}: " + ", ".join(cells))
    rows = result.get(str(MAIN), {})
    if rows:
        print(f"\nalpha {MAIN}\n\n| method | plain | + fine-tune | - (FedAvg + fine-tune) | - local |")
        print("|" + "---|" * 5)
        for name, row in rows.items():
            tuned = "tuned" if "tuned_test" in row else "plain"
            after = cell(row["tuned_test"]) if tuned == "tuned" else "-"
            print(
                f"| {name} | {cell(row['plain_test'])} | {after} | {cell(row[f'{tuned}_over_fedavg'], '+')} "
                f"| {cell(row[f'{tuned}_over_local'], '+')} |"
            )
        print("\n| method | rounds, by seed | / FedAvg's | MB per round | MB, by seed | SNR |\n" + "|" + "---|" * 6)
        for name, row in rows.items():
            if name != "local":
                seeds = ", ".join("never" if r is None else str(r) for r in row["rounds"])
                total = ", ".join("never" if b is None else f"{b / 1e6:.2f}" for b in row["bytes"])
                snr = f"{row['noise']['snr']:.2f}" if row["noise"] else "-"
                print(f"| {name} | {seeds} | {cell(row['ratio'])} | {row['round_bytes'] / 1e6:.2f} | {total} | {snr} |")
    print("\n| alpha | local | FedAvg | FedAvg + fine-tune | local - tuned | everywhere: local | FedAvg | tuned |")
    print("|" + "---|" * 8)
    for alpha, found in result.items():
        one, two = found.get("local"), found.get("fedavg")
        if one and two:
            cells = [cell(one["plain_test"]), cell(two["plain_test"]), cell(two["tuned_test"])]
            cells += [cell(one["plain_over_fedavg"], "+"), cell(one["plain_everywhere"])]
            cells += [cell(two["plain_everywhere"]), cell(two["tuned_everywhere"])]
            print(f"| {alpha} | " + " | ".join(cells) + " |")


def measure(args: Any, parts: list[dict[str, Any]]) -> None:
    """Run what is not in `parts` yet; alpha MAIN with all methods first."""
    import torch

    torch.set_num_threads(args.threads)
    rounds, work = (2, 2) if args.quick else (args.rounds, args.work)
    data = args.data or ("phantoms" if args.quick else "cheng")
    settings = {"data": data, "rounds": rounds, "work": work, "lr": args.lr, "split": args.split}
    if strange := [part["settings"] for part in parts if part["settings"] != settings]:
        raise SystemExit(f"{args.save} has runs with {strange[0]}, not {settings}: name another file")
    schedule = Schedule(rounds, work, args.lr, 0.9, True, 0.0, 1.0, "cosine")
    ks = (0, 1) if args.quick else (0, 1, 5, 20)
    seeds = args.seeds[:1] if args.quick else args.seeds
    alphas = sorted([MAIN] if args.quick else args.alphas, key=lambda a: (a != MAIN, a))
    with tempfile.TemporaryDirectory() as name_:
        folder = Path(name_)
        whole = whole_set(data, folder, args.root, 30 if args.quick else 60)
        for alpha, seed in [(alpha, seed) for alpha in alphas for seed in seeds]:
            before = next((p for p in parts if (p["alpha"], p["seed"]) == (alpha, seed)), None)
            wanted = [n for n in args.methods if n in (SWEEP if alpha != MAIN else QUICK if args.quick else NAMES)]
            if before is not None and set(wanted) <= set(before["methods"]):
                continue
            sites = open_sites(whole, alpha, seed, folder, args.split)
            public = open_public(folder, seed) if set(wanted) & set(NOISED) else None
            part = before or {
                "alpha": alpha,
                "seed": seed,
                "settings": settings,
                "support": support(sites),
                "methods": {},
            }
            parts += [] if before else [part]
            for name in [n for n in wanted if n not in part["methods"]]:
                begun = time.monotonic()
                part["methods"][name] = one_method(name, sites, public, schedule, ks)
                spent = part["methods"][name]["seconds"] = round(time.monotonic() - begun, 1)
                curve = [round(value, 3) for value in part["methods"][name].get("curve", [])]
                mean, val = means(part, name, "0"), means(part, name, "0", "val")
                say(f"alpha {alpha} seed {seed} {name}: test {mean:.3f} val {val:.3f} {curve}, {spent} s")
                if args.save:
                    args.save.write_text(json.dumps(parts))


def main() -> None:
    """Run the main table and the sweep, or go on where `--save` stopped."""
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
    parser.add_argument("--save", type=Path, help="keep raw scores here; what the file has already is not run again")
    args = parser.parse_args()
    parts = json.loads(args.save.read_text()) if args.save and args.save.exists() else []
    measure(args, parts)
    result = summarise(parts)
    print(f"split {args.split}")
    show(parts, result)
    finish({"split": args.split, "alphas": result}, as_json=args.json)


if __name__ == "__main__":
    command(main)
