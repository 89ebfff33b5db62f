"""A provisioned consortium with mutual TLS on loopback: real startup kits, real processes, an admin's kit."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil
import yaml

BIN = Path(sys.executable).parent
SITES = ("site-1", "site-2", "site-3", "site-4")
SERVER, ADMIN = "localhost", "admin@consortium.org"
TINY = (
    "model.channels=[4,8]",
    "num_rounds=2",
    "work=4",
    "sampling.patch=[16,16,16]",
    "model_selection.steps=[0,1]",
)
SIZES = {"site-1": 6, "site-2": 7, "site-3": 8, "site-4": 6}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def fail(words: str) -> NoReturn:
    raise AssertionError(words)


@dataclass
class Consortium:
    """One server and four sites from their startup kits, in processes of their own, and an admin's kit.

    variables: what differs in one party's environment | commands: how a party is started, if not by its kit's own script
    through: site -> local port by which it reaches the server instead of the server's own (a proxy that can be cut)
    """

    root: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_port())

    @property
    def kits(self) -> Path:
        return self.root / "ws" / "wardround" / "prod_00"

    def provision(self, repository: Path) -> None:
        project = yaml.safe_load((repository / "poc_workspace" / "project.yml").read_text())
        server = project["participants"][0]
        server["fed_learn_port"], server["admin_port"] = self.port, free_port()
        for one in project["participants"]:
            if one["name"] in self.through:
                one["connect_to"] = {"host": SERVER, "port": self.through[one["name"]]}
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

    def start(self, party: str, before: Sequence[str] = (), **variables: str) -> None:
        """Start a party from its kit. before: a command that the start script is handed to."""
        with (self.root / f"{party}.out").open("wb") as out:
            self.processes.append(
                subprocess.Popen(
                    [*before, *self.commands.get(party, ["bash", str(self.kits / party / "startup" / "sub_start.sh")])],
                    env=self.environment | self.variables.get(party, {}) | variables,
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
        fail(f"the sites did not connect: {said[-2000:]}")

    def job(
        self,
        name: str,
        *settings: str,
        sites: Sequence[str] = SITES,
        scope: str | None = None,
        change: Callable[[Path], None] | None = None,
    ) -> str:
        """Submit a tiny job and return its id. scope: the privacy scope of its meta.json | change: what else to alter."""
        from wardround.jobs import folder, recipes

        job = folder.write(recipes.job(name, [*TINY, *settings], sites), self.root / "jobs" / name)
        if scope is not None:
            meta = json.loads((job / "meta.json").read_text())
            (job / "meta.json").write_text(json.dumps(meta | {"scope": scope}))
        if change is not None:
            change(job)
        return self.submit(job)

    def submit(self, job: Path) -> str:
        """Submit a job's folder and return its id."""
        said = json.dumps(self.ask("job", "submit", "-j", str(job)))
        return next(word for word in said.replace('"', " ").split() if word.count("-") == 4 and len(word) == 36)

    def site(self, name: str, job_id: str) -> Path:
        """Return what a site has written in a job."""
        return self.kits / name / job_id / "wardround"

    def private(self, name: str, job_id: str) -> Path:
        """Return where a party keeps the secrets, the state and the refusals of a job: outside its workspace."""
        return self.kits / f"{name}.private" / job_id

    def server_log(self, job_id: str) -> str:
        """Return what the server's job process has said, "" before it began; of a job that was downloaded: from there."""
        running = self.kits / SERVER / job_id / "log.txt"
        archived = [path for path in (self.root / "downloads").rglob("log.txt") if job_id in str(path)]
        found = [path for path in (running, *archived) if path.is_file()]
        return found[0].read_text(errors="replace") if found else ""

    def wait_for_log(self, job_id: str, words: str, patience_s: int = 120) -> None:
        """Wait until the server's job process has said something."""
        end = time.monotonic() + patience_s
        while words not in self.server_log(job_id):
            if time.monotonic() > end:
                fail(f"the server did not say {words!r}:\n{self.server_log(job_id)[-3000:]}")
            time.sleep(0.1)

    def kill(self, party: str) -> None:
        """SIGKILL a party whole: the process of its kit and the one of its job."""
        assert kill_all(self.kits / party)

    def wait_until_registered(self, party: str, patience_s: int = 60) -> None:
        """Wait for a party that was started again: the server still shows the old one as connected."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if f"Successfully registered client:{party}" in (self.root / f"{party}.out").read_text(errors="replace"):
                time.sleep(2)
                return
            time.sleep(0.5)
        fail(f"{party} did not come back")

    def wait_for_receipt(self, site: str, job_id: str, task: str, patience_s: int = 90) -> None:
        """Wait until a site has written down that it releases the result of a task."""
        file = self.kits / site / job_id / "wardround" / "releases.jsonl"
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if file.is_file() and f'"task": "{task}"' in file.read_text():
                return
            time.sleep(0.02)
        fail(f"{site} released nothing for {task}")

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
            end(one.terminate)
        _, stubborn = psutil.wait_procs(alive, timeout=10)
        for one in stubborn:
            end(one.kill)
        kill_all(self.kits)  # a start script that was not yet stopped has started its party again


def kill_all(kit: Path) -> int:
    """SIGKILL every process that was started from this folder; return how many."""
    mine = [one for one in psutil.process_iter(["cmdline"]) if str(kit) in " ".join(one.info["cmdline"] or [])]
    for one in mine:
        end(one.kill)
    psutil.wait_procs(mine, timeout=10)
    return len(mine)


def end(signal: Callable[[], None]) -> None:
    """Send a signal to a process that may have ended by itself since it was listed."""
    with suppress(psutil.NoSuchProcess):
        signal()


@contextmanager
def started(
    root: Path,
    repository: Path,
    equip: Callable[[Consortium], None] | None = None,
    through: dict[str, int] | None = None,
) -> Iterator[Consortium]:
    """Provision, write each site's own files, start everybody, and stop them in the end. equip: more of a site's files."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    (root / "home").mkdir()
    variables = {"HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    made = Consortium(root, {**os.environ, **variables}, through=through or {})
    made.provision(repository)
    for number, (site, patients) in enumerate(SIZES.items()):
        data = root / "data" / site
        write_cohort(data, hospital(number), seed=0, shape=(24, 24, 24), patients=patients)
        (made.kits / site / "local" / "wardround.json").write_text(json.dumps({"data": str(data)}))
    if equip is not None:
        equip(made)
    try:
        for party in (SERVER, *SITES):
            made.start(party)
        made.wait_until_connected()
        yield made
    finally:
        made.stop()
        shutil.rmtree(root / "store", ignore_errors=True)
