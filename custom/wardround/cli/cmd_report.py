"""`wardround report` rebuilds a run's report and says how the run ended."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wardround.core.terminal import command, existing, folder
from wardround.jobs import results

TEXT = """
Rebuild report.json and report.html of a run from what the server wrote, and print the verdict for every hospital.
Exit code 0: complete; 1: incomplete (a site was lost, or the run ended early), with the reasons; 2: there is no run.

  wardround report wardround_runs/brats_perfedavg      a simulator workspace
  wardround report ~/downloads/7f3a.../                a downloaded job result
  wardround report run.json --out page/                one file

Overlays (pictures of patients) are shown only from a simulator workspace: in real runs they never leave the hospital.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "report",
        "rebuild a run's report, print its verdicts",
        TEXT,
        run,
    )
    parser.add_argument(
        "workspace",
        type=existing,
        metavar="WORKSPACE",
        help="simulator workspace, job result, run folder or run.json",
    )
    parser.add_argument(
        "--out",
        type=folder,
        metavar="DIR",
        help="where the report is written; default: beside run.json",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report of a run from what the server recorded, and print its verdicts."""
    from wardround.reports.page import write_report

    file = results.find(args.workspace)
    page = write_report(results.read(file), args.out or file.parent, overlays(file))
    return results.conclude(results.report_at(page), page.resolve())


def overlays(file: Path) -> list[Path]:
    """Return the pictures in the simulator workspace that this file lies in. Elsewhere
    there are none.
    """
    folder_ = file.resolve().parent
    if folder_.parts[-3:] != results.SIMULATED.parts:
        return []
    return sorted(folder_.parents[2].glob("*/simulate_job/wardround/overlays/*.png"))
