"""The container's files, read as a reviewer reads them; what its entry point runs is run here, as plain processes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wardround import __version__
from wardround.dp import ledger_file

FOLDER = Path(__file__).resolve().parents[1] / "poc_workspace" / "docker"
SECRET = re.compile(r"\.key|\.crt|\.pem|wardround_sum_key|tenseal|PASSWORD|TOKEN", re.IGNORECASE)


@pytest.fixture(scope="module")
def lines():
    """The Dockerfile's instructions, continued lines joined."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_the_base_image_is_pinned_to_a_patch_release(lines):
    assert [rest for name, rest in lines if name == "FROM"] == ["python:3.11.11-slim-bookworm"]


def test_nobody_is_root_when_a_party_runs(lines):
    users = [rest for name, rest in lines if name == "USER"]
    (uid,) = [rest.partition("=")[2] for name, rest in lines if name == "ARG"]
    assert users == ["${PARTY_UID}"]
    assert int(uid) >= 1000
    names = [name for name, _ in lines]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_nothing_is_fetched_but_packages_and_nothing_secret_is_copied(lines):
    assert "ADD" not in [name for name, _ in lines]
    assert not [rest for _, rest in lines if "://" in rest or SECRET.search(rest)]
    copied = [rest.split()[:-1] for name, rest in lines if name == "COPY"]
    sources = {word for words in copied for word in words if not word.startswith("--")}
    assert sources == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "custom",
        "app_configs",
        "poc_workspace/docker/entrypoint.sh",
    }
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text().split("\n")
    kept = [line for line in ignore if line and not line.startswith("#")]
    assert kept[0] == "*"
    assert {line[1:] for line in kept if line.startswith("!")} == sources
    assert all((FOLDER.parents[1] / source).exists() for source in sources)


def test_volumes_ports_and_health_are_declared(lines, compose):
    words = {name: rest for name, rest in lines}
    assert json.loads(words["ENTRYPOINT"]) == ["wardround-party"]
    assert json.loads(words["CMD"]) == ["start"]
    assert json.loads(words["VOLUME"]) == ["/workspace/local"]
    assert json.loads(words["HEALTHCHECK"].partition(" CMD ")[2]) == ["wardround-party", "health"]
    assert compose["services"]["server"]["image"] == f"wardround:{__version__}"


@pytest.mark.parametrize("name", ["server", "site"])
def test_a_party_writes_to_volumes_only(compose, name):
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    binds = [one for one in service["volumes"] if one["type"] == "bind"]
    assert all(one["read_only"] is True and one["bind"] == {"create_host_path": False} for one in binds)
    assert {one["target"] for one in binds} == {"server": {"/kit"}, "site": {"/kit", "/data"}}[name]
    volumes = {one["target"]: one["source"] for one in service["volumes"] if one["type"] == "volume"}
    assert set(volumes.values()) <= set(compose["volumes"])
    assert volumes["/workspace"] != volumes["/workspace/local"]
    assert volumes["/private"] not in (volumes["/workspace"], volumes["/workspace/local"])
    assert {"server": "/workspace/storage", "site": "/cache"}[name] in volumes


def test_no_two_parties_share_a_volume(compose):
    used = [
        one["source"]
        for service in compose["services"].values()
        for one in service["volumes"]
        if one["type"] == "volume"
    ]
    assert sorted(used) == sorted(compose["volumes"])


def test_the_ports_are_those_of_the_project(compose, repository):
    server = yaml.safe_load((repository / "poc_workspace" / "project.yml").read_text())["participants"][0]
    wanted = [f"{server[key]}:{server[key]}" for key in ("fed_learn_port", "admin_port")]
    assert compose["services"]["server"]["ports"] == wanted
    assert "ports" not in compose["services"]["site"], "a site only calls out"


@pytest.fixture
def party(provisioned, tmp_path):
    """party(*words, kit="site-1", real=True) -> the finished process; not real: a `wardround` that prints its arguments"""
    shutil.copytree(provisioned / "site-1", tmp_path / "site-1")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "wardround").write_text('#!/usr/bin/env bash\necho "$@"\n')
    (tmp_path / "bin" / "wardround").chmod(0o755)

    def run(*words, kit="site-1", real=True):
        environment = {**os.environ, "WARDROUND_KIT": str(tmp_path / kit), "WARDROUND_WORKSPACE": str(tmp_path / "ws")}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "custom")
        environment["PATH"] = (
            f"{Path(sys.executable).parent if real else tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        )
        words = ["bash", str(FOLDER / "entrypoint.sh"), *words]
        return subprocess.run(words, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run


def test_check_lays_out_the_workspace_and_runs_preflight(party, tmp_path):
    done = party("check", "--only", "kit,certificates")
    assert done.returncode == 0, done.stderr
    assert "PASS  kit           site-1, a site, as the project signed it" in done.stdout
    for folder in ("startup", "local"):
        links = {path.name: path.resolve() for path in (tmp_path / "ws" / folder).iterdir()}
        assert links == {path.name: path for path in (tmp_path / "site-1" / folder).iterdir()}


def test_the_ledger_stays_and_settings_follow_the_kit(party, tmp_path):
    """What the hospital takes out of its kit is gone at the next start; what jobs wrote beside it is not."""
    party("check", real=False)
    local, own = tmp_path / "ws" / "local", tmp_path / "site-1" / "local"
    (local / ledger_file.FILE).write_text("kept")
    (own / "privacy.json").write_text("{}")
    party("check", real=False)
    assert (local / "privacy.json").is_symlink()
    (own / "privacy.json").unlink()
    party("check", real=False)
    assert not (local / "privacy.json").is_symlink()
    assert (local / ledger_file.FILE).read_text() == "kept"
    (own / ledger_file.FILE).write_text("an old one")
    refused = party("start")
    assert (refused.returncode, "belongs onto the ledger's volume" in refused.stderr) == (2, True)


def test_other_words_are_commands_and_no_kit_is_refused(party):
    done = party("wardround", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"wardround {__version__}")
    refused = party("start", kit="nothing")
    assert (refused.returncode, "no startup kit" in refused.stderr) == (2, True)


def test_check_and_health_are_preflight(party, tmp_path):
    """With a real server behind it: tests/e2e/test_hardened.py."""
    workspace = tmp_path / "ws"
    assert party("check", "--job", "brats_ditto", real=False).stdout == f"preflight {workspace} --job brats_ditto\n"
    assert party("health", real=False).stdout == f"preflight {workspace} --only server --started\n"


def test_start_runs_the_kits_own_script_in_the_foreground(party, tmp_path):
    script = tmp_path / "site-1" / "startup" / "sub_start.sh"
    assert "--once)" in script.read_text(), "NVFlare's word for: no restarts, stay in the foreground"
    script.write_text('#!/usr/bin/env bash\necho "$0 $@"\n')
    assert party("start").stdout == f"{tmp_path}/ws/startup/sub_start.sh --once\n"
