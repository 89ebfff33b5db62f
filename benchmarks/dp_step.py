"""Seconds and memory of a DP-SGD step with patients as samples, beside a plain step, on the U-Net of the jobs.

Compute: one fixed batch of patches, from weights to gradient (dp_methods.py lists the methods). Whole step: patches cut and
augmented from phantoms too, as a site does in a round. Ratios are medians over pairs that ran in turn; who begins changes
every time. The plain step trains everything, also where the private one trains scales, shifts and biases alone ("affine").
Goals, set before they were measured: 1.5 for all weights; 1.2 for the affine part, which needs no weight gradient, whole
step included. Memory: the peak of a process that does nothing else. On a machine that others use too, threads that spin while
they wait for one another make every number meaningless, hence OMP_WAIT_POLICY (for all methods alike):

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2 python benchmarks/dp_step.py --json
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import Part, Table, arguments, command, finish, kept, one_settings, say, show, table
from overhead_data import in_own_process, median, phantom_folder, phantom_site

PATCH, QUICK_PATCH = 32, 16
QUICK = ("ours", "affine", "opacus hooks")
OPACUS = ("opacus hooks", "opacus functorch", "opacus ghost")


def paired(ours: Callable[[], Any], plain: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return the medians of both and of the ratio, after two of each to warm up."""
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for repeat in range(-2, repeats):
        order = [("ours", ours), ("plain", plain)]
        for name, run in order if repeat % 2 == 0 else order[::-1]:
            begun = time.perf_counter()
            run()
            if repeat >= 0:
                found[name].append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(found["ours"], found["plain"], strict=True)]
    return {"ms": 1e3 * median(found["ours"]), "plain_ms": 1e3 * median(found["plain"]), "ratio": median(ratios)}


def compute(name: str, patients: int, repeats: int, patch: int) -> dict[str, float]:
    """Measure one method against the plain step, and how far its result is from the patient-by-patient one."""
    import dp_methods

    method = dp_methods.METHODS[name]
    ours, plain = (make(dp_methods.setting(patients, patch)) for make in (method, dp_methods.plain))
    result = paired(ours, plain, repeats)
    if name not in dp_methods.NOT_COMPARED:
        result["difference"] = dp_methods.difference(name, patients, patch)
    return result


def whole(folder: Path, patients: int, repeats: int, patch: int, parts: tuple[str, ...] = ()) -> dict[str, float]:
    """Measure a site's step from cutting patches to the gradient: private and plain, the same number of patients.

    parts: of the network that the private step trains; none: everything, as the plain step does.
    """
    from wardround.algorithms.train_only import TrainOnly
    from wardround.dp.dp_sgd import PatientDP, noised_mean
    from wardround.models.roles import shared_layout
    from wardround.training.dp_training import DPSite, PatientPatches

    data = phantom_folder(folder / "data", 2 * patients + 4)
    site = phantom_site(data, folder / "cache", patients, augment=True, patch=(patch,) * 3)
    home = DPSite(site, PatientDP(1.0, 1.0, 0.05, 100), at_once=max(8, patients))
    blocks = shared_layout(site.model.module, TrainOnly(parts).home_roles).names if parts else None
    size, source = home.road(blocks).layout.total, PatientPatches(home, "benchmark", blocks=blocks)
    objective, w = site.objective("benchmark"), site.model.vector.clone()
    chosen = source.patients[:patients]

    def private() -> Any:
        return noised_mean(source.gradients(w, source.sample(chosen)), home.promise, size)

    def plain() -> Any:
        return objective.value_and_grad(w, objective.batch(chosen))

    return paired(private, plain, repeats)


def measure(patients: int, repeats: int, quick: bool) -> dict[str, Any]:
    """Return every number of the table at one number of patients per step."""
    import dp_methods

    patch = QUICK_PATCH if quick else PATCH
    names = [name for name in dp_methods.METHODS if name in QUICK or (not quick and name != "plain")]
    if importlib.util.find_spec("opacus") is None:
        say("opacus is not installed: its rows are left out")
        names = [name for name in names if name not in OPACUS]
    rows: dict[str, Any] = {}
    for name in names:
        say(f"{patients} patients: {name}")
        rows[name] = compute(name, patients, repeats, patch)
    say(f"{patients} patients: whole step")
    with tempfile.TemporaryDirectory(prefix="dp-step-") as folder:
        rows["whole step"] = whole(Path(folder), patients, repeats, patch)
    say(f"{patients} patients: whole step, affine")
    with tempfile.TemporaryDirectory(prefix="dp-step-") as folder:
        rows["whole step, affine"] = whole(Path(folder), patients, repeats, patch, ("affine",))
    for name in ["plain", *names]:
        memory = in_own_process("dp_methods", "memory", name=name, patients=patients, patch=patch)
        rows.setdefault(name, {}).update(memory)
    return rows


def summary(part: Part) -> dict[str, Any]:
    """Return the keys of the JSON line."""

    def of(name: str, key: str) -> float | None:
        return part.numbers.get(name, {}).get(key)

    return {
        "ratio": of("ours", "ratio"),
        "whole_ratio": of("whole step", "ratio"),
        "affine_ratio": of("affine", "ratio"),
        "affine_whole_ratio": of("whole step, affine", "ratio"),
        "opacus_ratio": of("opacus hooks", "ratio"),
        "opacus_ghost_ratio": of("opacus ghost", "ratio"),
        "peak_mb": of("ours", "peak_mb"),
        "plain_peak_mb": of("plain", "peak_mb"),
        "opacus_peak_mb": of("opacus hooks", "peak_mb"),
        "patients": part.key["patients"],
        "raw": part.numbers,
    }


def cells(name: str, row: Mapping[str, float]) -> list[str]:
    """Return one row of the table."""
    return [
        name,
        f"{row['ratio']:.2f}" if "ratio" in row else "1",
        f"{row['ms']:.0f} / {row['plain_ms']:.0f}" if "ms" in row else "",
        f"{row['difference']:.0e}" if "difference" in row else "",
        f"{row['peak_mb']:.0f} ({row['steps_mb']:+.0f})" if "peak_mb" in row else "",
    ]


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return one table, a row per number of patients and method."""
    one_settings(parts)
    ordered = sorted(parts, key=lambda part: part.key["patients"])
    rows = [[part.key["patients"], *cells(name, row)] for part in ordered for name, row in part.numbers.items()]
    heads = ["patients", "step", "ratio to plain", "ms / plain ms", "off from one by one", "peak MB (for the steps)"]
    return {"step": table(heads, rows, parts)}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = arguments(__doc__ or "")
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--repeats", type=int, default=11, help="pairs per row")
    found.add_argument(
        "--patients", type=int, nargs="+", default=[4, 8], help="patients per step; the JSON line has the fewest"
    )
    return found


def main() -> None:
    """Measure what is missing, print the table, and the JSON line if asked for."""
    args = parser().parse_args()
    batches, repeats = (args.patients[:1], 1) if args.quick else (args.patients, args.repeats)
    with kept("dp_step", args) as parts:
        for patients in () if args.show else batches:
            options = {"quick": args.quick, "repeats": repeats}
            parts.measure({"patients": patients}, options, partial(measure, patients, repeats, args.quick))
        done = parts.read()
    show(tables(done))
    finish(summary(min(done, key=lambda part: part.key["patients"])), as_json=args.json)


if __name__ == "__main__":
    command(main)
