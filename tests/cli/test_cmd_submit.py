"""`wardround jobs submit` against a server that is played by a script: what is sent, what is said, the exit codes.

The real server: tests/e2e/test_poc.py.
"""

import json
import shutil
from pathlib import Path

import pytest

from wardround.cli.main import main

# Takes the place of NVFlare's own command line in a child process; plays what answers.json says and notes every call.
PLAYED = """
import json, os, shutil, sys
from pathlib import Path
home = Path(os.environ["PLAYED"])
words = [word for word in sys.argv[1:] if word not in ("--format", "json", "jsonl")]
with (home / "calls.txt").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
answers = json.loads((home / "answers.json").read_text())
if words[:2] == ["job", "submit"]:
    shutil.copytree(words[3], home / "sent" / Path(words[3]).name, dirs_exist_ok=True)
if words[:2] == ["job", "monitor"]:
    for event in answers["monitor"]:
        print(json.dumps(event), flush=True)
    sys.exit(answers["code"])
data = answers.get(" ".join(words[:2]), {})
if "error_code" in data:
    print(json.dumps({"status": "error", **data}))
    sys.exit(4)
if words[:2] == ["job", "download"]:
    place = Path(words[words.index("-o") + 1]) / "id-1__1"
    shutil.copytree(home / "result", place)
    data = {"path": str(place)}
print(json.dumps({"status": "ok", "data": data}))
"""


class Played:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers = {
            "system status": {"clients": [{"client_name": name} for name in ("north", "south", "west")]},
            "job submit": {"job_id": "id-1"},
            "job meta": {"status": "FINISHED:COMPLETED", "job_deploy_detail": ["server: OK"]},
            "monitor": [],
            "code": 0,
        }
        (root / "result").mkdir()

    def submit(self, *words: str) -> int:
        (self.root / "answers.json").write_text(json.dumps(self.answers))
        return main(["jobs", "submit", *words])

    @property
    def calls(self) -> str:
        file = self.root / "calls.txt"
        return file.read_text() if file.is_file() else ""

    def sent(self, name: str) -> list[str]:
        folder = self.root / "sent" / name
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def meta(self, name: str) -> dict:
        return json.loads((self.root / "sent" / name / "meta.json").read_text())


@pytest.fixture
def server(tmp_path, monkeypatch, run):
    package = tmp_path / "path" / "nvflare"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(PLAYED)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("PLAYED", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = Played(tmp_path)
    place = tmp_path / "result" / "workspace" / "wardround"
    place.mkdir(parents=True)
    (place / "run.json").write_text(json.dumps(run))
    return made


def test_a_job_goes_without_code_to_the_sites_that_are_named(server, capsys):
    assert server.submit("brats_perfedavg", "--sites", "north,south") == 0
    config = ["app/config/config_fed_client.json", "app/config/config_fed_server.json"]
    assert server.sent("brats_perfedavg") == ["CARD.md", *config, "meta.json"]
    assert server.meta("brats_perfedavg")["deploy_map"] == {"app": ["server", "north", "south"]}
    said = capsys.readouterr()
    assert "north (site-1): Deploy the personalised model" in said.out
    assert "id-1__1" in said.out, "NVFlare numbers a second download of the same job: that folder is read"


def test_a_job_goes_to_whoever_is_connected_or_with_all_of_the_code(server):
    assert server.submit("brats_perfedavg", "--all-sites", "--with-code") == 0
    assert server.meta("brats_perfedavg")["deploy_map"] == {"app": ["@ALL"]}
    assert "app/custom/wardround/core/errors.py" in server.sent("brats_perfedavg")


def test_a_printed_folder_goes_without_its_list_of_requirements(server):
    assert main(["jobs", "write", "brats_ditto", "--out", "mine", "--sites", "north,west"]) == 0
    assert Path("mine/brats_ditto/app/custom").is_dir()
    assert server.submit("mine/brats_ditto") == 0
    assert not [name for name in server.sent("brats_ditto") if "custom" in name]
    assert server.submit("mine/brats_ditto", "--sites", "north,south") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("brats_perfedavg",), "not connected: site-1, site-2, site-3, site-4"),
        (("brats_perfedavg", "--sites", "north,east"), "not connected: east"),
        (("brats_perfedavg", "--all-sites", "--set", "federation.min_clients=4"), "connected: north, south, west"),
        (("brats_perfedavg", "--sites", "north"), "1 site for a job that needs 2"),
    ],
)
def test_sites_that_cannot_take_part_are_named_before_anything_is_submitted(server, capsys, words, said):
    assert server.submit(*words) == 2
    assert "job submit" not in server.calls
    err = capsys.readouterr().err
    assert said in err
    assert "min_clients=4" in " ".join(words) or "`--sites north,south,west`" in err or "1 site" in err


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        ("FINISHED:FAILED_TO_RUN", ["server: BYOC not permitted"]),
        ("FINISHED:ABNORMAL", ["server: OK", "north: OK", "south: job deploy rejected: scope 'x' is unknown"]),
        ("FINISHED:CAN_NOT_SCHEDULE", []),
    ],
)
def test_a_job_that_was_not_taken_ends_with_nvflares_own_reason(server, capsys, status, detail):
    server.answers |= {"code": 1, "job meta": {"status": status, "job_deploy_detail": detail}}
    shutil.rmtree(server.root / "result" / "workspace")
    assert server.submit("brats_perfedavg", "--all-sites") == 2
    err = capsys.readouterr().err
    assert status in err
    assert all(line in err for line in detail if not line.endswith(": OK"))
    assert "name the folder that `-w`" not in err


def test_rounds_are_shown_while_the_job_runs(server, capsys):
    line = "round 2/6: 3 of 4 sites, mean score 0.41, about 3 min left"
    running = {"status": "RUNNING", "metrics": {"round": 2, "progress": line}}
    server.answers["monitor"] = [{"status": "SUBMITTED"}, running, running, {"status": "COMPLETED", "terminal": True}]
    assert server.submit("brats_perfedavg", "--all-sites") == 0
    err = capsys.readouterr().err
    assert err.count(line) == 1
    assert "submitted" in err


def test_a_job_that_takes_longer_goes_on_and_the_reader_is_told_how_to_come_back(server, capsys):
    server.answers["code"] = 3
    assert server.submit("brats_perfedavg", "--all-sites", "--timeout", "1") == 1
    assert "job download" not in server.calls
    assert "wardround report wardround_downloads" in capsys.readouterr().err


def test_without_a_kit_the_advice_is_our_own(server, capsys):
    hint = "Run nvflare poc prepare, pass --kit-id <id> or set NVFLARE_STARTUP_KIT_DIR."
    server.answers["system status"] = {"error_code": "STARTUP_KIT_MISSING", "message": "not found", "hint": hint}
    assert server.submit("brats_perfedavg") == 2
    err = capsys.readouterr().err
    assert "--startup-kit KIT" in err
    assert "wardround poc up" in err
    assert "--kit-id" not in err


def test_results_that_could_not_be_written_are_not_trained_for(server, capsys):
    (server.root / "file").touch()
    assert server.submit("brats_perfedavg", "--all-sites", "--out", "file/x") == 2
    assert server.calls == ""
    assert "--out" in capsys.readouterr().err


def test_a_folder_with_a_workflow_of_its_own_has_no_report_of_ours_and_is_no_failure(server, capsys):
    from wardround.cli.main import main

    assert main(["jobs", "write", "brats_perfedavg", "--out", "mine", "--all-sites"]) == 0
    folder = Path("mine/brats_perfedavg")
    config = folder / "app/config/config_fed_server.json"
    content = json.loads(config.read_text())
    content["workflows"][0]["path"] = "ours.Controller"
    config.write_text(json.dumps(content))
    (folder / "app/custom/ours.py").write_text("class Controller: ...\n")
    shutil.rmtree(server.root / "result" / "workspace")
    assert server.submit(str(folder)) == 0
    assert "no report of wardround" in capsys.readouterr().err
    server.answers["code"] = 1
    assert server.submit(str(folder), "--out", "second") == 2


def test_a_party_without_our_classes_on_its_list_is_told_what_to_do(server, capsys):
    """Only the log that comes with the result says it, and what a site's process says stays at the site."""
    server.answers |= {"code": 1, "job meta": {"status": "FINISHED:ABNORMAL", "job_deploy_detail": ["server: OK"]}}
    shutil.rmtree(server.root / "result" / "workspace" / "wardround")
    line = "2026-11-30 12:00:00 - x - ERROR - Component 'wardround.x' at config path 'y' is not in allow_list"
    (server.root / "result" / "workspace" / "error_log.txt").write_text(line)
    assert server.submit("brats_perfedavg", "--all-sites") == 2
    err = capsys.readouterr().err
    assert "is not in allow_list" in err
    assert "wardround sites harden" in err
