import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from wardround.cli import cmd_run
from wardround.cli.main import main, parser
from wardround.core.errors import ConfigRefused
from wardround.flare import quiet
from wardround.jobs import simulation
from wardround.reports.page import write_report


def plan(*words: str, **environ: str) -> cmd_run.Plan:
    return cmd_run.plan(parser().parse_args(["jobs", "run", "brats_perfedavg", *words]), environ)


def test_the_default_plan_runs_all_sites_of_the_job_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan(PATH="/bin")
    assert found.sites == ("site-1", "site-2", "site-3", "site-4")
    assert found.threads == 4
    assert found.workspace == tmp_path / "wardround_runs" / "brats_perfedavg"
    assert found.environment == {"PATH": "/bin"}


def test_data_and_state_reach_the_simulator_by_its_environment(hospitals: Path, tmp_path: Path) -> None:
    file = hospitals / "sites.json"
    found = plan("--sites-file", str(file), "--state", str(tmp_path / "s"), "-w", str(tmp_path / "w"), "-t", "1")
    assert found.sites == ("site-1", "site-2")
    assert found.threads == 1
    assert found.environment == {"WARDROUND_SITES": str(file), "WARDROUND_STATE": str(tmp_path / "s")}
    assert plan("-w", str(tmp_path / "w"), WARDROUND_SITES=str(file)).sites == ("site-1", "site-2")


def test_sites_can_be_named_or_counted(tmp_path: Path) -> None:
    workspace = ("-w", str(tmp_path / "w"))
    assert plan("-c", "a,b,c", *workspace).sites == ("a", "b", "c")
    assert plan("-n", "2", *workspace).sites == ("site-1", "site-2")


def test_plans_that_cannot_work_are_refused(hospitals: Path, tmp_path: Path) -> None:
    workspace = ("-w", str(tmp_path / "w"))
    with pytest.raises(ConfigRefused, match="no entry for site-3"):
        plan("--sites-file", str(hospitals / "sites.json"), "-n", "3", *workspace)
    with pytest.raises(ConfigRefused, match="min_clients"):
        plan("-n", "1", *workspace)
    assert plan("-n", "1", "--set", "federation.min_clients=1", *workspace).sites == ("site-1",)
    with pytest.raises(ConfigRefused, match="--state"):
        plan("--state", str(tmp_path / "w" / "state"), *workspace)
    (tmp_path / "w" / "server" / "simulate_job").mkdir(parents=True)
    inside = tmp_path / "w" / "sites.json"
    inside.write_text(json.dumps({f"site-{n}": {"data": str(hospitals / f"site-{n}")} for n in (1, 2)}))
    with pytest.raises(ConfigRefused, match="--sites-file"):
        plan("--sites-file", str(inside), *workspace)


def test_only_what_a_simulator_left_may_be_deleted(tmp_path: Path) -> None:
    simulation.require_disposable(tmp_path / "new", {})
    simulation.require_disposable(tmp_path, {})
    (tmp_path / "startup").mkdir()
    (tmp_path / "local").mkdir()
    simulation.require_disposable(tmp_path, {})
    (tmp_path / "startup" / "client.key").write_text("a real hospital's")
    with pytest.raises(ConfigRefused, match="deletes everything"):
        simulation.require_disposable(tmp_path, {})
    (tmp_path / "server" / "simulate_job").mkdir(parents=True)
    simulation.require_disposable(tmp_path, {})
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigRefused, match="a file"):
        simulation.require_disposable(file, {})


def test_the_command_is_nvflares_simulator_in_this_python(tmp_path: Path) -> None:
    words = simulation.simulator_command(tmp_path / "job", tmp_path / "w", ("a", "b"), 2, "full")
    assert words[:4] == [sys.executable, "-m", "nvflare.cli", "simulator"]
    assert words[4:] == [str(tmp_path / "job"), "-w", str(tmp_path / "w"), "-c", "a,b", "-t", "2", "-l", "full"]
    with pytest.raises(ConfigRefused, match="1 to 2"):
        simulation.simulator_command(tmp_path, tmp_path, ("a", "b"), 3, "full")


def test_our_lines_and_all_warnings_are_shown() -> None:
    config = json.loads(quiet.log_config())
    settings = dict(config["filters"]["OursFilter"])
    module, _, name = settings.pop("()").rpartition(".")
    shown = getattr(sys.modules[module], name)(**settings)

    def passes(logger: str, level: int) -> bool:
        return bool(shown.filter(logging.LogRecord(logger, level, "", 0, "x", None, None)))

    assert config["handlers"]["consoleHandler"]["filters"] == ["OursFilter"]
    assert passes("wardround.aggregation.plaintext_run", logging.INFO)
    assert passes("nvflare.private.anything", logging.WARNING)
    assert not passes("nvflare.private.anything", logging.INFO)
    assert simulation.matters("12:00:00 INFO round 1/4")
    assert not simulation.matters("WARNING: 'nvflare simulator' is deprecated. Use ...")
    assert not simulation.matters("  ")


def test_lines_are_shown_as_they_come_and_the_exit_code_is_told() -> None:
    shown: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)"
    assert simulation.stream([sys.executable, "-c", code], {}, shown.append) == 7
    assert sorted(shown) == ["one", "two"]


def test_an_interrupted_run_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "PATIENCE_S", 0.1)
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    sleep = "import time; time.sleep(60)"
    child = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    code = f"import os, subprocess, sys; p = subprocess.Popen({child}, start_new_session=True); "
    code += f"print(os.getpid(), p.pid, flush=True); {sleep}"
    with pytest.raises(KeyboardInterrupt):
        simulation.stream([sys.executable, "-c", code], {}, interrupt)
    assert len(pids) == 2
    running = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in running)


@pytest.mark.parametrize(("problems", "simulators_code", "code"), [([], 1, 0), (["site-2 was lost"], 0, 1)])
def test_the_report_decides_and_not_the_exit_code(
    problems: list[str],
    simulators_code: int,
    code: int,
    run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs: list[str] = []

    def simulate(words: Sequence[str], environment: Mapping[str, str], show: Callable[[str], None]) -> int:
        jobs.extend(sorted(path.name for path in Path(words[4]).iterdir()))
        show("12:00:00 INFO round 1/1 done")
        show("WARNING: 'nvflare simulator' is deprecated.")
        write_report(run | {"problems": problems}, tmp_path / "w" / "server" / "simulate_job" / "wardround")
        return simulators_code

    monkeypatch.setattr(simulation, "stream", simulate)
    assert main(["jobs", "run", "brats_perfedavg", "-n", "2", "-w", str(tmp_path / "w")]) == code
    assert jobs == ["CARD.md", "app", "meta.json"]
    out, err = capsys.readouterr()
    assert "north (site-1): Deploy the personalised model" in out
    assert "round 1/1 done" in err
    assert "deprecated" not in err


@pytest.mark.parametrize("record", [True, False])
def test_the_reason_of_a_failure_is_the_last_thing_on_the_screen_once(
    record: bool,
    run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    why = ConfigRefused("weights: w.pt", found="cannot be read", expected="the file", fix="copy it there")

    def simulate(words: Sequence[str], environment: Mapping[str, str], show: Callable[[str], None]) -> int:
        for line in f"12:00:00 ERROR the run cannot start: {why}\n12:00:00 INFO the end".splitlines():
            show(line)
        if record:
            write_report(run | {"problems": ["aborted"]}, tmp_path / "w" / "server" / "simulate_job" / "wardround")
        return 2

    monkeypatch.setattr(simulation, "stream", simulate)
    assert main(["jobs", "run", "brats_perfedavg", "-n", "2", "-w", str(tmp_path / "w")]) == (1 if record else 2)
    out, err = capfd.readouterr()
    assert err.endswith(f"wardround: the run cannot start: {why}\n")
    assert (out + err).count("copy it there") == 1


def test_an_old_report_is_not_taken_for_a_crashed_runs(
    run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(run, tmp_path / "server" / "simulate_job" / "wardround")
    monkeypatch.setattr(simulation, "stream", lambda words, environment, show: 0)
    assert main(["jobs", "run", "brats_perfedavg", "-w", str(tmp_path)]) == 2
    assert "crashed" in capsys.readouterr().err


def test_settings_that_cannot_work_start_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "stream", lambda *_: pytest.fail("started"))
    assert main(["jobs", "run", "brats_perfedavg", "--set", "algorithm.alpha=-1", "-w", str(tmp_path / "w")]) == 2
    assert main(["jobs", "run", "brats_dance", "-w", str(tmp_path / "w")]) == 2
    assert main(["jobs", "run", "brats_perfedavg", "-t", "9", "-w", str(tmp_path / "w")]) == 2
    assert "1 to 4" in capsys.readouterr().err


def test_a_second_run_in_one_workspace_is_refused_before_it_deletes_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wardround.jobs.one_run import alone

    workspace = tmp_path / "ws"
    record = workspace / "server" / "simulate_job" / "wardround" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    with alone(workspace):
        assert main(["jobs", "run", "brats_fedavg", "-w", str(workspace)]) == 2
    said = capsys.readouterr().err
    assert "another run that works in it" in said
    assert "-w " in said
    assert record.read_text() == "{}"
    with alone(workspace):
        pass


@pytest.mark.parametrize("name", ["my runs", "tab\there", "it's", "a#b", "back\\slash"])
def test_a_path_that_nvflare_would_cut_in_pieces_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the folder that is named and by the current one; an umlaut does no harm."""
    monkeypatch.setattr(simulation, "stream", lambda *_: pytest.fail("started"))
    assert main(["jobs", "run", "brats_perfedavg", "-w", str(tmp_path / name)]) == 2
    assert "-w /tmp/wardround_runs/brats_perfedavg" in capsys.readouterr().err
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert main(["jobs", "run", "brats_perfedavg"]) == 2
    assert "blanks, quotes" in capsys.readouterr().err
    assert list((tmp_path / name).iterdir()) == []
    assert plan("-w", str(tmp_path / "Übung")).workspace == tmp_path / "Übung"


def test_a_workspace_that_cannot_be_made_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "stream", lambda *_: pytest.fail("started"))
    (tmp_path / "file").touch()
    assert main(["jobs", "run", "brats_perfedavg", "-w", "/proc/runs"]) == 2
    assert "a folder in which this user may write" in capsys.readouterr().err
    assert main(["jobs", "run", "brats_perfedavg", "-w", str(tmp_path / "w"), "--state", str(tmp_path / "file/s")]) == 2
    assert "--state" in capsys.readouterr().err


def test_too_few_sites_are_refused_in_words_that_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for words in (["-n", "1"], ["-n", "2", "--set", "federation.min_clients=9"], ["-c", "a"]):
        assert main(["jobs", "run", "brats_perfedavg", *words, "-w", str(tmp_path / "w")]) == 2
        said.append(capsys.readouterr().err)
    assert "1 site, the job needs 2" in said[0]
    assert "-n 2, or --set federation.min_clients=1" in said[0]
    assert "-n 9, or --set federation.min_clients=2" in said[1]
    assert "name 2 sites with -c" in said[2]
    assert main(["jobs", "run", "brats_fedavg_secagg", "-n", "2", "-w", str(tmp_path / "w")]) == 2
    assert "min_clients=2" not in capsys.readouterr().err, "a sum of two under masks hides nothing"


def test_a_folder_that_was_written_and_edited_runs_as_it_is(
    run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without its list of requirements, without which NVFlare asks for an allow-list that a simulator lacks."""
    seen: list[str] = []

    def simulate(words: Sequence[str], environment: Mapping[str, str], show: Callable[[str], None]) -> int:
        job = Path(words[4])
        seen.extend([job.name, words[words.index("-c") + 1], (job / "app/config/config_fed_client.json").read_text()])
        assert (job / "app" / "custom" / "requirements.txt").is_file()
        write_report(run, tmp_path / "w" / "server" / "simulate_job" / "wardround")
        return 0

    monkeypatch.setattr(simulation, "stream", simulate)
    monkeypatch.chdir(tmp_path)
    assert main(["package", "brats_ditto", "--config-only", "--out", "mine", "--sites", "a,b"]) == 0
    file = tmp_path / "mine" / "brats_ditto" / "app" / "config" / "config_fed_client.json"
    content = json.loads(file.read_text())
    content["executors"][0]["executor"]["args"]["schedule"]["args"]["work"] = 3
    file.write_text(json.dumps(content))
    assert main(["jobs", "run", "mine/brats_ditto", "-w", "w"]) == 0
    assert seen == ["brats_ditto", "a,b", file.read_text()]
    assert main(["jobs", "run", "mine/brats_ditto", "-w", "w", "--set", "num_rounds=2"]) == 2
    assert main(["jobs", "run", "mine/brats_ditto", "-w", "w", "-n", "1"]) == 2


def test_a_folder_that_names_another_class_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "stream", lambda *_: pytest.fail("started"))
    monkeypatch.chdir(tmp_path)
    main(["jobs", "write", "brats_ditto", "--out", "mine"])
    file = tmp_path / "mine" / "brats_ditto" / "app" / "config" / "config_fed_client.json"
    content = json.loads(file.read_text())
    content["components"].append({"id": "x", "path": "subprocess.Popen", "args": {"args": ["touch", "pwned"]}})
    file.write_text(json.dumps(content))
    assert main(["jobs", "run", "mine/brats_ditto", "-w", "w"]) == 2
    assert "subprocess.Popen" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()


def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "wardround", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("wardround ")


def test_a_name_for_reports_is_not_the_name_of_a_site(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"site-1": "DU", "site-2": "HT"}
    entries = {site: {"data": str(hospitals / site), "name": name} for site, name in names.items()}
    (tmp_path / "sites.json").write_text(json.dumps(entries))
    words = ["--sites-file", str(tmp_path / "sites.json"), "-w", str(tmp_path / "w")]
    assert main(["jobs", "run", "brats_perfedavg", *words, "-c", "DU,HT"]) == 2
    err = capsys.readouterr().err
    assert "site-1 (DU), site-2 (HT)" in err
    assert "-c site-1,site-2" in err


@pytest.mark.parametrize("content", ['{"site-1": ', "[1]", "{}", "\xff"])
def test_a_sites_file_that_is_none_is_answered_with_the_form_of_one(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sites.json"
    file.write_bytes(content.encode("latin-1"))
    assert main(["jobs", "run", "brats_fedavg", "--sites-file", str(file), "-w", str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert f"the sites' file {file}" in said
    assert '{"site-1": {"data": "/data/a"}, "site-2": {"data": "/data/b"}}' in said


def test_a_plan_for_a_folder_that_is_not_there_is_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--unit",
        "patient",
        "--delta",
        "1e-5",
        "--noise-multiplier",
        "1",
        "--sample-rate",
        "0.05",
        "--steps",
        "9",
    ]
    assert main(["ledger", "simulate", str(tmp_path / "nowhere"), *words]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["ledger", "simulate", str(tmp_path), *words]) == 0
