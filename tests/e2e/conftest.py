"""Real simulator processes on tiny jobs. Every run is shared by the tests that look at it; none is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

TINY = (
    "model.channels=[4,8]",
    "num_rounds=2",
    "work=4",
    "sampling.patch=[16,16,16]",
    "model_selection.steps=[0,1]",
    "phantoms.patients=6",
    "phantoms.shape=[24,24,24]",
)
PATIENCE_S = 420
NVFLARE = str(Path(sys.executable).parent / "nvflare")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Run:
    """What a simulator left: its workspace, what it said, its exit code."""

    workspace: Path
    said: str
    code: int

    @property
    def server(self) -> Path:
        return self.workspace / "server" / "simulate_job"

    def site(self, name: str) -> Path:
        return self.workspace / name / "simulate_job"

    @property
    def report(self) -> dict[str, Any]:
        text = (self.server / "wardround" / "report.json").read_text(encoding="utf-8")
        return json.loads(text)

    def model(self, name: str = "final_model") -> tuple[dict[str, Any], dict[str, Any]]:
        from wardround.models import checkpoint

        return checkpoint.load(self.server / "wardround" / f"{name}.npz")

    def words_of(self, party: str) -> str:
        """Return everything readable that a party's folder holds, without its phantoms and its cache."""
        files = (
            path for kind in ("*.txt", "*.json", "*.jsonl", "*.html") for path in (self.workspace / party).rglob(kind)
        )
        mine = (path for path in files if not {"phantoms", "wardround_cache"} & set(path.parts))
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in mine)


class Simulator:
    """Starts `nvflare simulator`, each in a session of its own, and stops what is still there in the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._processes: list[psutil.Process] = []

    def job(self, name: str, sites: str, *settings: str) -> Path:
        """Print a tiny job folder from its recipe."""
        from wardround.jobs import folder, recipes

        made = recipes.job(name, [*TINY, *settings], sites.split())
        return folder.write(made, self.root / f"job{len(list(self.root.glob('job*')))}" / name)

    def start(self, job: Path, name: str, threads: int | None, **variables: str) -> subprocess.Popen[str]:
        """Start a simulator in a new folder; threads None: without any flag, so the workspace is NVFlare's own choice."""
        home = self.root / name
        home.mkdir()
        flags = [] if threads is None else ["-w", str(home / "simulator_workspace"), "-t", str(threads)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WARDROUND_")}
        with (home / "said.txt").open("w") as said:
            process = subprocess.Popen(
                [NVFLARE, "simulator", str(job), *flags],
                cwd=home,
                env=clean | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        self._processes.append(psutil.Process(process.pid))
        return process

    def finish(self, process: subprocess.Popen[str], name: str) -> Run:
        """Wait for the end and return what is left."""
        home = self.root / name
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.stop(psutil.Process(process.pid))
            pytest.fail(f"the simulator did not end in {PATIENCE_S} s:\n{(home / 'said.txt').read_text()[-4000:]}")
        return Run(home / "simulator_workspace", (home / "said.txt").read_text(errors="replace"), code)

    def run(self, job: Path, name: str, threads: int | None, **variables: str) -> Run:
        return self.finish(self.start(job, name, threads, **variables), name)

    def stop(self, process: psutil.Process) -> None:
        """Kill a simulator and its site processes (each has a session of its own)."""
        try:
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            return
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=30)

    def stop_all(self) -> None:
        for process in self._processes:
            self.stop(process)


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(tmp_path_factory.mktemp("simulator"))
    yield simulator
    simulator.stop_all()


@pytest.fixture(scope="session")
def main_job(simulator: Simulator) -> Path:
    """The main job at three hospitals; site-4 (west) has no T2 scanner."""
    return simulator.job("brats_perfedavg", "site-1 site-2 site-4")


@pytest.fixture(scope="session")
def flagless(simulator: Simulator, main_job: Path) -> Run:
    """The main job as the README starts it: one site at a time, a process for every task."""
    return simulator.run(main_job, "flagless", None)


@pytest.fixture(scope="session")
def side_by_side(simulator: Simulator, main_job: Path) -> Run:
    """The main job with one long-lived process for each site."""
    return simulator.run(main_job, "side_by_side", 3)


@pytest.fixture(scope="session")
def scaffold_job(simulator: Simulator) -> Path:
    """A job whose sites remember something between rounds (SCAFFOLD's control variates)."""
    return simulator.job("brats_scaffold", "site-1 site-2", "num_rounds=3", "work=12", "fedavg_baseline=false")


@pytest.fixture(scope="session")
def uninterrupted(simulator: Simulator, scaffold_job: Path) -> Run:
    return simulator.run(scaffold_job, "uninterrupted", 2)


@pytest.fixture(scope="session")
def resumed(simulator: Simulator, scaffold_job: Path) -> tuple[int, Run]:
    """Kill the simulator and its sites when a round is done; start again: (rounds done at the kill, the second run)."""
    state = simulator.root / "state"
    process = simulator.start(scaffold_job, "killed", 2, WARDROUND_STATE=str(state))
    deadline = time.monotonic() + PATIENCE_S
    while not list(state.glob("simulator_server/round-*.npz")):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail((simulator.root / "killed" / "said.txt").read_text()[-4000:])
        time.sleep(0.002)
    simulator.stop(psutil.Process(process.pid))
    process.wait(30)
    done = max(int(path.stem.removeprefix("round-")) for path in state.glob("simulator_server/round-*.npz"))
    return done, simulator.run(scaffold_job, "resumed", 2, WARDROUND_STATE=str(state))


@pytest.fixture(scope="session")
def damaged(simulator: Simulator) -> tuple[Path, Run]:
    """Three hospitals with files of their own, one of which is truncated at site-2: (that file, the run)."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    sites, folders = {}, []
    for number in (1, 2, 3):
        root = simulator.root / "hospitals" / f"site-{number}"
        folders.append(write_cohort(root, hospital(number - 1), seed=0, shape=(24, 24, 24), patients=4))
        sites[f"site-{number}"] = {"data": str(root)}
    broken = next(folders[1][2].glob("*_flair.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:1000])
    file = simulator.root / "hospitals" / "sites.json"
    file.write_text(json.dumps(sites))
    job = simulator.job("brats_fedavg", "site-1 site-2 site-3", "federation.min_clients=2")
    return broken, simulator.run(job, "damaged", 3, WARDROUND_SITES=str(file))


@pytest.fixture(scope="session")
def real(simulator: Simulator) -> Run:
    """Three hospitals of LGG-TCGA with three patients each (fewer cannot be split into train, val and test)."""
    lgg = Path(__file__).resolve().parents[3] / "shared" / "data" / "lgg_tcga_multisite_nc" / "px64"
    if not lgg.is_dir():
        pytest.skip(f"no real data in {lgg}")
    sites = {}
    for name in ("DU", "HT", "FG"):
        cases = sorted(path.name for path in lgg.glob(f"TCGA_{name}_*"))[:3]
        sites[name] = {"data": str(lgg), "cases": cases, "name": f"Hospital {name}"}
    file = simulator.root / "lgg.json"
    file.write_text(json.dumps(sites))
    job = simulator.job("brats_fedavg", "DU HT FG", "sampling.patch=[64,64,16]")
    return simulator.run(job, "real", 3, WARDROUND_SITES=str(file))
