"""What the frame costs beside plain tools: training step, simulator, reading, the server's and a site's memory.

    train       seconds per optimisation step of the site's loop / of a MONAI loop        overhead_step.py
    simulator   start and seconds per round of our FedAvg job / of NVFlare's stock one     overhead_simulator.py
    reading     first and second opening of a site; NIfTI files opened in later epochs     overhead_reading.py
    server      peak memory and seconds per round for 4, 16 and 64 sites                   overhead_server.py
    site        peak memory of a process that opens a site and trains 10 steps             overhead_reading.py

Every ratio is the median over pairs that ran in turn in this session; seconds alone say little on a shared machine. What
exactly is compared stands at the top of each file.

    python benchmarks/overhead.py --json
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import overhead_simulator
import overhead_step
from common import Part, Parts, Table, arguments, command, finish, kept, known, show, table
from overhead_data import in_own_process, phantom_folder

Raw = dict[str, Any]


def train(folder: Path, quick: bool) -> Raw:
    """Measure the training step."""
    if quick:
        return overhead_step.measure(folder, patients=8, batches=(4,), steps=1, repeats=1, rows=("matched", "compute"))
    return overhead_step.measure(folder, patients=12, batches=(4, 2), steps=10, repeats=9)


def simulator(folder: Path, quick: bool) -> Raw:
    """Measure start and round of whole simulator processes (quick: ours and stock at the same time)."""
    return overhead_simulator.measure(folder / "simulator", num_rounds=2 if quick else 5, repeats=1 if quick else 3)


def reading(folder: Path, quick: bool) -> Raw:
    """Measure the openings of a site."""
    return in_own_process("overhead_reading", "measure", patients=5 if quick else 24)


def server(folder: Path, quick: bool) -> Raw:
    """Measure the server's side for several numbers of sites, each in a fresh process (quick: one number)."""

    def one(sites: int) -> Raw:
        return in_own_process("overhead_server", "measure", sites=sites, num_rounds=1 if quick else 5)

    return {str(number): one(number) for number in ((2,) if quick else (4, 16, 64))}


def site(folder: Path, quick: bool) -> Raw:
    """Measure the peak memory of a site."""
    data = phantom_folder(folder / "site", 5 if quick else 24)
    return in_own_process("overhead_reading", "train", data=str(data), batch=4)


PARTS: dict[str, Callable[[Path, bool], Raw]] = {
    "train": train,
    "simulator": simulator,
    "reading": reading,
    "server": server,
    "site": site,
}


def summary(raw: dict[str, Raw]) -> Raw:
    """Return the keys of the JSON line from the parts that ran, and all raw medians under `raw`."""
    result: Raw = {}
    if "train" in raw:
        ratios = {row: found["ratio"] for row, found in raw["train"].items()}
        result |= {"train_step_ratio": ratios["matched, batch 4"], "train_compute_ratio": ratios["compute, batch 4"]}
    if "simulator" in raw:
        ratios = raw["simulator"]["ratio"]
        result |= {"sim_start_ratio": ratios["start_s"], "sim_round_ratio": ratios["round_s"]}
        result |= {"sim_round_log_ratio": ratios["log_round_s"]}
    if "reading" in raw:
        result |= {key: raw["reading"][key] for key in ("first_open_s", "second_open_s", "second_epoch_decodes")}
    if "server" in raw:
        result |= {"server_rss_mb": {n: found["peak_rss_mb"] for n, found in raw["server"].items()}}
        result |= {"server_round_s": {n: found["round_s"] for n, found in raw["server"].items()}}
    if "site" in raw:
        result |= {"site_peak_rss_mb": raw["site"]["site_peak_rss_mb"]}
    return result | {"raw": raw}


def rows_of(raw: Mapping[str, Raw]) -> list[tuple[str, str, str]]:
    """Return rows of (what, found, goal) for the parts that ran."""
    rows = []
    for row, found in raw.get("train", {}).items():
        seconds = f"{1e3 * found['ours_s']:.0f} / {1e3 * found['monai_s']:.0f} ms"
        goal = "<= 0.8" if row.startswith("matched") else ""
        rows.append((f"training step, {row}: ours / MONAI", f"{found['ratio']:.2f} ({seconds})", goal))
    if "simulator" in raw:
        ours, stock, ratio = (raw["simulator"][key] for key in ("ours", "stock", "ratio"))
        names = {"start_s": ("start", "<= 1"), "round_s": ("round", "<= 0.33"), "log_round_s": ("round by the log", "")}
        for key, (name, goal) in names.items():
            rows.append(
                (
                    f"simulator {name}: ours / stock FedAvg",
                    f"{ratio[key]:.2f} ({ours[key]:.2f} / {stock[key]:.2f} s)",
                    goal,
                )
            )
        rows.append(("of our start: judgement and reports", f"{ours['finish_s']:.2f} s", ""))
    if "reading" in raw:
        found = raw["reading"]
        rows.append(("first opening", f"{found['first_open_s']:.2f} s, {found['first_open_decodes']} files", ""))
        rows.append(("second opening", f"{found['second_open_s']:.3f} s, {found['second_open_decodes']} files", ""))
        rows.append(("files decoded in the second epoch", f"{found['second_epoch_decodes']}", "0"))
    for number, found in raw.get("server", {}).items():
        memory = f"{found['peak_rss_mb']:.0f} MB ({found['start_rss_mb']:.0f} before the first round)"
        rows.append((f"server, {number} sites", f"{memory}, {found['round_s']:.2f} s per round", "flat"))
    if "site" in raw:
        rows.append(("site, peak memory", f"{raw['site']['site_peak_rss_mb']:.0f} MB", ""))
    return rows


def raw_of(parts: Sequence[Part]) -> dict[str, Raw]:
    """Return part -> what it found, in the order of PARTS."""
    known(parts, "part", PARTS)
    found = {part.key["part"]: part.numbers for part in parts}
    return {name: found[name] for name in PARTS if name in found}


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table."""
    return {"costs": table(["what", "found", "goal"], rows_of(raw_of(parts)), parts)}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = arguments(__doc__ or "")
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="measure only these")
    return found


def main() -> None:
    """Measure what is missing, print the table, and the JSON line if asked for."""
    args = parser().parse_args()
    with kept("overhead", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish(summary(raw_of(done)), as_json=args.json)


def measure(args: argparse.Namespace, parts: Parts) -> None:
    """Measure the parts that are asked for and not there yet."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        for name in args.parts:
            parts.measure({"part": name}, {"quick": args.quick}, partial(PARTS[name], Path(folder), args.quick))


if __name__ == "__main__":
    command(main)
