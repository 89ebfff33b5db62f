"""Where things lie in a party's own workspace, and how to recognise a simulator."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import ALL_SITES, JobMetaKey

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.core.paths import is_plain

SIMULATOR_JOB = "simulate_job"
RUN_FOLDER = "wardround"
STATE_VARIABLE, PRIVATE_VARIABLE = "WARDROUND_STATE", "WARDROUND_PRIVATE"
PRIVATE_SUFFIX = ".private"
STATE_FILE = "wardround_state.json"
PATIENCE_S = 30  # An aborted job takes some seconds to end; the next one waits.
_HELD: dict[Path, int] = {}  # Kept state: its lock file, open until the process ends.
FINISHED = "finished"
BEGAN_AS, GOES_ON_AS = "began_as", "goes_on_as"


def in_simulator(fl_ctx: FLContext) -> bool:
    """Return whether this is NVFlare's simulator, whose runs all have one id."""
    return bool(fl_ctx.get_job_id() == SIMULATOR_JOB)


def workspace_root(fl_ctx: FLContext) -> Path:
    """Return this party's workspace, in which `startup/` and `local/` lie."""
    return Path(fl_ctx.get_engine().get_workspace().get_root_dir())


def require_startable(fl_ctx: FLContext) -> None:
    """Raise ConfigRefused in a simulator whose sites cannot start: they would time out."""
    workspace = workspace_root(fl_ctx).parent
    if in_simulator(fl_ctx) and not is_plain(workspace):
        raise ConfigRefused(
            f"the simulator's workspace {str(workspace)!r}",
            found="a blank, a quote, a backslash or # in its path",
            expected="a path without them: NVFlare splits its command lines there, and no site starts",
            fix="name another workspace with -w, for example -w /tmp/run",
        )


def sites_of_job(meta: Mapping[str, Any]) -> list[str]:
    """Return the sites that a job's deploy_map names. The entry @ALL names none."""
    listed = [party for parties in (meta.get(JobMetaKey.DEPLOY_MAP.value) or {}).values() for party in parties]
    return [party for party in listed if isinstance(party, str) and party != "server" and party.upper() != ALL_SITES]


def job_name(fl_ctx: FLContext) -> str:
    """Return the job's own name. In the simulator every job has the same id."""
    meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
    return str(meta.get(JobMetaKey.JOB_NAME.value) or fl_ctx.get_job_id())


def run_folder(fl_ctx: FLContext) -> Path:
    """Return the folder of this run, `<workspace>/<job id>/wardround`, made if absent.

    It holds what the party shows to its own people. From this call on, this process
    writes nothing that anyone but its owner may read.
    """
    files.owner_only()
    workspace = fl_ctx.get_engine().get_workspace()
    return files.private_folder(Path(workspace.get_run_dir(fl_ctx.get_job_id())) / RUN_FOLDER)


def private_root(workspace: Path) -> Path:
    """Return the folder of a party's secrets and state. It is not made here.

    It is $WARDROUND_PRIVATE, or else `<workspace>.private`, never in the workspace.
    """
    root = workspace.resolve()
    named = os.environ.get(PRIVATE_VARIABLE)
    found = Path(named).expanduser().resolve() if named else root.with_name(f"{root.name}{PRIVATE_SUFFIX}")
    if found == root or root in found.parents:
        raise _refused_private(f"${PRIVATE_VARIABLE} names {found}, inside the workspace")
    return found


def private_folder(fl_ctx: FLContext) -> Path:
    """Return the folder of this run's secrets, state and reasons of refusals.

    It is `<private root>/<job id>`, made if absent; in the simulator, the run folder. A
    failure to write it is a ConfigRefused: nothing falls back into the workspace.
    """
    if in_simulator(fl_ctx):
        return run_folder(fl_ctx)
    return make_private(workspace_root(fl_ctx), str(fl_ctx.get_job_id()))


def make_private(workspace: Path, job: str = "") -> Path:
    """Return a party's private root, or one job's folder in it, for the owner only."""
    files.owner_only()
    root = private_root(workspace)
    try:
        new = not root.exists()
        files.private_folder(root)
        if new and os.geteuid() == 0:  # Made by root, for the user of the party.
            os.chown(root, workspace.stat().st_uid, workspace.stat().st_gid)
        return files.private_folder(root / job) if job else root
    except PermissionError as error:
        raise _refused_private(f"{root}: {error.strerror}") from error


def _refused_private(found: str) -> ConfigRefused:
    return ConfigRefused(
        "this party's private folder, for secrets and state",
        found=found,
        expected=f"a folder of this user outside the workspace: <workspace>{PRIVATE_SUFFIX}, or ${PRIVATE_VARIABLE}",
        fix=f"make <workspace>{PRIVATE_SUFFIX} with mode 700 for the user that runs the party, "
        f"or set {PRIVATE_VARIABLE} where it is started",
    )


def threads_for_this_process(fl_ctx: FLContext) -> int:
    """Return OMP_NUM_THREADS if it is set, else this site's share of the cores.

    Runs with one number of threads can be compared bit by bit: sums depend on it.
    """
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    cores = os.cpu_count() or 1
    if not in_simulator(fl_ctx):
        return cores
    import psutil

    words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    sites = sum(any(word.endswith("simulator.simulator_worker") for word in line) for line in words)
    return max(1, cores // max(1, sites))


def keeps_state(fl_ctx: FLContext) -> bool:
    """Tell whether this party keeps state outside the run's folder, to resume from."""
    return _state_root(fl_ctx) is not None


def state_folder(fl_ctx: FLContext) -> Path:
    """Return where this party keeps what a resumed run needs: never in the workspace.

    With $WARDROUND_STATE it is `<that>/<party>` in the simulator, `<that>/<party>/<job
    name>` at real sites. With local/wardround_state.json, {"folder": PATH}, it is
    `<that>/<job name>`, from the private root on. Without either it is
    `private_folder`, which no other run finds.
    """
    files.owner_only()
    root = _state_root(fl_ctx)
    return private_folder(fl_ctx) if root is None else files.private_folder(root)


def keep_to_this_job(folder: Path, job: str) -> None:
    """Hold the kept state of a job for this process until the process ends.

    A second job of the same name must not write into it. The operating system's lock
    beside the folder ends with the process, so it is never stale. No lock after
    PATIENCE_S seconds, or a file system without locks, is a ConfigRefused.
    """
    if folder in _HELD:
        return
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder.with_name(f".{folder.name}.lock")  # No job's name begins with a dot.
    opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                raise _in_use(folder, file, opened) from None
            time.sleep(0.2)
        except OSError as error:
            os.close(opened)
            raise ConfigRefused(
                f"the kept state {folder}",
                found=f"a file system without locks ({error.strerror})",
                expected="one that can lock a file, so that two jobs of one name do not write into it at once",
                fix=f"keep the state on a disk of this machine ({STATE_FILE}, or the variable {STATE_VARIABLE})",
            ) from error
    try:
        os.ftruncate(opened, 0)
        os.pwrite(opened, f"{os.getpid()} {job}".encode(), 0)
    except OSError:
        os.close(opened)  # Or this process would wait for its own lock next time.
        raise
    _HELD[folder] = opened


def _in_use(folder: Path, file: Path, opened: int) -> ConfigRefused:
    os.close(opened)
    pid, _, other = _said(file).partition(" ")
    return ConfigRefused(
        f"the kept state {folder}",
        found=f"another job of this name, {other or 'unknown'}, is running here (process {pid or 'unknown'})",
        expected="one job of a name at a time: both would go on from the same state",
        fix=f"wait for its end, or abort it (`nvflare job abort {other or 'ID'}`); or give this job another name",
    )


def begin_new_run(fl_ctx: FLContext) -> None:
    """Clear the kept state of a run that is over, when a job begins at its first round.

    A run is over if it came to its end here or, at a site, if another job than it began
    as begins before any round that this site has finished. Within one job a site never
    clears anything, whatever the server asks: it remembers what was opened.
    """
    if not keeps_state(fl_ctx):
        return
    folder, job = state_folder(fl_ctx), str(fl_ctx.get_job_id())
    keep_to_this_job(folder, job)
    if not in_simulator(fl_ctx) and _said(folder / GOES_ON_AS) == job:
        return
    other = _said(folder / BEGAN_AS) not in ("", job)
    beyond = [path for path in folder.rglob("round-*.npz") if path.stem > "round-00001" or path.parent != folder]
    if (folder / FINISHED).is_file() or (other and beyond):
        shutil.rmtree(folder)


def finish(fl_ctx: FLContext) -> None:
    """Note that the run came to its end at this party."""
    if keeps_state(fl_ctx):
        (state_folder(fl_ctx) / FINISHED).write_text("", encoding="utf-8")


def run_id(fl_ctx: FLContext) -> str:
    """Return the id of the job that this run began as; resumed jobs share that run."""
    if not keeps_state(fl_ctx):
        return str(fl_ctx.get_job_id())
    folder, job = state_folder(fl_ctx), str(fl_ctx.get_job_id())
    keep_to_this_job(folder, job)
    for name, written in ((BEGAN_AS, _said(folder / BEGAN_AS)), (GOES_ON_AS, _said(folder / GOES_ON_AS) == job)):
        if not written:
            files.write(folder / name, job, private=True, durable=True)
    return _said(folder / BEGAN_AS)


def _said(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _state_root(fl_ctx: FLContext) -> Path | None:
    named, party = os.environ.get(STATE_VARIABLE), str(fl_ctx.get_identity_name())
    job = re.sub(r"[^A-Za-z0-9_.-]", "_", job_name(fl_ctx)).lstrip(".") or "job"
    if named and in_simulator(fl_ctx):
        return Path(named) / party
    workspace = workspace_root(fl_ctx)
    kept = _outside(Path(named), workspace, f"${STATE_VARIABLE}") / party if named else kept_root(workspace)
    return None if kept is None else kept / job


def kept_root(workspace: Path) -> Path | None:
    """Return the folder that local/wardround_state.json names; None without a file."""
    path = workspace / "local" / STATE_FILE
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        said = None
    if not (isinstance(said, dict) and set(said) == {"folder"} and isinstance(said["folder"], str) and said["folder"]):
        raise ConfigRefused(
            f"local/{STATE_FILE}",
            found="something else than one folder",
            expected='{"folder": "PATH"}',
            fix='write {"folder": "PATH"} into it, or delete it: then a run that breaks off cannot be continued',
        )
    return _outside(private_root(workspace) / str(said["folder"]), workspace, f"local/{STATE_FILE}")


def _outside(folder: Path, workspace: Path, says: str) -> Path:
    """Return a folder, resolved; one inside the workspace is a ConfigRefused."""
    found = folder.resolve()
    if found == workspace.resolve() or workspace.resolve() in found.parents:
        raise ConfigRefused(
            says,
            found="a folder inside the workspace, which NVFlare serves",
            expected=f"a relative folder in local/{STATE_FILE} (it lies in <workspace>{PRIVATE_SUFFIX}), or one elsewhere",
            fix='write {"folder": "kept"} there, and move the old folder into the private one if a job is to go on',
        )
    return found


def simulated_kits_folder(fl_ctx: FLContext) -> Path:
    """Return where simulated parties find kits; $WARDROUND_STATE outlives the run."""
    root = os.environ.get(STATE_VARIABLE)
    return (Path(root) if root else workspace_root(fl_ctx).parent) / "simulated_kits"
