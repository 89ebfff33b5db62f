"""What a POC is made of: the project file, the kits, what each hospital is given. Real processes: tests/e2e/test_poc.py."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wardround.cli import main
from wardround.cli.cmd_poc import Clock
from wardround.core.errors import ConfigRefused
from wardround.ops import poc
from wardround.ops.console import answer_of

SITES = ["site-1", "site-2"]


@pytest.fixture
def kits(tmp_path):
    folder = tmp_path / "poc" / "wardround" / "prod_00"
    for party in ("localhost", *SITES):
        (folder / party / "local").mkdir(parents=True)
    return folder


def test_the_projects_parties(repository):
    found = poc.parties(repository / "poc_workspace" / "project.yml")
    assert found["server"] == ["localhost"]
    assert found["client"] == [f"site-{n}" for n in (1, 2, 3, 4)]
    assert len(found["admin"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "participants: [",
        "name: x",
        yaml.safe_dump({"participants": [{"name": "a"}]}),
        yaml.safe_dump({"participants": [{"name": "a", "type": "client"}]}),
    ],
)
def test_another_file_is_no_project(content, tmp_path):
    file = tmp_path / "project.yml"
    file.write_text(content)
    with pytest.raises(ConfigRefused, match="project file"):
        poc.parties(file)


def test_kits_are_found_and_must_be_one_project(kits, tmp_path):
    assert poc.kits(tmp_path / "poc") == kits
    (tmp_path / "poc" / "another" / "prod_00").mkdir(parents=True)
    for place in (tmp_path / "poc", tmp_path):
        with pytest.raises(ConfigRefused, match="prepared projects"):
            poc.kits(place)


def test_every_hospital_gets_its_file_and_its_own_policies(kits, tmp_path):
    own = tmp_path / "mine" / "site-2"
    own.mkdir(parents=True)
    (own / "privacy.json").write_text("{}")
    poc.equip(kits, SITES, {site: {"data": f"/d/{site}"} for site in SITES}, tmp_path / "mine")
    assert [json.loads((kits / site / "local/wardround.json").read_text())["data"] for site in SITES] == [
        "/d/site-1",
        "/d/site-2",
    ]
    assert (kits / "site-2/local/privacy.json").is_file()
    assert not (kits / "site-1/local/privacy.json").exists()


def test_a_hospital_without_data_and_files_for_nobody_are_refused(kits, tmp_path):
    with pytest.raises(ConfigRefused, match="no data for site-2"):
        poc.equip(kits, SITES, {"site-1": {"data": "/d"}}, None)
    (tmp_path / "mine" / "site-9").mkdir(parents=True)
    with pytest.raises(ConfigRefused, match="files for site-9"):
        poc.equip(kits, SITES, {site: {"data": "/d"} for site in SITES}, tmp_path / "mine")
    assert not (kits / "site-1/local/wardround.json").exists()


def test_paths_of_a_sites_file_become_absolute(tmp_path):
    file = poc.phantoms(tmp_path / "out", SITES, 3, (24, 24, 24), lambda _: None)
    entries = {site: {"data": site} for site in SITES}
    file.write_text(json.dumps(entries))
    found = poc.site_files(file)
    assert {site: entry["data"] for site, entry in found.items()} == {
        site: str(tmp_path / "out" / site) for site in SITES
    }


def test_all_paths_of_a_sites_file_reach_the_kits_absolute(tmp_path, monkeypatch):
    """data, cache and record; `~` is the home folder; what a hospital reads lies in another folder than the file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place in ("R/data", "home/R/data"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("R/r.csv", "home/r.csv"):
        (tmp_path / place).touch()
    here = {"data": "R/data", "record": "R/r.csv", "cache": "C", "name": "R/data", "units": {"crp": "mg/dl"}}
    home = {"data": "~/R/data", "record": "~/r.csv", "cache": "~/C"}
    (tmp_path / "sites.json").write_text(json.dumps({"site-1": here, "site-2": home}))
    found = poc.site_files(tmp_path / "sites.json")
    whole = {"data": f"{tmp_path}/R/data", "record": f"{tmp_path}/R/r.csv", "cache": f"{tmp_path}/C"}
    assert found["site-1"] == here | whole
    whole = {"data": f"{tmp_path}/home/R/data", "record": f"{tmp_path}/home/r.csv", "cache": f"{tmp_path}/home/C"}
    assert found["site-2"] == whole


@pytest.fixture
def project(tmp_path, repository):
    """A project file whose two ports are free, and the ports."""
    content = yaml.safe_load((repository / "poc_workspace" / "project.yml").read_text())
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], two.getsockname()[1]
    content["participants"][0] |= dict(zip(("fed_learn_port", "admin_port"), ports, strict=True))
    (tmp_path / "project.yml").write_text(yaml.safe_dump(content))
    return tmp_path / "project.yml", ports


def test_ports_in_use_are_named_with_who_holds_them_before_anything_is_made(project, tmp_path, monkeypatch, capsys):
    file, ports = project
    monkeypatch.chdir(tmp_path)
    listen = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print(1, flush=1)"
    listen += "; time.sleep(60)"
    for number, port in enumerate(ports, 1):
        holder = subprocess.Popen([sys.executable, "-c", listen, str(port)], stdout=subprocess.PIPE)
        try:
            holder.stdout.readline()
            assert main.main(["poc", "up", "--project", str(file), "--workspace", f"p{number}"]) == 2
            err = capsys.readouterr().err
            assert f"port {port} is in use by" in err
            assert f"process {holder.pid}" in err
            assert str(ports[2 - number]) not in err
            assert not (tmp_path / f"p{number}").exists()
        finally:
            holder.kill()
            holder.communicate()


def test_a_poc_needs_no_clone_of_the_repository(tmp_path, monkeypatch, capsys):
    """The project file is the package's own: only NVFlare, which is not started here, is missed."""
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(poc, "require_free_ports", lambda project: None)
    monkeypatch.setattr("wardround.ops.console.Console.ask", lambda self, *words, **_: started.append(words) or {})
    assert main.main(["poc", "up"]) == 2
    assert started[0][:3] == ("poc", "prepare", "-i")
    assert len(poc.parties(Path(started[0][3]))["client"]) == 4
    assert "nvflare poc prepare ..." in capsys.readouterr().err


@pytest.fixture
def stopped(kits, tmp_path, project, monkeypatch):
    """A POC that was stopped, with a result in it; NVFlare's command line is not there, what is asked of it is noted."""
    shutil.copy(project[0], tmp_path / "poc" / "project.yml")
    (kits / "localhost" / "result").write_text("kept")
    asked = []

    def ask(self, *words, **_):
        asked.append(words[:2])
        return {"clients": [{"client_name": f"site-{n}"} for n in (1, 2, 3, 4)]}

    monkeypatch.setattr("wardround.ops.console.Console.ask", ask)
    monkeypatch.chdir(tmp_path)
    return asked


def test_up_starts_a_stopped_poc_again_and_deletes_nothing(stopped, kits, capsys):
    assert main.main(["poc", "up", "--workspace", "poc"]) == 0
    assert stopped == [("poc", "start"), ("system", "status")]
    assert (kits / "localhost" / "result").read_text() == "kept"
    assert "started again as it is" in capsys.readouterr().err
    for option in (["--patients", "4"], ["--project", "project.yml"], ["--shape", "9", "9", "9"]):
        assert main.main(["poc", "up", "--workspace", "poc", *option]) == 2
        assert option[0] in capsys.readouterr().err
    assert len(stopped) == 2


def test_a_running_poc_is_left_alone(stopped, kits, capsys):
    words = [sys.executable, "-c", "import time; time.sleep(60)", "nvflare.private.x", "-m", str(kits / "site-1")]
    party = subprocess.Popen(words)
    try:
        assert main.main(["poc", "up", "--workspace", "poc"]) == 0
        assert stopped == [("system", "status")]
        assert main.main(["poc", "run", "brats_fedavg", "--workspace", "poc"]) == 2
        assert "it is running" in capsys.readouterr().err
        assert party.poll() is None
    finally:
        party.kill()
        party.wait()
    assert main.main(["poc", "down", "--workspace", "poc"]) == 0
    assert "is not running" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["my poc", "it's", "a#b", "/proc/poc"])
def test_a_place_where_no_poc_can_live_is_refused_at_once(place, project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["poc", "up", "--project", str(project[0]), "--workspace", place]) == 2
    err = capsys.readouterr().err
    assert "--workspace" in err
    assert "bug" not in err
    assert not (tmp_path / place).exists()


def test_down_ends_a_poc_that_nvflare_cannot_stop(stopped, kits, monkeypatch, capsys):
    """As NVFlare does that lists a job as running since before the last stop."""
    words = [sys.executable, "-c", "import time; time.sleep(60)", "nvflare.private.x", "-m", str(kits / "site-1")]
    party = subprocess.Popen(words)

    def ask(self, *words, **_):
        raise ConfigRefused(
            "`nvflare poc stop`", found="Job 1 is not running", expected="ok", fix="This is likely a bug."
        )

    monkeypatch.setattr("wardround.ops.console.Console.ask", ask)
    try:
        assert main.main(["poc", "down", "--workspace", "poc"]) == 0
        assert party.wait(10) == -signal.SIGTERM
        said = capsys.readouterr().err
        assert "Job 1 is not running" in said
        assert "stopped" in said
        assert "likely a bug" not in said
    finally:
        party.kill()
        party.wait()


def test_the_server_keeps_its_jobs_in_this_poc(kits, tmp_path):
    text = json.dumps({"a": {"root_dir": f"{poc.STORE}/jobs-storage"}})
    for party in ("localhost", *SITES):
        (kits / party / "local/resources.json.default").write_text(text)
    poc.list_classes(kits, "localhost", SITES, tmp_path / "store")
    kept = {party: json.loads((kits / party / "local/resources.json").read_text()) for party in ("localhost", *SITES)}
    assert kept["localhost"]["a"]["root_dir"] == str(tmp_path / "store" / "jobs-storage")
    assert "wardround.flare.controller.ServerController" in kept["localhost"]["class_allow_list"]
    assert all("wardround.flare.executor.SiteExecutor" in kept[site]["class_allow_list"] for site in SITES)


def test_only_a_partys_own_processes_are_ended(kits, tmp_path):
    """Real processes: one as NVFlare starts it, and people's, which only name files of the workspace."""
    workspace = tmp_path / "poc"
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    party = subprocess.Popen([*words, "nvflare.private.fed.app.client.client_train", "-m", str(kits / "site-1")])
    others = [
        subprocess.Popen([*words, str(kits / "site-1" / "log.txt")]),
        subprocess.Popen([*words, "--workspace", f"{workspace}/"]),
        subprocess.Popen([*words, "nvflare.private.fed.app.client.client_train", "-m", f"{workspace}2/site-1"]),
        subprocess.Popen([*words, f"less {kits}/site-1/startup/start.sh"]),
    ]
    try:
        assert poc.end_processes(workspace, 0) == 1
        assert party.poll() is not None
        assert [one.poll() for one in others] == [None] * len(others)
    finally:
        for one in (party, *others):
            one.kill()
            one.wait()


@pytest.mark.parametrize("script", ["start.sh", "sub_start.sh"])
def test_a_start_script_of_a_kit_belongs_to_it(kits, tmp_path, script):
    place = f"{kits}/site-1/startup/{script}"
    assert poc.belongs_to(tmp_path / "poc", ["bash", place])
    assert not poc.belongs_to(tmp_path / "poc", ["vim", "-n", "-R", place])
    assert not poc.belongs_to(tmp_path / "elsewhere", ["bash", place])


def test_force_deletes_an_earlier_poc_and_nothing_else(kits, tmp_path, monkeypatch, capsys, repository):
    workspace = tmp_path / "poc"
    for name in ("data", "phantoms", "store"):
        (workspace / name).mkdir()
    (workspace / "project.yml").touch()
    poc.require_replaceable(workspace, [tmp_path / "sites.json", repository])
    for mine in (workspace / "phantoms" / "sites.json", workspace):
        with pytest.raises(ConfigRefused, match="would delete"):
            poc.require_replaceable(workspace, [mine])
    for strange in ("thesis.tex", "data/case"):
        (workspace / strange).touch()
        with pytest.raises(ConfigRefused, match=strange):
            poc.require_replaceable(workspace, [])
        (workspace / strange).unlink()
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters").touch()
    monkeypatch.setenv("HOME", str(home))
    project = str(repository / "poc_workspace" / "project.yml")
    assert main.main(["poc", "up", "--force", "--workspace", str(home), "--project", project]) == 2
    assert "prepared projects" in capsys.readouterr().err
    assert (home / "letters").exists()


def test_answers_are_json_or_nothing():
    assert answer_of('warning\n{"status": "ok", "data": {}}') == {"status": "ok", "data": {}}
    assert answer_of("no json") == answer_of("{broken") == {}


def test_the_clock_adds_up():
    clock = Clock([("a", 1.25), ("b", 2.5)])
    with clock.step("c"):
        pass
    assert "3.8" in clock.text().splitlines()[-1]
    assert [name for name, _ in clock.steps] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["poc", "down", "--workspace", "nowhere"], "no such folder"),
        (["poc", "up", "--project", "PROJECT", "--workspace", "full"], "no POC among them"),
        (["jobs", "submit", "brats_nothing"], "no such job"),
        (["jobs", "submit", "brats_fedavg", "--startup-kit", "."], "no admin's startup kit"),
    ],
)
def test_wrong_use_is_refused_with_the_reason(words, said, tmp_path, monkeypatch, capsys, repository):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    project = str(repository / "poc_workspace" / "project.yml")
    assert main.main([project if word == "PROJECT" else word for word in words]) == 2
    assert said in capsys.readouterr().err
