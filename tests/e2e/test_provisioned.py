"""A provisioned consortium with mutual TLS on loopback: real startup kits, real processes, the hidden sums end to end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

BIN = Path(sys.executable).parent
SITES = ("site-1", "site-2", "site-3", "site-4")
SERVER, ADMIN = "localhost", "admin@consortium.org"
TINY = (
    "model.channels=[4,8]",
    "rounds=2",
    "work=4",
    "sampling.patch=[16,16,16]",
    "judging.steps=[0,1]",
)
SIZES = {"site-1": 6, "site-2": 7, "site-3": 8, "site-4": 6}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Consortium:
    """One server and three sites from their startup kits, in processes of their own, and an admin's kit."""

    root: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def kits(self) -> Path:
        return self.root / "ws" / "wardround" / "prod_00"

    def provision(self, repository: Path) -> None:
        project = yaml.safe_load((repository / "poc_workspace" / "project.yml").read_text())
        server = project["participants"][0]
        server["fed_learn_port"], server["admin_port"] = free_port(), free_port()
        (self.root / "project.yml").write_text(yaml.safe_dump(project))
        self.call("provision", "-p", str(self.root / "project.yml"), "-w", str(self.root / "ws"))
        resources = json.loads((self.kits / SERVER / "local" / "resources.json.default").read_text())
        text = json.dumps(resources).replace("/tmp/nvflare", str(self.root / "store"))  # noqa: S108 - NVFlare's default
        (self.kits / SERVER / "local" / "resources.json").write_text(text)

    def call(self, *words: str, patience_s: int = 120) -> str:
        done = subprocess.run(
            [str(BIN / "nvflare"), *words],
            env=self.environment,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def ask(self, *words: str, patience_s: int = 120) -> Any:
        text = self.call("--format", "json", *words, "--startup-kit", str(self.kits / ADMIN), patience_s=patience_s)
        return json.loads(text[text.index("{") :])

    def start(self, party: str) -> None:
        with (self.root / f"{party}.out").open("wb") as out:
            self.processes.append(
                subprocess.Popen(
                    ["bash", str(self.kits / party / "startup" / "sub_start.sh")],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def wait_until_connected(self, patience_s: int = 90) -> None:
        end = time.monotonic() + patience_s
        said = ""
        while time.monotonic() < end:
            done = subprocess.run(
                [str(BIN / "nvflare"), "--format", "json", "system", "status", "--startup-kit", str(self.kits / ADMIN)],
                env=self.environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            said = done.stdout
            if done.returncode == 0 and all(site in said for site in SITES):
                return
            time.sleep(1)
        pytest.fail(f"the sites did not connect: {said[-2000:]}")

    def job(self, name: str, *settings: str) -> str:
        from wardround.jobs import folder, recipes

        job = folder.write(recipes.job(name, [*TINY, *settings], SITES), self.root / "jobs" / name)
        said = json.dumps(self.ask("job", "submit", "-j", str(job)))
        return next(word for word in said.replace('"', " ").split() if word.count("-") == 4 and len(word) == 36)

    def kill(self, party: str) -> None:
        """SIGKILL a party whole: the process of its kit and the one of its job."""
        mine = [
            one
            for one in psutil.process_iter(["cmdline"])
            if str(self.kits / party) in " ".join(one.info["cmdline"] or [])
        ]
        assert mine
        for one in mine:
            one.kill()
        psutil.wait_procs(mine, timeout=10)

    def wait_until_registered(self, party: str, patience_s: int = 60) -> None:
        """Wait for a party that was started again: the server still shows the old one as connected."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if f"Successfully registered client:{party}" in (self.root / f"{party}.out").read_text(errors="replace"):
                time.sleep(2)
                return
            time.sleep(0.5)
        pytest.fail(f"{party} did not come back")

    def wait_for_receipt(self, site: str, job_id: str, task: str, patience_s: int = 90) -> None:
        """Wait until a site has written down that it releases the result of a task."""
        file = self.kits / site / job_id / "wardround" / "releases.jsonl"
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if file.is_file() and f'"task": "{task}"' in file.read_text():
                return
            time.sleep(0.02)
        pytest.fail(f"{site} released nothing for {task}")

    def incomplete(self, job_id: str) -> dict[str, Any]:
        """Return the report of a job that ended without success."""
        self.call_code("job", "wait", job_id, "--timeout", "240", "--interval", "1")
        return self.report(job_id)

    def call_code(self, *words: str) -> int:
        done = subprocess.run(
            [str(BIN / "nvflare"), "--format", "json", *words, "--startup-kit", str(self.kits / ADMIN)],
            env=self.environment,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
        )
        return done.returncode

    def result(self, job_id: str) -> dict[str, Any]:
        self.ask("job", "wait", job_id, "--timeout", "240", "--interval", "1", patience_s=300)
        return self.report(job_id)

    def report(self, job_id: str) -> dict[str, Any]:
        out = self.root / "downloads"
        self.ask("job", "download", job_id, "-o", str(out))
        found = [path for path in out.rglob("report.json") if job_id in str(path)]
        return json.loads(found[0].read_text())

    def stop(self) -> None:
        alive = []
        for process in self.processes:
            try:
                family = psutil.Process(process.pid)
                alive += [*family.children(recursive=True), family]
            except psutil.NoSuchProcess:
                continue
        for one in alive:
            one.terminate()
        _, stubborn = psutil.wait_procs(alive, timeout=10)
        for one in stubborn:
            one.kill()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Consortium]:
    from wardround.data.hospitals import hospital
    from wardround.data.phantoms import write_cohort

    root = tmp_path_factory.mktemp("consortium")
    (root / "home").mkdir()
    variables = {"HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    made = Consortium(root, {**os.environ, **variables})
    made.provision(repository)
    for number, (site, patients) in enumerate(SIZES.items()):
        data = root / "data" / site
        write_cohort(data, hospital(number), seed=0, shape=(24, 24, 24), patients=patients)
        (made.kits / site / "local" / "wardround.json").write_text(json.dumps({"data": str(data)}))
    try:
        for party in (SERVER, *SITES):
            made.start(party)
        made.wait_until_connected()
        yield made
    finally:
        made.stop()
        shutil.rmtree(root / "store", ignore_errors=True)


@pytest.fixture(scope="module")
def reports(consortium: Consortium) -> dict[str, dict[str, Any]]:
    """Four jobs, submitted one after the other, each waited for."""
    names = {"he": "brats_fedavg_he", "masked": "brats_fedavg_masked", "fixed": "brats_fedavg_fixed"}
    found = {mode: consortium.result(consortium.job(name)) for mode, name in names.items()}
    return found | {"ring": consortium.result(consortium.job("brats_fedavg", "privacy=ring"))}


def test_the_kits_hold_what_each_party_may_have(consortium):
    names = {path.name for path in (consortium.kits / SERVER / "startup").iterdir()}
    assert "wardround_sum_public.json" in names
    assert "wardround_sum_key.json" not in names
    keys = {(consortium.kits / site / "startup" / "wardround_sum_key.json").read_bytes() for site in SITES}
    assert len(keys) == 1
    assert (
        json.loads(keys.pop())["seed"]
        not in (consortium.kits / SERVER / "startup" / "wardround_sum_public.json").read_text()
    )


@pytest.mark.parametrize("mode", ["fixed", "masked", "he", "ring"])
def test_every_site_is_in_every_sum(reports, mode):
    report = reports[mode]
    assert report["outcome"] == "complete"
    assert report["simulator"] is False
    for entry in report["rounds"]:
        assert entry["configured"] == entry["trained"] == entry["aggregated"] == list(SITES)
    assert set(report["verdicts"]) == set(SITES)


def test_the_models_are_the_same_bit_for_bit(reports):
    found = {mode: report["model"]["sha256"] for mode, report in reports.items()}
    assert len(set(found.values())) == 1, found
    assert len(found["fixed"]) == 64


def test_the_server_holds_no_model_and_no_key(consortium, reports):
    held = {path.name for path in (consortium.kits / SERVER).rglob("*") if path.is_file()}
    assert not {"final_model.npz", "best_model.npz", "wardround_sum_key.json", "secrets.json"} & held
    assert list((consortium.kits / "site-1").rglob("final_model.npz"))


@pytest.mark.parametrize(("task", "in_the_sum"), [("train", False), ("hop", None)])
def test_a_site_that_dies_at_its_hop_is_survived_and_named(consortium, reports, task, in_the_sum):
    """SIGKILL while its training result or its hop leaves: the three others finish the round and the run.

    The receipt is written before the message is sent, so the site dies just before or just after that.
    """
    patience = ("federation.step_timeout_s=10", "federation.round_timeout_s=45")
    job_id = consortium.job("brats_fedavg", "privacy=ring", *patience)
    consortium.wait_for_receipt("site-4", job_id, task)
    consortium.kill("site-4")
    try:
        report = consortium.incomplete(job_id)
    finally:
        consortium.start("site-4")
    consortium.wait_until_registered("site-4")
    first, second = report["rounds"]
    assert report["outcome"] == "incomplete"
    assert [words for words in report["problems"] if words.startswith("site-4 was lost in round ")]
    assert first["configured"] == second["configured"] == list(SITES)
    assert second["aggregated"] == ["site-1", "site-2", "site-3"]
    if in_the_sum is not None:
        assert ("site-4" in first["aggregated"]) is in_the_sum
        assert first["recovered"] == ["site-4"]
    assert set(report["final"]) == {"site-1", "site-2", "site-3"}
    assert len(report["model"]["sha256"]) == 64
