"""Where things lie in a party's own workspace, and how to know a simulator."""

from __future__ import annotations

import os
from pathlib import Path

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey

SIMULATOR_JOB = "simulate_job"
STATE_VARIABLE = "WARDROUND_STATE"


def in_simulator(fl_ctx: FLContext) -> bool:
    """Return whether this is NVFlare's simulator: its runs all have the job id `simulate_job`."""
    return bool(fl_ctx.get_job_id() == SIMULATOR_JOB)


def workspace_root(fl_ctx: FLContext) -> Path:
    """Return this party's workspace (`startup/` and `local/` lie in it)."""
    return Path(fl_ctx.get_engine().get_workspace().get_root_dir())


def job_name(fl_ctx: FLContext) -> str:
    """Return the job's own name (in the simulator every job has the same id)."""
    meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
    return str(meta.get(JobMetaKey.JOB_NAME.value) or fl_ctx.get_job_id())


def run_folder(fl_ctx: FLContext) -> Path:
    """Return the folder of this run, `<workspace>/<job id>/wardround`, made if absent."""
    workspace = fl_ctx.get_engine().get_workspace()
    folder = Path(workspace.get_run_dir(fl_ctx.get_job_id())) / "wardround"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def threads_for_this_process(fl_ctx: FLContext) -> int:
    """Return how many threads this site may use: the simulator's site processes share the cores of one machine.

    OMP_NUM_THREADS set: that number, so that runs can be compared bit by bit (sums depend on the number of threads)
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


def state_folder(fl_ctx: FLContext) -> Path:
    """Return where this party keeps what a resumed run needs: `$WARDROUND_STATE/<party>`, else the run folder."""
    root = os.environ.get(STATE_VARIABLE)
    folder = Path(root) / fl_ctx.get_identity_name() if root else run_folder(fl_ctx)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def simulated_kits_folder(fl_ctx: FLContext) -> Path:
    """Return where the simulator's parties find their common root and sum key; with $WARDROUND_STATE it outlives the run."""
    root = os.environ.get(STATE_VARIABLE)
    return (Path(root) if root else workspace_root(fl_ctx).parent) / "simulated_kits"
