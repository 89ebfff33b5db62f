"""`wardround jobs submit` runs one job at real sites, from the admin's machine: it
submits, watches, downloads and reports.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import (
    DONE,
    INCOMPLETE,
    command,
    existing,
    folder,
    positive,
    require_writable,
    say,
)
from wardround.jobs import results
from wardround.ops import console
from wardround.ops.console import Console

TEXT = """
Submit a job to a running server, watch its rounds, download the result, and print the verdict for every hospital. This one
command does what `nvflare job submit`, `nvflare job monitor`, `nvflare job download` and `wardround report` do.
The job is sent without code, as hardened sites demand; --with-code sends the package along, for sites without it.
JOB is a name (`wardround jobs list`) or a folder; a folder that holds code of its own is submitted as it is.
Exit code 0: complete; 1: incomplete (a site was lost, or the run ended early), with the reasons; 2: refused, by this
command or by the server or a site, with NVFlare's own reason.

  wardround jobs submit brats_perfedavg --all-sites              all connected sites, NVFlare's active startup kit
  wardround jobs submit brats_perfedavg --sites mercy,st-john    these two
  wardround jobs submit mine/brats_ditto --startup-kit KIT       a folder, another administrator's kit
  wardround jobs submit brats_fedavg_he --set num_rounds=10
"""


# NVFlare 2.9's own words for a class that is not on a party's allow-list.
UNLISTED = "is not in allow_list"  # NVFlare: "Component '...' at config path '...' is not in allow_list"
ABNORMAL = "FINISHED:ABNORMAL"


@dataclass(frozen=True)
class Submission:
    """What is submitted, where, and for how long the command waits.

    job: a job's name, or a folder.
    settings: `--set` values for a job that is named.
    sites: names of sites; ("@ALL",) means every site that is connected, and () means
      the sites of the job itself.
    out: the folder for results.
    timeout_s: how many seconds the command waits. The job goes on after that.
    with_code: whether the package travels with the job.
    """

    job: str
    settings: tuple[str, ...]
    sites: tuple[str, ...]
    out: Path
    timeout_s: int
    with_code: bool = False


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "submit",
        "run a job at real sites or in a POC",
        TEXT,
        run,
    )
    parser.add_argument("job", metavar="JOB", help="name or folder of a job")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting; may be repeated",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--sites",
        metavar="A,B",
        help="names of the sites; default: those of the job",
    )
    who.add_argument(
        "--all-sites",
        action="store_true",
        help="every site that is connected when the job starts",
    )
    parser.add_argument(
        "--with-code",
        action="store_true",
        help="send the package along, for sites without wardround",
    )
    parser.add_argument(
        "--startup-kit",
        type=existing,
        metavar="KIT",
        help="the admin's; default: NVFlare's active one",
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("wardround_downloads"),
        metavar="DIR",
        help="for the result",
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=3600,
        metavar="S",
        help="seconds; default 3600",
    )


def run(args: argparse.Namespace) -> int:
    """Submit one job and return the exit code that its report gives."""
    from wardround.cli.cmd_jobs import site_names

    sites = ["@ALL"] if args.all_sites else site_names(args.sites) if args.sites else []
    wanted = Submission(
        args.job,
        tuple(args.set),
        tuple(sites),
        args.out,
        args.timeout,
        args.with_code,
    )
    return submit(Console(os.environ, args.startup_kit), wanted)


def submit(admin: Console, wanted: Submission) -> int:
    """Submit the job, watch it, download the result and write its report. Return 0 only
    for a report that says complete.
    """
    from wardround.jobs import packaging
    from wardround.jobs.forms import form
    from wardround.reports.page import write_report

    job = form(wanted.job, wanted.settings, wanted.sites, with_code=wanted.with_code)
    require_writable(wanted.out, "--out")
    require_connected(job.sites, job.min_clients, connected(admin))
    if job.brings_code:
        say(f"{job.name} brings code (app/custom): a hardened site refuses it")
    with tempfile.TemporaryDirectory(prefix="wardround_job_") as place:
        written = packaging.write(job.files, Path(place) / job.name)
        job_id = str(admin.ask("job", "submit", "-j", str(written))["job_id"])
    say(f"submitted: {job_id}, at {', '.join(job.sites) or 'every site that is connected'}")
    code = admin.monitor(job_id, wanted.timeout_s, progress())
    if code == console.TIMED_OUT:
        say(f"not at its end after {wanted.timeout_s} s; it goes on. Later: `nvflare job monitor {job_id}`, and then")
        say(f"`nvflare job download {job_id} -o {wanted.out}` and `wardround report {wanted.out}`")
        return INCOMPLETE
    meta = admin.ask("job", "meta", job_id)
    say(f"NVFlare says {meta.get('status', 'nothing')}")
    wanted.out.mkdir(parents=True, exist_ok=True)
    got = admin.ask(
        "job",
        "download",
        job_id,
        "-o",
        str(wanted.out.resolve()),
        patience_s=600,
    )
    place_of = Path(str(got.get("path") or wanted.out / job_id))
    file = results.record_in(place_of)
    if file is None and job.foreign and code == DONE:
        say(f"the job's own workflow writes no report of wardround. The result lies in {place_of}")
        return DONE
    if file is None:
        raise not_run(job_id, meta, place_of)
    page = write_report(results.read(file), file.parent, [])
    return results.conclude(results.report_at(page), page.resolve())


def connected(admin: Console) -> list[str]:
    """Return the sorted names of the sites that the server sees now."""
    clients = admin.ask("system", "status", patience_s=60).get("clients", [])
    return sorted(str(one.get("client_name")) for one in clients)


def require_connected(
    sites: Sequence[str],
    min_clients: int,
    there: Sequence[str],
) -> None:
    """Raise ConfigRefused when a job names sites that the server does not see, or needs
    more sites than it sees.

    NVFlare would keep such a job waiting, or run it without these hospitals.

    sites: the names in the job; empty means every site that is connected.
    """
    missing = [site for site in sites if site not in there]
    if not missing and len(there) >= min_clients:
        return
    listed = ", ".join(there) or "none"
    advice = f"name those that are there: `--sites {','.join(there)}`, or `--all-sites`; "
    raise ConfigRefused(
        "the sites of this job",
        found=f"connected: {listed}; not connected: {', '.join(missing)}" if missing else f"connected: {listed}",
        expected=f"every site that the job names, and {min_clients} or more (min_clients)",
        fix=(advice if len(there) >= min_clients else "") + "start the sites that are missing, and submit again",
    )


def progress() -> Callable[[Mapping[str, Any]], None]:
    """Return a function that prints the progress in an event of `nvflare job monitor`,
    once for as long as it stays the same.
    """
    last = ""

    def tell(event: Mapping[str, Any]) -> None:
        nonlocal last
        told = (event.get("metrics") or {}).get("progress")
        words = str(told or str(event.get("status", "")).lower())
        if words and words != last and not event.get("terminal"):
            say(words)
            last = words

    return tell


def not_run(job_id: str, meta: Mapping[str, Any], place: Path) -> ConfigRefused:
    """Return the refusal for a job that left no run.json, in the words of the server
    and of the sites that refused it.
    """
    detail = [str(line) for line in meta.get("job_deploy_detail") or ()]
    reasons = [line for line in detail if not line.endswith(": OK")]
    logs = [path for path in sorted(place.rglob("error_log.txt")) if path.stat().st_size]
    errors = [line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    unlisted = [line for line in errors if UNLISTED in line]
    reasons += [
        f"the server's log: {line[:300]}" for line in (unlisted or [one for one in errors if " - ERROR - " in one])[:1]
    ]
    advice = ""
    if any("BYOC" in line for line in reasons):
        advice = "submit it without code (no --with-code, no folder with code), or let these sites take code. "
    elif unlisted or str(meta.get("status")) == ABNORMAL:
        advice = (
            "a party takes a job without code only when its allow-list has wardround's classes: run `wardround sites harden "
            "KIT` there and start it again, or submit with --with-code. "
        )
    read = f"read {logs[0]}" if logs else f"read ID/log.txt at the server, ID being {job_id}"
    return ConfigRefused(
        f"job {job_id}: {meta.get('status', 'it did not run')}",
        found="; ".join(reasons) or "no site refused it, and the server wrote no record of a run",
        expected="a job that the server and enough sites take",
        fix=f"{advice}{read}; all that NVFlare knows: `nvflare job meta {job_id}`",
    )
