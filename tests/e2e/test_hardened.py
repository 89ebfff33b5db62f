"""Hardened hospitals beside others, in a provisioned consortium: who runs which form of a job, and what the lead reads.

site-1   hardened, and a privacy.json of its own            site-3   takes code; wardround is not installed there
site-2   hardened, started by the container's entry point    site-4   takes code; another wardround is installed there
The server builds listed classes only, and lets jobs bring code, so that each site decides for itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from consortium import ADMIN, SERVER, TINY, Consortium, started

from wardround import __version__

OTHER = "0.0.9"
QUICK = ("num_rounds=1", "work=2", "federation.min_clients=1")
CLIENT = "app/config/config_fed_client.json"
REFUSALS = ("not authorized", "NOT_AUTHORIZED", "invalid_request", "not allowed", "cannot be applied", "yntax error")
STOPS = ("restart client site-1", "shutdown client site-1")
UNLISTED = "nvflare.app_common.widgets.event_recorder.ClientEventRecorder"


def python_without_wardround(folder: Path) -> Path:
    """Return the bin/ of a Python that has every installed package but ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (here,) = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "wardround" not in path.name and not (here / path.name).exists():
            (here / path.name).symlink_to(path)
    return folder / "bin"


def another_wardround(folder: Path) -> Path:
    """Return a folder with a copy of the package that says it is another version."""
    import wardround

    shutil.copytree(Path(wardround.__file__).parent, folder / "wardround", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "wardround" / "__init__.py"
    file.write_text(file.read_text().replace(__version__, OTHER))
    return folder


def entrypoint(repository: Path, *words: str) -> list[str]:
    return ["bash", str(repository / "poc_workspace" / "docker" / "entrypoint.sh"), *words]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Consortium]:
    from wardround.cli.main import main
    from wardround.flare.kit import write_changed
    from wardround.jobs import allow_list

    root = tmp_path_factory.mktemp("hardened")

    def equip(made: Consortium) -> None:
        for site in ("site-1", "site-2"):
            assert main(["sites", "harden", str(made.kits / site)]) == 0
        shutil.copyfile(repository / "poc_workspace" / "privacy.json", made.kits / "site-1" / "local" / "privacy.json")
        listed = allow_list.allow_list()["server"]
        resources = made.kits / SERVER / "local" / "resources.json"
        write_changed(resources, lambda found: allow_list.resources(found, "server", listed))
        container = {"WARDROUND_KIT": str(made.kits / "site-2"), "WARDROUND_WORKSPACE": str(root / "container")}
        bare = python_without_wardround(root / "bare")
        made.variables = {
            "site-2": container,
            "site-3": {"PATH": f"{bare}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""},
            "site-4": {"PYTHONPATH": str(another_wardround(root / "other"))},
        }
        made.commands = {"site-2": entrypoint(repository, "start")}

    with started(root, repository, equip) as made:
        yield made


class Seen:
    """What a lead sees of one job, and what its report says."""

    def __init__(self, consortium: Consortium, files: dict[str, bytes], name: str) -> None:
        from wardround.jobs import packaging

        self.id = consortium.submit(packaging.write(files, consortium.root / "packages" / name))
        self.completed = consortium.call_code("job", "wait", self.id, "--timeout", "240", "--interval", "1") == 0
        self.meta: dict[str, Any] = consortium.ask("job", "meta", self.id)["data"]
        self.deployed = dict(line.split(": ", 1) for line in self.meta["job_deploy_detail"])
        self.report = consortium.report(self.id)


def printed(*sites: str) -> dict[str, bytes]:
    from wardround.jobs import packaging, recipes

    return packaging.printed_job(recipes.job("brats_fedavg", [*TINY, *QUICK], sites))


@pytest.fixture(scope="module")
def config_only(consortium: Consortium) -> Seen:
    from wardround.jobs import packaging

    return Seen(consortium, packaging.config_only(printed("site-1", "site-2")), "config_only")


@pytest.fixture(scope="module")
def with_code(consortium: Consortium, config_only: Seen) -> Seen:
    from wardround.jobs import packaging

    return Seen(consortium, packaging.with_code(printed("site-1", "site-3", "site-4")), "with_code")


@pytest.fixture(scope="module")
def unlisted(consortium: Consortium, with_code: Seen) -> Seen:
    from wardround.jobs import packaging

    files = packaging.config_only(printed("site-1"))
    config = json.loads(files[CLIENT])
    config["components"].append({"id": "recorder", "path": UNLISTED, "args": {}})
    return Seen(consortium, files | {CLIENT: json.dumps(config).encode()}, "unlisted")


def test_a_job_without_code_runs_at_hardened_sites(config_only):
    assert config_only.completed
    assert config_only.meta["status"] == "FINISHED:COMPLETED"
    assert config_only.deployed == {"server": "OK", "site-1": "OK", "site-2": "OK"}
    assert "byoc" not in config_only.meta
    assert config_only.report["outcome"] == "complete"
    assert config_only.report["rounds"][0]["aggregated"] == ["site-1", "site-2"]


def test_the_site_in_a_container_keeps_its_kit_and_its_ledgers_folder_apart(consortium, config_only):
    workspace = consortium.root / "container"
    assert (workspace / config_only.id / "wardround" / "releases.jsonl").is_file()
    assert not (consortium.kits / "site-2" / config_only.id).exists()
    links = {path.name for path in (workspace / "local").iterdir() if path.is_symlink()}
    assert {"resources.json", "authorization.json", "wardround.json", "signature.json"} <= links
    assert not (workspace / "local").is_symlink()


def test_the_same_job_with_code_is_refused_by_a_hardened_site_before_anything_is_deployed(consortium, with_code):
    assert with_code.meta["byoc"] is True
    assert with_code.deployed["site-1"] == "NVFLARE_ERROR: BYOC not permitted"
    assert with_code.deployed["site-3"] == with_code.deployed["site-4"] == "OK"
    assert not (consortium.kits / "site-1" / with_code.id).exists()


def test_a_site_without_wardround_trains_with_the_code_of_the_job(consortium, with_code):
    python = consortium.root / "bare" / "bin" / "python3"
    environment = {**os.environ, "PYTHONPATH": ""}
    asked = subprocess.run([python, "-c", "import nvflare, wardround"], env=environment, capture_output=True, text=True)
    assert "No module named 'wardround'" in asked.stderr
    assert with_code.report["rounds"][0]["aggregated"] == ["site-3"]
    assert with_code.report["rounds"][0]["sites"]["site-3"]["val_score"] is not None


def test_a_site_with_another_wardround_refuses_and_says_what_to_install(consortium, with_code):
    assert [words for words in with_code.report["problems"] if "site-4 was lost in round 1: refused: version" in words]
    reason = (consortium.private("site-4", with_code.id) / "refusals.txt").read_text()
    assert f"wardround {OTHER} runs here" in reason
    assert f"pip install wardround=={__version__}" in reason
    assert not with_code.completed


@pytest.fixture(scope="module")
def console(consortium: Consortium, config_only: Seen, with_code: Seen, unlisted: Seen) -> dict[str, str]:
    """What the consortium's project admin is shown at NVFlare's console, command by command, when all jobs are over."""
    commands = [
        *(f"cat {site} local/wardround.json" for site in ("site-1", "site-2", "site-3")),
        "cat site-1 startup/wardround_sum_key.key",
        "cat site-3 startup/wardround_sum_key.key",
        "cat site-1 startup/client.key",
        "head site-1 audit.log",
        f"cat site-1 {config_only.id}/log.txt",
        f"cat site-4 {with_code.id}/wardround/refusals.txt",
        f"cat site-4 ../site-4.private/{with_code.id}/refusals.txt",
        "ls site-1",
        "configure_site_log client site-1 DEBUG",
        "report_env site-1",
        "sys_info client site-1",
        *STOPS,
    ]
    script = (
        "import json, sys\n"
        "from nvflare.fuel.flare_api.flare_api import new_secure_session\n"
        "session = new_secure_session(sys.argv[1], sys.argv[2])\n"
        "said = {one: json.dumps(session.api.do_command(one), default=str) for one in sys.argv[3:]}\n"
        "session.close()\n"
        "print('ANSWERS' + json.dumps(said))\n"
    )
    words = [sys.executable, "-c", script, ADMIN, str(consortium.kits / ADMIN), *commands]
    done = subprocess.run(
        words, env=consortium.environment, cwd=consortium.root, capture_output=True, text=True, timeout=240
    )
    assert "ANSWERS" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("ANSWERS")[2])


def test_the_console_reads_a_site_as_provisioned_but_neither_its_key_nor_its_refusals(consortium, console, with_code):
    """So the control works: what is refused below is refused by the hardened site, and not by a wrong command."""
    assert "data" in console["cat site-3 local/wardround.json"]
    assert str(consortium.root / "data" / "site-3") in console["cat site-3 local/wardround.json"]
    seed = json.loads((consortium.kits / "site-3" / "startup" / "wardround_sum_key.key").read_text())["seed"]
    assert seed not in json.dumps(console)
    assert f"wardround {OTHER} runs here" in (consortium.private("site-4", with_code.id) / "refusals.txt").read_text()
    assert f"wardround {OTHER} runs here" not in json.dumps(console)


def test_the_console_reads_and_changes_nothing_at_a_hardened_site(consortium, console):
    for site in ("site-1", "site-2"):
        assert str(consortium.root / "data" / site) not in json.dumps(console)
    asked = {one: said for one, said in console.items() if "site-1" in one or "site-2" in one}
    shown = [
        f"{one}: {said}"
        for one, said in asked.items()
        if one not in STOPS and not any(word in said for word in REFUSALS)
    ]
    assert shown == []


def test_nobody_stops_or_restarts_a_hardened_site_from_afar(consortium, console, config_only):
    assert set(STOPS) < set(console)
    time.sleep(3)
    parents = [one for one in psutil.process_iter(["cmdline", "create_time"]) if is_parent(one, consortium, "site-1")]
    first_job = (consortium.kits / "site-1" / config_only.id / "fl_app.txt").stat().st_mtime
    assert [one.info["create_time"] < first_job for one in parents] == [True]
    assert "site-1" in json.dumps(consortium.ask("system", "status"))


def is_parent(process: psutil.Process, consortium: Consortium, site: str) -> bool:
    words = process.info["cmdline"] or []
    return str(consortium.kits / site) in words and "nvflare.private.fed.app.client.client_train" in words


def test_all_that_a_hardened_site_wrote_is_for_its_owner_only(consortium, config_only):
    folders = [consortium.kits / "site-1" / config_only.id, consortium.kits / "site-1.private"]
    written = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    assert {"log.txt", "releases.jsonl", "site_report.html"} <= {path.name for path in written}
    assert [str(path) for path in written if path.stat().st_mode & 0o077] == []


def test_an_unlisted_class_ends_the_job_and_the_site_knows_why(consortium, unlisted):
    """NVFlare builds the config only after deployment: the lead reads that the run ended, the site's log names the class."""
    assert not unlisted.completed
    assert unlisted.meta["status"] == "FINISHED:ABNORMAL"
    assert unlisted.deployed["site-1"] == "OK"
    assert unlisted.report["outcome"] == "incomplete"
    log = (consortium.kits / "site-1" / unlisted.id / "error_log.txt").read_text(errors="replace")
    assert f"Component '{UNLISTED}' at config path 'components.#4' is not in allow_list" in log
    assert not list((consortium.kits / "site-1" / unlisted.id).rglob("releases.jsonl"))


def test_preflight_reaches_the_running_server_with_the_kits_own_certificates(consortium, repository, capsys):
    from wardround.cli.main import main

    site, server = str(consortium.kits / "site-1"), str(consortium.kits / SERVER)
    assert main(["preflight", site, "--only", "kit,certificates,keys,server,scope,code", "--json"]) == 0
    assert {one["check"]: one["status"] for one in json.loads(capsys.readouterr().out)} == dict.fromkeys(
        ("kit", "certificates", "keys", "server", "scope", "code"), "PASS"
    )
    assert main(["preflight", server, "--only", "server", "--started"]) == 0
    environment = consortium.environment | consortium.variables["site-2"]
    assert subprocess.run(entrypoint(repository, "health"), env=environment, capture_output=True).returncode == 0
