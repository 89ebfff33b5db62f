"""`wardround poc`: the road from a project file to a finished job, with real kits, processes and TLS on loopback.

One hospital holds a privacy scope of its own and keeps out of a job in plaintext; the admin console starts another job.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from consortium import TINY, free_port, kill_all

SETTINGS = [word for setting in TINY for word in ("--set", setting)]


@dataclass(frozen=True)
class Poc:
    root: Path
    repository: Path

    @property
    def kits(self) -> Path:
        return self.root / "poc" / "wardround" / "prod_00"

    def call(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HOME": str(self.root / "home"),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NVFLARE_POC_WORKSPACE": str(self.root / "poc"),
        }
        return subprocess.run(
            list(words), cwd=self.root, env=environment, input=stdin or "", capture_output=True, text=True, timeout=400
        )

    def wardround(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call(str(Path(sys.executable).parent / "wardround"), *words)

    def nvflare(self, *words: str) -> dict[str, Any]:
        done = self.call(sys.executable, "-m", "nvflare.cli", "--format", "json", *words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["data"]
        return found


@pytest.fixture(scope="module")
def poc(tmp_path_factory, repository):
    root = tmp_path_factory.mktemp("poc")
    (root / "home").mkdir()
    project = yaml.safe_load((repository / "poc_workspace" / "project.yml").read_text())
    server = project["participants"][0]
    server["fed_learn_port"], server["admin_port"] = free_port(), free_port()
    project["participants"] = [one for one in project["participants"] if one["name"] != "site-4"]
    (root / "project.yml").write_text(yaml.safe_dump(project))
    strict = root / "policies" / "site-3"
    strict.mkdir(parents=True)
    (strict / "privacy.json").write_text((repository / "poc_workspace" / "privacy_patient.json").read_text())
    made = Poc(root, repository)
    try:
        words = ("--project", "project.yml", "--local", "policies", "--patients", "6", "--shape", "24", "24", "24")
        done = made.wardround("poc", "up", *words)
        assert done.returncode == 0, done.stderr[-3000:]
        kept = made.kits / "site-1" / "result"
        kept.write_text("of an earlier job")
        assert made.wardround("poc", "down").returncode == 0
        again = made.wardround("poc", "up")
        assert again.returncode == 0, again.stderr[-3000:]
        assert kept.is_file()
        yield made, done
    finally:
        down = made.wardround("poc", "down")
        left = kill_all(made.root)
    assert (down.returncode, left) == (0, 0)


def test_one_command_brings_everybody_up(poc):
    made, done = poc
    assert "nvflare poc prepare" in done.stdout
    assert {one["client_name"] for one in made.nvflare("system", "status")["clients"]} == {"site-1", "site-2", "site-3"}
    assert not list(made.kits.glob("*/local/*.crt"))
    assert (made.root / "poc" / "store").is_dir()


def test_a_job_is_submitted_watched_downloaded_and_reported(poc):
    """site-3 lets nothing out but patient-level privacy: it takes no part in a job in plaintext, and the report says so."""
    made, _ = poc
    four = made.wardround("jobs", "submit", "brats_perfedavg", *SETTINGS)
    assert four.returncode == 2
    assert "not connected: site-4" in four.stderr
    longer = ("--set", "work=160")  # so that the job still runs when it is asked how far it is, on an idle machine too
    done = made.wardround("jobs", "submit", "brats_perfedavg", *SETTINGS, *longer, "--all-sites", "--out", "results")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"(round \d/2|judgement): \d of \d sites", done.stderr), (
        "how far it is, though no log of a server is read"
    )
    assert "PROBLEM: site-3 was lost in round 1" in done.stdout
    report = json.loads(next((made.root / "results").rglob("report.json")).read_text())
    assert [one["aggregated"] for one in report["rounds"]] == [["site-1", "site-2"]] * 2
    reasons = "".join(path.read_text() for path in (made.kits / "site-3.private").glob("*/refusals.txt"))
    assert "REFUSED by the policy of site-3" in reasons


@pytest.mark.nightly
def test_a_job_that_is_not_taken_ends_with_nvflares_reason(poc):
    """site-3 has a policy of its own, and the job names a scope that it does not know; without site-3 it may not run."""
    made, _ = poc
    written = made.wardround("jobs", "write", "brats_fedavg", *SETTINGS, "--out", "scoped", "--all-sites")
    assert written.returncode == 0, written.stderr
    meta = made.root / "scoped" / "brats_fedavg" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"scope": "unheard_of", "mandatory_clients": ["site-3"]}))
    done = made.wardround("jobs", "submit", "scoped/brats_fedavg", "--out", "refused")
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert "site-3: " in done.stderr
    assert "unheard_of" in done.stderr


@pytest.mark.nightly
def test_the_admin_console_submits_the_same_folder(poc):
    made, _ = poc
    written = made.wardround(
        "jobs", "write", "brats_perfedavg_he", *SETTINGS, "--sites", "site-1,site-2,site-3", "--out", "j"
    )
    assert written.returncode == 0, written.stderr
    console = next(made.kits.glob("admin@*")) / "startup" / "fl_admin.sh"
    said = made.call(
        "bash", str(console), stdin=f"submit_job {made.root / 'j' / 'brats_perfedavg_he'}\nlist_jobs\nbye\n"
    )
    job_id = said.stdout.partition("Submitted job: ")[2].split()[0]
    assert "brats_perfedavg_he" in said.stdout
    made.call(sys.executable, "-m", "nvflare.cli", "job", "monitor", job_id, "--timeout", "200", "--interval", "1")
    assert made.nvflare("job", "meta", job_id)["job_deploy_detail"] == [
        "server: OK",
        "site-1: OK",
        "site-2: OK",
        "site-3: OK",
    ]


@pytest.mark.nightly
def test_a_job_is_aborted(poc):
    made, _ = poc
    job_id = made.nvflare("job", "submit", "-j", str(made.root / "j" / "brats_perfedavg_he"))["job_id"]
    made.nvflare("job", "abort", job_id, "--force")
    made.call(sys.executable, "-m", "nvflare.cli", "job", "wait", job_id, "--timeout", "60", "--interval", "1")
    assert made.nvflare("job", "meta", job_id)["status"] == "FINISHED:ABORTED"
