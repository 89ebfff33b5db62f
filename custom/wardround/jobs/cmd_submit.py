"""`wardround jobs submit`: one job at real sites, from the admin's machine: submit, watch, download, report."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.jobs import records
from wardround.jobs.console import Console
from wardround.jobs.terminal import command, existing, folder, positive, say

TEXT = """
Submit a job to a running server, wait for its end, download the result, print the verdict for every hospital.
What `nvflare job submit`, `nvflare job wait`, `nvflare job download` and `wardround report` do, in one command.
Exit code 0: complete; 1: incomplete (a site was lost, or the run ended early), with the reasons; 2: refused.

  wardround jobs submit brats_perfedavg                          the job by its name, NVFlare's active startup kit
  wardround jobs submit mine/brats_ditto --startup-kit KIT       a folder, another admin's kit
  wardround jobs submit brats_fedavg_he --set rounds=10
"""


# A line of the server's log that one of our components wrote: its time of day and what it says.
OURS = re.compile(r"\S+ (\S+?),\d+ - (?:Rounds|SecureRounds|Combine) - \w+ - \[[^\]]*\] - (.*)")


@dataclass(frozen=True)
class Submission:
    """job: name or folder | out: where results go | server: the server's kit, where it is on this machine (POC)."""

    job: str
    settings: tuple[str, ...]
    out: Path
    timeout_s: int
    server: Path | None = None


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "submit", "run a job at real sites or in a POC", TEXT, run)
    parser.add_argument("job", metavar="JOB", help="name or folder of a job")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting; may be repeated")
    parser.add_argument(
        "--startup-kit", type=existing, metavar="KIT", help="the admin's; default: NVFlare's active one"
    )
    parser.add_argument("--out", type=folder, default=Path("wardround_downloads"), metavar="DIR", help="for the result")
    parser.add_argument("--timeout", type=positive, default=3600, metavar="S", help="seconds; default 3600")


def run(args: argparse.Namespace) -> int:
    """Submit and conclude."""
    wanted = Submission(args.job, tuple(args.set), args.out, args.timeout)
    return submit(Console(os.environ, args.startup_kit), wanted)


def submit(console: Console, wanted: Submission) -> int:
    """Submit, watch, download, report; return 0 only for a report that says complete."""
    from wardround.reports.page import write_report

    with tempfile.TemporaryDirectory(prefix="wardround_job_") as place:
        job = _folder(wanted, Path(place))
        job_id = str(console.ask("job", "submit", "-j", str(job))["job_id"])
    say(f"submitted: {job_id}")
    completed = console.monitor(job_id, wanted.timeout_s, _told(wanted.server, job_id))
    say(f"NVFlare says {'COMPLETED' if completed else 'not completed'}")
    wanted.out.mkdir(parents=True, exist_ok=True)
    console.ask("job", "download", job_id, "-o", str(wanted.out.resolve()), patience_s=600)
    file = records.find(wanted.out / job_id)
    page = write_report(records.read(file), file.parent, [])
    return records.conclude(records.report_at(page), page.resolve())


def _folder(wanted: Submission, place: Path) -> Path:
    """Return the job's folder: the one that is named, or printed from its recipe."""
    from wardround.flare.plain_jobs import require_plain_folder
    from wardround.jobs import recipes
    from wardround.jobs.building import require_buildable
    from wardround.jobs.folder import write

    if (Path(wanted.job) / "meta.json").is_file() and not wanted.settings:
        require_plain_folder(Path(wanted.job).resolve())
        return Path(wanted.job).resolve()
    made = recipes.job(wanted.job, wanted.settings)
    require_buildable(made)
    return write(made, place / made.name)


def _told(server: Path | None, job_id: str) -> Callable[[], None]:
    """Return a function that shows what the server's log has gained; the log of a far server cannot be read here."""
    seen = 0

    def tell() -> None:
        nonlocal seen
        file = server / job_id / "log.txt" if server else None
        if file is None or not file.is_file():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[seen:]:
            if found := OURS.match(line):
                say(f"{found[1]} {found[2]}")
        seen = max(seen, len(lines))

    return tell
