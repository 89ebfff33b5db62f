"""`wardround jobs run` runs one job in NVFlare's simulator. Its report decides the exit
code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.cli import like
from wardround.cli.cmd_jobs import site_names
from wardround.core.errors import ConfigRefused
from wardround.core.paths import is_plain
from wardround.core.terminal import (
    REFUSED,
    command,
    counted,
    existing,
    folder,
    positive,
    require_plain,
    require_writable,
    say,
)
from wardround.jobs import results, simulation
from wardround.jobs.one_run import alone
from wardround.jobs.reasons import Reasons

TEXT = """
Run a job in NVFlare's simulator, where every site is a process on this machine. JOB is a name, or a folder that `wardround
jobs write` printed, edited or not; a folder may name only wardround's own classes. Without data the sites invent synthetic
patients and say so. At the end the command prints the verdict for every hospital and the place of the report. The workspace
(-w) is DELETED first, so it must be new, empty or an earlier one.
Exit code 0: complete; 1: incomplete (a site was lost, or the run ended early), with the reasons; 2: refused or crashed.

  wardround jobs run brats_perfedavg
  wardround jobs run brats_perfedavg --sites-file sites/sites.json --set num_rounds=10 --set work=60
  wardround jobs run brats_fedavg -n 2 --state state/          run it again with the same --state to resume it
  wardround jobs run my_jobs/brats_fedavg                      a folder as it is
"""


@dataclass(frozen=True)
class Plan:
    """A run before any process is started.

    job: what is run, as forms.Runnable.
    sites: the names of all sites.
    workspace: the folder that the simulator empties and fills.
    threads: how many sites run at the same time.
    environment: the environment variables of the simulator.
    """

    job: Any
    sites: tuple[str, ...]
    workspace: Path
    threads: int
    environment: Mapping[str, str]


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "run", "run a job in the simulator", TEXT, run)
    parser.add_argument(
        "name",
        metavar="JOB",
        help="name of the job (`wardround jobs list`), or its folder",
    )
    parser.add_argument(
        "-w",
        "--workspace",
        type=folder,
        metavar="WS",
        help="default ./wardround_runs/NAME",
    )
    parser.add_argument(
        "-t",
        "--threads",
        type=positive,
        metavar="N",
        help="sites that run at the same time; default: all of them",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "-c",
        "--clients",
        metavar="A,B",
        help="names of the sites; default: --sites-file's, else the job's",
    )
    who.add_argument(
        "-n",
        "--n-clients",
        type=positive,
        metavar="N",
        help="sites named site-1 .. site-N",
    )
    parser.add_argument(
        "--sites-file",
        type=existing,
        metavar="JSON",
        help="where each site's cases are; default: WARDROUND_SITES",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting; may be repeated",
    )
    like.add(parser)
    parser.add_argument(
        "--state",
        type=folder,
        metavar="DIR",
        help="keep the state of every round here, to resume; default: not kept",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show all lines of NVFlare",
    )


def run(args: argparse.Namespace) -> int:
    """Plan the run, hold its workspace, run the job, and return the exit code that its
    report gives.
    """
    planned = plan(args, os.environ)
    with alone(planned.workspace):
        return _run(args, planned)


def _run(args: argparse.Namespace, planned: Plan) -> int:
    from wardround.flare import quiet
    from wardround.jobs import packaging

    # The old record goes first: if the simulator dies before it writes one, the old one
    # must not be read as the result.
    forget(planned.workspace)
    with tempfile.TemporaryDirectory(
        prefix="wardround_job_",
        dir=plain_temporary(),
    ) as place:
        job = packaging.write(planned.job.files, Path(place) / planned.job.name)
        log = "full"
        if not args.verbose:
            # NVFlare's own logs are written to files all the same; this only quietens
            # the terminal.
            file = Path(place) / "log_config.json"
            file.write_text(quiet.log_config(), encoding="utf-8")
            log = str(file)
        words = simulation.simulator_command(
            job,
            planned.workspace,
            planned.sites,
            planned.threads,
            log,
        )
        say(f"{planned.job.title} at {', '.join(planned.sites)}; workspace {planned.workspace}")
        begun = time.monotonic()
        why = Reasons(say)
        code = simulation.stream(
            words,
            planned.environment,
            lambda line: why.line(line) if args.verbose or simulation.matters(line) else None,
        )
    say(f"the simulator ended after {time.monotonic() - begun:.0f} s (exit code {code})")
    return judge(planned.workspace, why.words(f"{planned.workspace}/*/error_log.txt"))


def plan(args: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """Return the plan, after everything was checked that can be checked before a
    process is started.

    A site without an entry in --sites-file, fewer sites than min_clients, and a
    workspace that holds other files are refused with ConfigRefused.
    """
    from wardround.data.site_config import VARIABLE, read_sites
    from wardround.jobs.forms import runnable

    environment, kept = dict(environ), {}
    sites_file = args.sites_file or (Path(environ[VARIABLE]).expanduser() if environ.get(VARIABLE) else None)
    configured, described = None, {}
    if sites_file is not None:
        described = read_sites(sites_file)
        configured = list(described)
        environment[VARIABLE] = str(sites_file.resolve())
        kept["--sites-file"] = sites_file
    if args.state is not None:
        environment["WARDROUND_STATE"] = str(args.state.resolve())
        kept["--state"] = args.state
    job = runnable(args.name, args.set, _named(args) or configured or [])
    sites = tuple(_named(args) or configured or job.sites)
    unknown = [site for site in sites if configured is not None and site not in configured]
    if unknown:
        raise ConfigRefused(
            f"the sites' file {sites_file}",
            found=f"no entry for {', '.join(unknown)}; it has {', '.join(_with_names(described))}",
            expected="one entry for every site of the run; -c names the entries, not what reports call them",
            fix=f"-c {','.join(configured or ())}, or some of them; or add the entries",
        )
    if len(sites) < job.min_clients:
        raise _too_few(args, job, len(sites))
    workspace = args.workspace or Path("wardround_runs") / job.name
    require_plain(workspace.resolve(), "-w", f"/tmp/wardround_runs/{job.name}")  # noqa: S108 - words of a refusal
    require_plain(sys.executable, "the Python", "of an environment in another folder")
    simulation.require_disposable(workspace, kept)
    require_writable(workspace, "-w")
    if args.state is not None:
        require_writable(args.state, "--state")
    threads = args.threads or len(sites)
    return Plan(job, sites, workspace.resolve(), threads, environment)


def judge(workspace: Path, why: str = "") -> int:
    """Return 0 only for a report that says complete.

    why: what was refused in this run. It is said last, because it tells what to do.

    A run without a record and without a reason is refused with ConfigRefused, which
    names the log to read.
    """
    report = workspace / results.SIMULATED / "report.json"
    if not report.is_file() and not why:
        raise results.crashed(workspace)
    code = REFUSED
    if report.is_file():
        record = json.loads(report.read_text(encoding="utf-8"))
        code = results.conclude(record, report.with_suffix(".html"))
        # Before the reason, which goes to the other stream of the terminal.
        sys.stdout.flush()
    if why:
        say(f"wardround: {why}")
    return code


def forget(workspace: Path) -> None:
    """Remove the record of an earlier run, so that it can never be taken for the record
    of this one.
    """
    for name in results.NAMES:
        (workspace / results.SIMULATED / name).unlink(missing_ok=True)


def plain_temporary() -> Path | None:
    """Return a folder for temporary files whose path NVFlare does not split; None where
    the system's own folder is one.
    """
    system = Path(tempfile.gettempdir())
    return None if is_plain(system) else Path("/tmp")  # noqa: S108 - a folder of our own is made in it


def _with_names(described: Mapping[str, Any]) -> list[str]:
    """Return entries such as "site-1 (North Hospital)" for every site of a sites' file
    that has a name for reports.
    """
    return [f"{site} ({config.name})" if config.name else site for site, config in described.items()]


def _named(args: argparse.Namespace) -> list[str]:
    """Return the sites that -c or -n name; without either option, an empty list."""
    if args.clients:
        return site_names(args.clients)
    return [f"site-{i + 1}" for i in range(args.n_clients)] if args.n_clients else []


def _too_few(args: argparse.Namespace, job: Any, sites: int) -> ConfigRefused:
    wish = f"-n {job.min_clients}" if args.n_clients else f"name {counted(job.min_clients, 'site')} with -c"
    lower = f", or --set federation.min_clients={sites}" if sites >= job.least_sites else ""
    return ConfigRefused(
        f"{counted(sites, 'site')}, the job needs {job.min_clients} (min_clients)",
        found=counted(sites, "site"),
        expected=f"{job.min_clients} or more: a round is added up once so many have answered",
        fix=wish + lower,
    )
