"""`wardround poc` prepares NVFlare's POC with this package's project, equips it, and
starts it with one command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround.cli.cmd_submit import Submission, submit
from wardround.core.errors import ConfigRefused
from wardround.core.terminal import (
    DONE,
    command,
    existing,
    folder,
    group,
    positive,
    require_plain,
    require_writable,
    say,
    table,
)
from wardround.ops import poc
from wardround.ops.console import Console

VARIABLE = "NVFLARE_POC_WORKSPACE"
NEW_ONLY = ("project", "sites_file", "patients", "shape", "local")  # options that only a new POC reads
TEXT = """
Run a federation of real processes on this machine, with startup kits, TLS on loopback and an administrator: everything that
the simulator leaves out. The project file says who takes part; without --sites-file every hospital gets synthetic patients.

  wardround poc up                                   prepare, equip, start
  wardround jobs submit brats_perfedavg              submit, watch, download, report
  wardround poc down                                 stop everything; `up` starts it again
  wardround poc run brats_perfedavg                  all of it, with the seconds of each step
"""
UP = """
Prepare and start a POC: a startup kit for each party (never commit one), the files that each hospital writes itself, and all
processes. If a POC was stopped, `up` starts it again as it is, with its kits and its results; --force makes a new one instead.
--local DIR copies DIR/SITE/* into that site's local/, for example a privacy.json or wardround_budget.json.
NVFlare's own commands work afterwards without further options: `nvflare system status`, `nvflare job submit -j JOB`.

  wardround poc up
  wardround poc up --sites-file sites/sites.json --local my_policies
"""
DOWN = """
Stop the server and all sites. What they wrote stays in the workspace.

  wardround poc down
"""
RUN = """
Prepare, equip and start a POC, run one job, and stop. The command prints the seconds of each step. The result stays in --out.

  wardround poc run brats_perfedavg
"""


def add(commands: Any) -> None:
    """Declare the commands."""
    made = group(commands, "poc", "a federation of real processes on this machine", TEXT)
    up = command(made, "up", "prepare, equip and start", UP, _up)
    run = command(made, "run", "up, one job, down, with the seconds of each step", RUN, _run)
    down = command(made, "down", "stop every process", DOWN, _down)
    for one in (up, run, down):
        one.add_argument("--workspace", type=folder, metavar="DIR", help=f"default: ${VARIABLE}, else ./wardround_poc")
    for one in (up, run):
        one.add_argument(
            "--project", type=existing, metavar="YML", help="who takes part; default: four hospitals on this machine"
        )
        one.add_argument("--sites-file", type=existing, metavar="JSON", help="where each site's cases are")
        one.add_argument("--patients", type=positive, metavar="N", help="synthetic patients per hospital")
        one.add_argument(
            "--shape",
            type=positive,
            nargs=3,
            metavar=("X", "Y", "Z"),
            help="of synthetic patients, voxels; default 40 40 40",
        )
        one.add_argument("--local", type=existing, metavar="DIR", help="files for the parties' own local/ folders")
        one.add_argument(
            "--force", action="store_true", help="delete an earlier POC in this workspace; nothing else is deleted"
        )
    run.add_argument("job", metavar="JOB", help="name or folder of a job")
    run.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting; may be repeated")
    run.add_argument("--out", type=folder, default=Path("wardround_downloads"), metavar="DIR", help="for the result")
    run.add_argument("--timeout", type=positive, default=3600, metavar="S", help="seconds a job may take; default 3600")


@dataclass
class Clock:
    """The seconds that each step took, in order."""

    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce one step on stderr and measure it. A step that fails is not
        recorded.
        """
        say(f"{name} ...")
        begun = time.monotonic()
        yield
        self.steps.append((name, time.monotonic() - begun))

    def text(self) -> str:
        """Return a table of the steps, with their sum in the last row."""
        rows = [(name, f"{seconds:.1f}") for name, seconds in self.steps]
        return table(("step", "seconds"), [*rows, ("all", f"{sum(seconds for _, seconds in self.steps):.1f}")])


def _up(args: argparse.Namespace) -> int:
    clock = Clock()
    kit = _start(args, clock)
    print(clock.text())
    print(f"startup kits: {kit.parent}")
    print(f"submit a job: wardround jobs submit brats_perfedavg --all-sites --startup-kit {shlex.quote(str(kit))}")
    print(f"or:           nvflare job submit -j FOLDER --startup-kit {shlex.quote(str(kit))}")
    print(
        f"admin console: {shlex.quote(str(kit / 'startup' / 'fl_admin.sh'))}, in it: submit_job /ABSOLUTE/PATH/OF/FOLDER"
    )
    return DONE


def _run(args: argparse.Namespace) -> int:
    if poc.running(_workspace(args)):
        raise ConfigRefused(
            f"the POC in {_workspace(args)}",
            found="it is running",
            expected="one that this command may stop at the end",
            fix=f"`wardround jobs submit {args.job}`, or first `wardround poc down`",
        )
    clock = Clock()
    require_writable(args.out, "--out")
    kit = _start(args, clock)
    sites = () if (Path(args.job) / "meta.json").is_file() else tuple(_parties(args)["client"])
    wanted = Submission(args.job, tuple(args.set), sites, args.out, args.timeout)
    try:
        with clock.step("job: submit, train, judge, download"):
            code = submit(Console(_environment(args), kit), wanted)
    finally:
        with clock.step("stop"):
            _down(args)
    print(clock.text())
    return code


def _down(args: argparse.Namespace) -> int:
    workspace = _workspace(args)
    if not workspace.is_dir():
        raise ConfigRefused(
            f"the POC workspace {workspace}",
            found="no such folder",
            expected="the folder of a POC that `wardround poc up` made",
            fix="name it with --workspace, or go to the folder in which `wardround poc up` ran",
        )
    poc.kits(workspace)
    if not poc.running(workspace):
        say(f"the POC in {workspace} is not running")
        return DONE
    import psutil

    try:
        Console(_environment(args)).ask("poc", "stop", patience_s=180)
    except ConfigRefused as refusal:
        # NVFlare 2.9 cannot abort a job that it lists as running since before a
        # restart.
        say(f"NVFlare did not stop it in order: {refusal.found}")
        for process in poc.running(workspace):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
    killed = poc.end_processes(workspace, 15)
    say(f"stopped ({killed} processes did not end by themselves and were killed)" if killed else "stopped")
    say(f"kits and results stay in {workspace}: `wardround poc up` starts it again")
    return DONE


def _start(args: argparse.Namespace, clock: Clock) -> Path:
    """Start the POC and return the admin's startup kit. A POC that is there is started
    again as it is; otherwise one is prepared and equipped.
    """
    workspace = _workspace(args)
    require_plain(workspace, "--workspace", "/tmp/wardround_poc")  # noqa: S108 - words of a refusal
    require_writable(workspace, "--workspace")
    earlier = _earlier(args, workspace)
    if not earlier:
        poc.parties(args.project or poc.default_project())
        # Ports are checked before anything is written: a half-prepared POC would have
        # to be removed by hand.
        poc.require_free_ports(args.project or poc.default_project())
        _prepare(args, workspace, clock)
    who = _parties(args)
    kit = poc.kits(workspace) / who["admin"][0]
    console = Console(_environment(args), kit)
    if earlier and poc.running(workspace):
        say("it is running already")
        poc.wait_until_connected(console, who["client"], 120)
        return kit.resolve()
    if earlier:
        say(f"the POC in {workspace} is started again as it is")
        poc.require_free_ports(workspace / "project.yml")
    with clock.step("nvflare poc start"):
        Console(_environment(args)).ask("poc", "start", "--no-wait")
        poc.wait_until_connected(console, who["client"], 120)
    say(f"up: {who['server'][0]} and {', '.join(who['client'])}")
    return kit.resolve()


def _prepare(args: argparse.Namespace, workspace: Path, clock: Clock) -> None:
    project = args.project or poc.default_project()
    who = poc.parties(project)
    with clock.step("nvflare poc prepare"):
        force = ["--force"] if args.force else []
        Console(_environment(args)).ask("poc", "prepare", "-i", str(project.resolve()), *force)
    kit_folder = poc.kits(workspace)
    workspace.chmod(0o700)  # private keys, and what jobs write about patients
    with clock.step("what hospitals write themselves"):
        x, y, z = args.shape or (40, 40, 40)
        file = args.sites_file or poc.phantoms(workspace / "phantoms", who["client"], args.patients, (x, y, z), say)
        poc.list_classes(kit_folder, who["server"][0], who["client"], workspace.resolve() / "store")
        poc.equip(kit_folder, who["client"], poc.site_files(file), args.local)


def _earlier(args: argparse.Namespace, workspace: Path) -> bool:
    """Return whether there is a POC to be started again.

    With --force the answer is no, and NVFlare may delete the earlier one. An empty
    folder is removed, because NVFlare refuses it. Files that are no POC, and options
    that only a new POC reads, are refused with ConfigRefused.
    """
    if not workspace.exists():
        return False
    if not any(workspace.iterdir()):
        workspace.rmdir()
        return False
    if args.force:
        named = [one for one in (args.project, args.sites_file, args.local) if one is not None]
        # NVFlare deletes the whole folder: neither the project nor any site's data may
        # lie in it.
        data = poc.site_files(args.sites_file).values() if args.sites_file else []
        poc.require_replaceable(workspace, [*named, *(Path(str(one["data"])) for one in data)])
        return False
    if not list(workspace.glob("*/prod_00")):
        raise ConfigRefused(
            f"the POC workspace {workspace}",
            found="files, and no POC among them",
            expected="an empty or new folder, or an earlier POC to start again",
            fix="name a new folder with --workspace",
        )
    given = [f"--{name.replace('_', '-')}" for name in NEW_ONLY if getattr(args, name) is not None]
    if given:
        raise ConfigRefused(
            f"the POC in {workspace}",
            found=f"an earlier POC, and {', '.join(given)}, which a new one reads",
            expected="no such option to start a POC again as it is",
            fix="leave it out; or name a new folder with --workspace; or --force, which deletes the earlier POC",
        )
    poc.kits(workspace)
    return True


def _parties(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the parties of the POC that is there, from the project file that NVFlare
    keeps in its workspace.
    """
    return poc.parties(_workspace(args) / "project.yml")


def _workspace(args: argparse.Namespace) -> Path:
    return Path(args.workspace or os.environ.get(VARIABLE) or "wardround_poc").resolve()


def _environment(args: argparse.Namespace) -> dict[str, str]:
    return {**os.environ, VARIABLE: str(_workspace(args))}
