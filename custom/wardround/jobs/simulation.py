"""NVFlare's simulator as a child process: which workspace it may empty, how it is
called, and which of its lines are shown.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wardround.core.errors import ConfigRefused

# Long enough for the sites to end by themselves after the same signal.
PATIENCE_S = 20
# Printed by `nvflare simulator` itself, about a Python script that our jobs do not
# have.
NOISE = ("'nvflare simulator' is deprecated",)


def require_disposable(workspace: Path, kept: Mapping[str, Path]) -> None:
    """Raise ConfigRefused unless the simulator, which DELETES everything in its
    workspace, can do no harm there.

    A new folder, an empty one and an earlier simulator workspace are accepted. A folder
    with anything else is refused.

    kept: files and folders that must survive, by the option that names them. One inside
      the workspace is refused.
    """
    inside = {option: path for option, path in kept.items() if path.resolve().is_relative_to(workspace.resolve())}
    if workspace.is_dir() and not _simulated(workspace):
        found = "files that no simulator wrote"
    elif workspace.exists() and not workspace.is_dir():
        found = "a file"
    elif inside:
        found = ", ".join(f"{option} {path}, which lies in it" for option, path in inside.items())
    else:
        return
    raise ConfigRefused(
        f"the workspace {workspace}",
        found=found,
        expected="a new or empty folder, or an earlier workspace: the simulator deletes everything in it",
        fix="name another folder with -w",
    )


def _simulated(workspace: Path) -> bool:
    """Return whether a folder is empty or holds what the simulator leaves. A real site
    keeps keys in its startup folder.
    """
    if (workspace / "server" / "simulate_job").is_dir():
        return True
    names = {path.name for path in workspace.iterdir()}
    return names <= {"server", "startup", "local"} and not any(
        (workspace / "startup").glob("*"),
    )


def simulator_command(
    job: Path,
    workspace: Path,
    sites: Sequence[str],
    threads: int,
    log: str,
) -> list[str]:
    """Return the command line that runs NVFlare's simulator in this Python."""
    if not 1 <= threads <= len(sites):
        raise ConfigRefused(
            "-t, the number of sites that run at the same time",
            found=str(threads),
            expected=f"1 to {len(sites)}, the number of sites",
            fix=f"-t {len(sites)}, or a smaller number that is not below 1",
        )
    words = [
        str(job),
        "-w",
        str(workspace),
        "-c",
        ",".join(sites),
        "-t",
        str(threads),
        "-l",
        log,
    ]
    return [sys.executable, "-m", "nvflare.cli", "simulator", *words]


def matters(line: str) -> bool:
    """Return whether a line of the simulator is shown: all are but empty lines and
    NOISE.
    """
    return bool(line.strip()) and not any(noise in line for noise in NOISE)


def stream(
    command: Sequence[str],
    environment: Mapping[str, str],
    show: Callable[[str], None],
) -> int:
    """Run the command, show its lines as they come, and return its exit code. The code
    says little; the report decides.

    If this process is interrupted, the child, which receives the same signal, has
    PATIENCE_S to end by itself. Then it and all its processes are killed.
    """
    with subprocess.Popen(
        list(command),
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        try:
            for line in child.stdout or ():
                show(line.rstrip("\n"))
            return child.wait()
        finally:
            if child.poll() is None:
                _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """End the simulator, and the site processes that it started in sessions of their
    own.
    """
    import psutil

    try:
        # Listed before the wait: once the parent is gone, its children have no parent
        # to be found by.
        tree = [
            *psutil.Process(child.pid).children(recursive=True),
            psutil.Process(child.pid),
        ]
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=PATIENCE_S)
