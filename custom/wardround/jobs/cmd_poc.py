"""`wardround poc`: NVFlare's POC with our project, equipped and started by one command."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround.errors import ConfigRefused
from wardround.jobs import poc
from wardround.jobs.cmd_submit import Submission, submit
from wardround.jobs.console import Console
from wardround.jobs.terminal import DONE, command, existing, folder, group, positive, say, table

PROJECT = "poc_workspace/project.yml"
VARIABLE = "NVFLARE_POC_WORKSPACE"
TEXT = """
A federation of real processes on this machine, with startup kits, TLS on loopback and an admin: everything that the
simulator leaves out. The project file says who takes part; without --sites-file every hospital gets synthetic patients.

  wardround poc up                                   prepare, equip, start
  wardround jobs submit brats_perfedavg              submit, watch, download, report
  wardround poc down                                 stop everything
  wardround poc run brats_perfedavg                  all of it, with the seconds of each step
"""
UP = """
Prepare and start: a startup kit per party (never commit one), what each hospital writes itself, all processes.
--local DIR: DIR/SITE/* is copied into that site's local/, for example a privacy.json or wardround_budget.json.
NVFlare's own commands work afterwards without further options: `nvflare system status`, `nvflare job submit -j JOB`.

  wardround poc up
  wardround poc up --sites-file sites/sites.json --local my_policies
"""
DOWN = """
Stop the server and all sites; what they wrote stays in the workspace.

  wardround poc down
"""
RUN = """
Prepare, equip, start, run one job, stop; prints the seconds of each step. The result stays in --out.

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
            "--project",
            type=existing,
            default=Path(PROJECT),
            metavar="YML",
            help=f"default {PROJECT}",
        )
        one.add_argument("--sites-file", type=existing, metavar="JSON", help="where each site's cases are")
        one.add_argument("--patients", type=positive, metavar="N", help="synthetic patients per hospital")
        one.add_argument(
            "--shape",
            type=positive,
            nargs=3,
            default=[40, 40, 40],
            metavar=("X", "Y", "Z"),
            help="of synthetic patients, voxels",
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
    """Seconds of each step, in order."""

    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure one step."""
        begun = time.monotonic()
        yield
        self.steps.append((name, time.monotonic() - begun))

    def text(self) -> str:
        """Return a table with the sum."""
        rows = [(name, f"{seconds:.1f}") for name, seconds in self.steps]
        return table(("step", "seconds"), [*rows, ("all", f"{sum(seconds for _, seconds in self.steps):.1f}")])


def _up(args: argparse.Namespace) -> int:
    clock = Clock()
    kit = _start(args, clock)
    print(clock.text())
    print(f"startup kits: {kit.parent}")
    print(f"submit a job: wardround jobs submit brats_perfedavg --startup-kit {kit}")
    print(f"or:           nvflare job submit -j jobs/brats_perfedavg --startup-kit {kit}")
    print(f"admin console: {kit / 'startup' / 'fl_admin.sh'}")
    return DONE


def _run(args: argparse.Namespace) -> int:
    clock = Clock()
    kit = _start(args, clock)
    console, server = Console(_environment(args), kit), poc.parties(args.project)["server"][0]
    wanted = Submission(args.job, tuple(args.set), args.out, args.timeout, kit.parent / server)
    try:
        with clock.step("job: submit, train, judge, download"):
            code = submit(console, wanted)
    finally:
        with clock.step("stop"):
            _down(args)
    print(clock.text())
    return code


def _down(args: argparse.Namespace) -> int:
    if not _workspace(args).is_dir():
        raise ConfigRefused(
            f"the POC workspace {_workspace(args)}", found="no such folder", expected="one", fix="name --workspace"
        )
    Console(_environment(args)).ask("poc", "stop", patience_s=180)
    killed = poc.end_processes(_workspace(args), 15)
    say(f"stopped ({killed} processes did not end by themselves and were killed)" if killed else "stopped")
    return DONE


def _start(args: argparse.Namespace, clock: Clock) -> Path:
    """Prepare, equip and start; return the admin's kit."""
    workspace, project = _workspace(args), Path(args.project)
    who = poc.parties(project)
    sites, console = who["client"], Console(_environment(args))
    _make_room(args, workspace)
    with clock.step("nvflare poc prepare"):
        console.ask("poc", "prepare", "-i", str(project.resolve()), *(["--force"] if args.force else []))
    kit_folder = poc.kits(workspace)
    workspace.chmod(0o700)  # private keys, and what jobs write about patients
    with clock.step("what hospitals write themselves"):
        x, y, z = args.shape
        file = args.sites_file or poc.phantoms(workspace / "phantoms", sites, args.patients, (x, y, z), say)
        poc.equip(kit_folder, sites, poc.site_files(file), args.local)
        poc.keep_store_here(kit_folder / who["server"][0], workspace.resolve() / "store")
    kit = kit_folder / who["admin"][0]
    with clock.step("nvflare poc start"):
        console.ask("poc", "start", "--no-wait")
        poc.wait_until_connected(Console(_environment(args), kit), sites, 120)
    say(f"up: {who['server'][0]} and {', '.join(sites)}")
    return kit.resolve()


def _make_room(args: argparse.Namespace, workspace: Path) -> None:
    """Leave no empty folder, which NVFlare refuses, and let --force delete an earlier POC only."""
    if not workspace.exists():
        return
    if not any(workspace.iterdir()):
        workspace.rmdir()
    elif args.force:
        named = [one for one in (args.project, args.sites_file, args.local) if one is not None]
        data = poc.site_files(args.sites_file).values() if args.sites_file else []
        poc.require_replaceable(workspace, [*named, *(Path(str(one["data"])) for one in data)])
    else:
        raise ConfigRefused(
            f"the POC workspace {workspace}",
            found="files of an earlier POC, or others",
            expected="an empty or new folder",
            fix="`wardround poc down`, then --force to replace an earlier POC",
        )


def _workspace(args: argparse.Namespace) -> Path:
    return Path(args.workspace or os.environ.get(VARIABLE) or "wardround_poc").resolve()


def _environment(args: argparse.Namespace) -> dict[str, str]:
    return {**os.environ, VARIABLE: str(_workspace(args))}
