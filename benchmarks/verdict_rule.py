"""By which rule should a hospital choose among its models, when few validation patients are all it has?

Hospitals of phantoms are trained together and alone, and every model that the verdict may choose from (local, FedAvg and a
personalised model after every number of fine-tuning steps, weights between, blends) is scored on a large pool of patients that
nobody trained on. One score per patient and model is kept. Then a hospital of n validation patients is drawn from the pool many
times: it tunes, mixes and chooses on those n as the product does, and the rest of the pool says what the choice was worth.

Fixed before the first run: a rule is better that leaves fewer hospitals below their own local model by more than .005 Dice on
average over the draws; of equal ones the one with the higher mean gain. `worst` is the hospital with the lowest average gain.

    python benchmarks/verdict_rule.py --json
    python benchmarks/verdict_rule.py --show                    (the tables of the parts that are there)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import Part, Table, arguments, command, finish, kept, known, one_settings, say, show, table

Scores = Mapping[str, NDArray[np.float64]]
# Hospitals that differ in scanner and patients, each with few or more training patients; and hospitals that are alike.
WORLDS = {
    "other scanners, 4 to 12 patients": ((0, 12), (1, 8), (2, 6), (3, 4)),
    "other scanners, 16 patients each": ((0, 16), (1, 16), (2, 16), (3, 16)),
    "one kind of scanner, 4 to 12 patients": ((0, 12), (0, 8), (0, 6), (0, 4)),
}
SHARES = (0.25, 0.5, 0.75)
BELOW = -0.005
# What a hospital could do that looks at nothing.
DEFAULTS = {"always local": "local", "always FedAvg": "fedavg 0", "always half of each": "blend fedavg 0 0.5"}
DRAWS = 100


def settings(quick: bool) -> dict[str, Any]:
    """Return what is trained, and how many patients are held out."""
    schedule = {
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0,
        "clip_norm": 10.0,
        "decay": "cosine",
    }
    schedule |= {"num_rounds": 2, "work": 2} if quick else {"num_rounds": 8, "work": 30}
    return {
        "schedule": schedule,
        "shape": (16, 16, 16) if quick else (24, 24, 24),
        "patch": (8, 8, 8) if quick else (16, 16, 16),
        "channels": (4, 8) if quick else (8, 16),
        "pool": 6 if quick else 32,
        "ks": (0, 1) if quick else (0, 5, 20),
        "fine_tune_lr": 0.01,
    }


def sites_of(world: str, seed: int, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the hospitals of a world; validation and test are both the pool."""
    from dataclasses import replace

    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.data.splits import Split
    from wardround.models.nets import UNet3d
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort
    from wardround.training.segmentation import Sampling, SegmentationSite

    sampling = Sampling(options["patch"], 2, tumour_probability=0.67, augment=True)
    made = {}
    for index, (profile, train) in enumerate(WORLDS[world]):
        name = f"site-{index + 1}"
        like = replace(hospital(profile), name=name)
        write_cohort(folder / name, like, 100 * seed + index, shape=options["shape"], patients=train + options["pool"])
        cohort = open_cohort(SiteConfig(data=folder / name), folder / "cache" / name)
        pool = tuple(cohort.cases[train:])
        split = Split(tuple(cohort.cases[:train]), pool, pool)
        made[name] = SegmentationSite(name, cohort, split, UNet3d(options["channels"]), sampling, seed, "cpu")
    return made


def measured(world: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return site -> model -> the Dice of every pool patient, in thousandths, as one text."""
    from wardround.algorithms.base import Steps
    from wardround.algorithms.ditto import Ditto
    from wardround.algorithms.fedavg import FedAvg
    from wardround.algorithms.federation import local_only
    from wardround.algorithms.finetune import fine_tune
    from wardround.algorithms.schedule import Schedule
    from wardround.algorithms.server_optimizers import Mean
    from wardround.models.flat import first_weights
    from wardround.models.nets import UNet3d
    from wardround.research.in_process import InProcessFederation
    from wardround.training.mixture import Mixture, Model

    schedule, ks = Schedule(**options["schedule"]), options["ks"]
    initial = first_weights(UNet3d(options["channels"]), seed)
    with tempfile.TemporaryDirectory() as folder:
        sites = sites_of(world, seed, options, Path(folder))
        trained = {}
        for arm, algorithm in (("fedavg", FedAvg()), ("personalised", Ditto(0.1))):
            together = InProcessFederation(sites, algorithm, Mean(1.0), schedule)
            trained[arm] = together.models(together.run(initial))
            say(f"  {arm}: trained")
        found = {}
        for name, site in sites.items():
            local = local_only(site.objective("local"), schedule, initial)
            models: dict[str, Model] = {"local": local}
            for arm in trained:
                walk = fine_tune(
                    trained[arm][name], site.objective("fine-tune"), ks, Steps(max(ks), options["fine_tune_lr"])
                )
                for k, w in walk.items():
                    models[f"{arm} {k}"] = w
                    models |= {f"blend {arm} {k} {a}": Mixture((local, w), (a, 1 - a)) for a in SHARES}
                    if k:
                        models[f"between {arm} {k} 0.5"] = 0.5 * walk[0] + 0.5 * w
            scores = site.validation_scores(models, site.split.val)
            texts = {key: " ".join(f"{1000 * one:.0f}" for one in score.patients) for key, score in scores.items()}
            found[name] = {"train": site.train_patients, "models": texts}
            say(f"  {name}: {len(models)} models scored on {len(site.split.val)} patients")
    return found


def scores_of(row: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Return model -> the Dice of every pool patient."""
    return {name: np.array(text.split(), float) / 1000 for name, text in row["models"].items()}


def candidates(scores: Scores, val: NDArray[np.int64], mixed: bool) -> dict[str, str]:
    """Return candidate -> model, tuned and mixed on these validation patients as the product does it.

    mixed: whether blend and interpolation are among the candidates
    """
    value = {name: float(one[val].mean()) for name, one in scores.items()}

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: value[name])

    def steps(arm: str) -> list[str]:
        return [name for name in scores if name.startswith(f"{arm} ")]

    picked = {"local": "local", "fedavg": steps("fedavg")[0], "fedavg_finetuned": best(steps("fedavg")[1:])}
    picked["personalised"] = best(steps("personalised"))
    if mixed:
        ends = [best(steps(arm)[1:]) for arm in ("fedavg", "personalised")]
        picked["interpolated"] = best([f"between {end} 0.5" for end in ends])
        of = best([picked[name] for name in ("fedavg", "fedavg_finetuned", "personalised")])
        picked["blend"] = best([f"blend {of} {share}" for share in SHARES])
    return picked


def choices(scores: Scores, val: NDArray[np.int64], mixed: bool) -> dict[str, str]:
    """Return rule -> the model that is deployed."""
    from wardround.reports.choice import RULES, choose_by
    from wardround.training.mixture import ValidationScore

    picked = candidates(scores, val, mixed)
    found = {
        name: ValidationScore(float(scores[model][val].mean()), tuple(scores[model][val]))
        for name, model in picked.items()
    }
    return DEFAULTS | {rule: picked[choose_by(rule, found)] for rule in RULES}


def gains(scores: Scores, mixed: bool, count: int, draws: int, seed: int) -> dict[str, list[float]]:
    """Return rule -> for every draw the test Dice of what is deployed minus that of the local model.

    The draws depend on seed and count alone, so that all rules see the same validation patients.
    """
    rng = np.random.default_rng([seed, count])
    pool = len(scores["local"])
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        order = rng.permutation(pool)
        val, test = order[:count], order[count:]
        for rule, model in choices(scores, val, mixed).items():
            found.setdefault(rule, []).append(float((scores[model] - scores["local"])[test].mean()))
    return found


def compared(parts: Sequence[Part], mixed: bool, counts: Sequence[int], draws: int) -> dict[str, Any]:
    """Return rule -> number of validation patients -> mean gain, worst hospital, hospitals and draws below."""
    hospitals = [scores_of(row) for part in parts for row in part.numbers.values()]
    result: dict[str, Any] = {}
    for count in counts:
        rows = [gains(one, mixed, count, draws, index) for index, one in enumerate(hospitals)]
        for rule in rows[0]:
            found = np.array([row[rule] for row in rows])
            each = found.mean(1)
            result.setdefault(rule, {})[count] = {
                "mean": float(each.mean()),
                "worst": float(each.min()),
                "below": int((each < BELOW).sum()),
                "draws_below": float((found < BELOW).mean()),
                "hospitals": len(each),
            }
    return result


def counts_of(parts: Sequence[Part]) -> tuple[int, ...]:
    """Return the numbers of validation patients that the smallest pool allows."""
    pool = min(len(scores_of(row)["local"]) for part in parts for row in part.numbers.values())
    return tuple(count for count in (2, 4, 8, 16) if count < pool - 1)


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the rules with and without blend and interpolation among the candidates."""
    known(parts, "world", WORLDS)
    one_settings(parts)
    counts = counts_of(parts)
    made = {}
    for name, mixed in (("candidates", False), ("with-blend", True)):
        rows = []
        for rule, found in compared(parts, mixed, counts, DRAWS).items():
            cells = [
                f"{one['mean']:+.3f} / {one['worst']:+.3f} / {one['below']} of {one['hospitals']}"
                for one in found.values()
            ]
            rows.append([f"`{rule}`" if rule not in DEFAULTS else rule, *cells])
        heads = [f"{count} validation patients" for count in counts]
        made[name] = table(["rule: mean gain / worst hospital / hospitals below -.005", *heads], rows, parts)
    return made


def main() -> None:
    """Run what is missing, and print the tables of the parts that are there."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="phantoms, first weights and batches")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS), help="which hospitals")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.worlds = args.seeds[:1], args.worlds[:1]
    with kept("verdict_rule", args) as parts:
        if not args.show:
            options = settings(args.quick)
            for seed in args.seeds:
                for world in args.worlds:
                    key = {"world": world, "seed": seed}
                    parts.measure(key, options, partial(measured, world, seed, options))
        done = parts.read()
    show(tables(done))
    finish({"rules": compared(done, True, counts_of(done), DRAWS)}, as_json=args.json)


if __name__ == "__main__":
    command(main)
