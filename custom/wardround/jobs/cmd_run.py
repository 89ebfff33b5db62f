"""`wardround jobs run`: one job in NVFlare's simulator, judged by its report."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.errors import ConfigRefused
from wardround.jobs import like, records, simulation
from wardround.jobs.cmd_jobs import site_names
from wardround.jobs.recipes import Job
from wardround.jobs.terminal import command, existing, folder, positive, say

TEXT = """
Run a job in NVFlare's simulator: every site is a process on this machine. Without data the sites invent synthetic
patients and say so. Ends with the verdict for every hospital and the place of the report. The workspace (-w) is
DELETED first, so it must be new, empty or an earlier one.
Exit code 0: complete; 1: incomplete (a site was lost, or the run ended early), with the reasons; 2: refused or crashed.

  wardround jobs run brats_perfedavg
  wardround jobs run brats_perfedavg --sites-file sites/sites.json --set rounds=10 --set work=60
  wardround jobs run brats_fedavg -n 2 --state state/          run it again with the same --state to resume it
"""


@dataclass(frozen=True)
class Plan:
    """A run before anything is started: job, sites, workspace, how many sites at a time, environment."""

    job: Job
    sites: tuple[str, ...]
    workspace: Path
    threads: int
    environment: Mapping[str, str]


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "run", "run a job in the simulator", TEXT, run)
    parser.add_argument("name", metavar="NAME", help="name of the job (`wardround jobs list`)")
    parser.add_argument("-w", "--workspace", type=folder, metavar="WS", help="default ./wardround_runs/NAME")
    parser.add_argument(
        "-t", "--threads", type=positive, metavar="N", help="sites that run at the same time; default: all of them"
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "-c", "--clients", metavar="A,B", help="names of the sites; default: --sites-file's, else the job's"
    )
    who.add_argument("-n", "--n-clients", type=positive, metavar="N", help="sites named site-1 .. site-N")
    parser.add_argument(
        "--sites-file", type=existing, metavar="JSON", help="where each site's cases are; default: WARDROUND_SITES"
    )
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting; may be repeated")
    like.add(parser)
    parser.add_argument(
        "--state", type=folder, metavar="DIR", help="keep the state of every round here, to resume; default: not kept"
    )
    parser.add_argument("--verbose", action="store_true", help="show all lines of NVFlare")


def run(args: argparse.Namespace) -> int:
    """Plan, run, judge."""
    from wardround.jobs.building import require_buildable
    from wardround.jobs.folder import write

    planned = plan(args, os.environ)
    require_buildable(planned.job)
    forget(planned.workspace)
    with tempfile.TemporaryDirectory(prefix="wardround_job_") as place:
        job = write(planned.job, Path(place) / planned.job.name)
        log = "full"
        if not args.verbose:
            file = Path(place) / "log_config.json"
            file.write_text(simulation.log_config(), encoding="utf-8")
            log = str(file)
        words = simulation.simulator_command(job, planned.workspace, planned.sites, planned.threads, log)
        say(f"{planned.job.name}: {planned.job.title} at {', '.join(planned.sites)}; workspace {planned.workspace}")
        begun = time.monotonic()
        code = simulation.stream(
            words, planned.environment, lambda line: say(line) if args.verbose or simulation.matters(line) else None
        )
    say(f"the simulator ended after {time.monotonic() - begun:.0f} s (exit code {code})")
    if planned.job.privacy["kind"] == "stock_ckks":
        return records.conclude_stock(planned.workspace, planned.sites)
    return judge(planned.workspace)


def plan(args: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """Check everything that can be checked before a process is started.

    a site without an entry in --sites-file, fewer sites than min_sites, a workspace that holds other things:
    ConfigRefused
    """
    from wardround.data.site_config import VARIABLE, read_sites

    environment, kept = dict(environ), {}
    sites_file = args.sites_file or (Path(environ[VARIABLE]).expanduser() if environ.get(VARIABLE) else None)
    configured = None
    if sites_file is not None:
        configured = list(read_sites(sites_file))
        environment[VARIABLE] = str(sites_file.resolve())
        kept["--sites-file"] = sites_file
    if args.state is not None:
        environment["WARDROUND_STATE"] = str(args.state.resolve())
        kept["--state"] = args.state
    job = _job(args, configured)
    sites = tuple(job.federation["sites"])
    unknown = [site for site in sites if configured is not None and site not in configured]
    if unknown:
        raise ConfigRefused(
            f"the sites' file {sites_file}",
            found=f"no entry for {', '.join(unknown)}; it has {', '.join(configured or ())}",
            expected="one entry for every site of the run",
            fix="add the entries, or name the sites with -c",
        )
    if len(sites) < job.federation["min_sites"]:
        raise ConfigRefused(
            f"{len(sites)} sites",
            found=f"fewer than min_sites, {job.federation['min_sites']}",
            expected="enough sites for a federation",
            fix="add sites, or --set federation.min_sites=1",
        )
    workspace = args.workspace or Path("wardround_runs") / args.name
    simulation.require_disposable(workspace, kept)
    threads = args.threads or len(sites)
    return Plan(job, sites, workspace.resolve(), threads, environment)


def judge(workspace: Path) -> int:
    """Return 0 only for a report that says complete; a run without one: ConfigRefused that says what to read."""
    report = workspace / records.SIMULATED / "report.json"
    if not report.is_file():
        raise records.crashed(workspace)
    return records.conclude(json.loads(report.read_text(encoding="utf-8")), report.with_suffix(".html"))


def forget(workspace: Path) -> None:
    """Remove the record of an earlier run: whatever happens now, it must not be taken for this one's."""
    for name in records.NAMES:
        (workspace / records.SIMULATED / name).unlink(missing_ok=True)


def _job(args: argparse.Namespace, configured: list[str] | None) -> Job:
    from wardround.jobs import recipes

    if args.clients:
        return recipes.job(args.name, args.set, site_names(args.clients))
    if args.n_clients:
        return recipes.job(args.name, args.set, [f"site-{i + 1}" for i in range(args.n_clients)])
    return recipes.job(args.name, args.set, configured or ())
