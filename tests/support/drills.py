"""The drills: each breaks one thing in a running federation of real processes and asserts what docs/operations.md promises."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from stage import ALL, JOB, REPOSITORY, SERVER, Consortium, Line, lines, say, tell

from wardround.core.arrays import digest
from wardround.models import checkpoint

SETTINGS = (
    "num_rounds=6",
    "fedavg_baseline=false",
    "federation.min_clients=3",
    "federation.wait_time_after_min_received=6",
    "federation.round_timeout_s=120",
)
PATIENT = ("num_rounds=2", "federation.wait_time_after_min_received=60")
MISSED = "no answer in time"


def aggregated(report: dict[str, Any]) -> list[list[str]]:
    return [entry["aggregated"] for entry in report["rounds"]]


def missed(report: dict[str, Any], site: str) -> dict[int, str]:
    """Return round (from 1) -> why a site is not in it."""
    return {entry["round"] + 1: entry["missing"][site] for entry in report["rounds"] if site in entry["missing"]}


def back_in_time(report: dict[str, Any], site: str) -> None:
    """Assert that a site missed rounds, took part again, and that nothing else happened."""
    gaps = missed(report, site)
    assert gaps, "it missed no round: the drill came too late"
    assert set(gaps.values()) <= {MISSED}, gaps
    assert aggregated(report)[-1] == ALL, "it is not in the last round"
    assert set(report["final"]) == set(ALL)
    assert (report["outcome"], report["problems"]) == ("complete", [])
    assert len(report["rounds"]) == max(entry["round"] for entry in report["rounds"]) + 1
    assert any(words.startswith(f"{site} is not in round") for words in report["remarks"])


def freeze(made: Consortium, site: str, how: signal.Signals) -> None:
    """Stop every process of a site, or let them go on."""
    for one in psutil.process_iter(["cmdline"]):
        if str(made.kits / site) in " ".join(one.info["cmdline"] or []):
            one.send_signal(how)


def model(made: Consortium, job_id: str) -> str:
    """Return the digest of the final model that a lead downloads."""
    (path,) = (p for p in (made.root / "downloads").rglob("final_model.npz") if job_id in str(p))
    return digest(checkpoint.load(path)[0])


def site_killed(made: Consortium) -> None:
    """A site's machine dies in a round and is started again: the server starts the job there anew, its state goes on."""
    job = made.job(JOB, *SETTINGS, "num_rounds=10")
    made.wait_for_log(job, "round 2/10 begins")
    made.kill("site-4")
    say("site-4 was killed in round 2 and is started again")
    made.start("site-4")
    report = made.result(job)
    tell(made, job, report)
    back_in_time(report, "site-4")
    own = (made.kits / "site-4" / job / "log.txt").read_text(errors="replace")
    found = lines(own, "starts from this site's own state after round")
    assert found, "the site did not say from where it goes on"
    say(f"site-4's log: {found[0]}")


def job_process_killed(made: Consortium) -> None:
    """Only the process of a job dies at a site, its parent lives: NVFlare ends the job; submitted again, it goes on."""
    job = made.job(JOB, *SETTINGS)
    made.wait_for_log(job, "round 3/6 begins")
    mine = [one for one in psutil.process_iter(["cmdline"]) if _is_job(one.info["cmdline"] or [], made, "site-4", job)]
    assert mine
    for one in mine:
        one.kill()
    say("the job's process at site-4 was killed in round 3")
    made.call_code("job", "wait", job, "--timeout", "240", "--interval", "1")
    say(f"NVFlare calls the job {status(made, job)}")
    if "COMPLETED" in status(made, job):
        report = made.report(job)
    else:
        job = made.job(JOB, *SETTINGS)
        report = made.result(job)
    tell(made, job, report)
    assert (report["outcome"], report["problems"]) == ("complete", [])
    assert aggregated(report)[-1] == ALL
    assert len(report["rounds"]) == 6


def _is_job(words: list[str], made: Consortium, site: str, job: str) -> bool:
    line = " ".join(words)
    return str(made.kits / site) in line and job in line


def server_killed(made: Consortium) -> None:
    """The server dies in the middle of a job: the same job, submitted again, ends with the model of a run without a break."""
    whole = made.job(JOB, *SETTINGS)
    made.result(whole)
    job = made.job(JOB, *SETTINGS)
    made.wait_for_log(job, "round 3/6 begins")
    made.kill(SERVER)
    say("the server was killed in round 3 and is started again")
    made.start(SERVER)
    made.wait_until_connected()
    say(f"NVFlare calls the old job {status(made, job)}")
    again = made.job(JOB, *SETTINGS)
    report = made.result(again)
    tell(made, again, report)
    say(f"NVFlare calls the old job {status(made, job)} then")
    assert (report["outcome"], report["problems"], report["remarks"]) == ("complete", [], [])
    assert aggregated(report) == [ALL] * 6
    assert lines(made.server_log(again), "RESUMED from round 2 of 6", "RESUMED from round 3 of 6")
    assert model(made, again) == model(made, whole)
    say("the final model is that of the run without a break, bit for bit")


def straggler(made: Consortium) -> None:
    """A site is too slow for one round: the round goes on without it once three have answered and the grace is over."""
    job = made.job(JOB, *SETTINGS, "num_rounds=8")
    made.wait_for_log(job, "round 2/8 begins")
    freeze(made, "site-3", signal.SIGSTOP)
    say("site-3 is stopped in round 2, as a machine that is much too slow")
    made.wait_for_log(job, "MISSING site-3")
    freeze(made, "site-3", signal.SIGCONT)
    report = made.result(job)
    tell(made, job, report)
    back_in_time(report, "site-3")


def network_cut(made: Consortium, line: Line) -> None:
    """The line between a site and the server is cut in a round and comes back: nobody has to do anything."""
    job = made.job(JOB, *SETTINGS, "num_rounds=12")
    made.wait_for_log(job, "round 2/12 begins")
    line.cut()
    say("the line of site-2 is cut in round 2")
    made.wait_for_log(job, "MISSING site-2")
    line.mend()
    say("the line is whole again")
    report = made.result(job)
    tell(made, job, report)
    back_in_time(report, "site-2")


def full_disk(made: Consortium) -> None:
    """A site's disk is full: it fails with a code, the others go on, and it takes part again once there is room."""
    made.kill("site-4")
    kept = made.kits / "site-4.private" / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size=2M tmpfs "{kept}" && exec "$@"'
    made.start("site-4", ["unshare", "-rm", "bash", "-c", mount, "-"])
    made.wait_until_registered("site-4")
    (process,) = (one for one in made.processes[-1:])
    inside = Path(f"/proc/{process.pid}/root{kept}")
    ballast = inside / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            say(f"site-4's disk: {os.strerror(error.errno or 0)}")
    job = made.job(JOB, *SETTINGS, "num_rounds=6")
    made.wait_for_log(job, "MISSING site-4 in round 2: refused: failure")
    ballast.unlink()
    say("there is room again")
    report = made.result(job)
    tell(made, job, report)
    reason = (made.private("site-4", job) / "refusals.txt").read_text()
    assert "No space left on device" in reason
    say(f"site-4's refusals.txt: {lines(reason, 'No space left')[-1]}")
    assert "No space" not in json.dumps(report)
    assert set(missed(report, "site-4").values()) == {"refused: failure"}
    assert aggregated(report)[-1] == ALL
    assert report["outcome"] == "complete"
    made.kill("site-4")
    made.start("site-4")
    made.wait_until_registered("site-4")


def wrong_model(made: Consortium) -> None:
    """One site gets another network than the others: it is out, with the reason, and the run is no success."""

    def other(job: Path) -> None:
        shutil.copytree(job / "app", job / "other")
        path = job / "other" / "config" / "config_fed_client.json"
        client = json.loads(path.read_text())
        client["executors"][0]["executor"]["args"]["model"]["args"]["channels"] = [4, 16]
        path.write_text(json.dumps(client))
        meta = json.loads((job / "meta.json").read_text())
        meta["deploy_map"] = {"app": [SERVER_APP, *(site for site in ALL if site != "site-3")], "other": ["site-3"]}
        (job / "meta.json").write_text(json.dumps(meta))

    report = made.incomplete(made.job(JOB, *SETTINGS, *PATIENT, change=other))
    shutil.rmtree(made.root / "jobs")
    for words in report["problems"]:
        say(f"report, problem: {words}")
    assert report["outcome"] == "incomplete"
    (problem,) = report["problems"]
    assert problem.startswith("site-3 was lost in round 1: re"), problem
    assert aggregated(report) == [[site for site in ALL if site != "site-3"]] * 2


def old_package(made: Consortium) -> None:
    """One site runs another version of the package: its update is rejected, and the log says which version it has."""
    old = made.root / "old"
    shutil.copytree(
        REPOSITORY / "custom" / "wardround", old / "wardround", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(REPOSITORY / "app_configs", made.root / "app_configs", dirs_exist_ok=True)
    init = old / "wardround" / "__init__.py"
    from wardround import __version__

    init.write_text(init.read_text().replace(f'"{__version__}"', '"0.0.1"'))
    made.kill("site-4")
    made.start("site-4", PYTHONPATH=str(old))
    made.wait_until_registered("site-4")
    job = made.job(JOB, *SETTINGS, *PATIENT)
    report = made.incomplete(job)
    for words in report["problems"]:
        say(f"report, problem: {words}")
    assert report["problems"] == ["site-4 was lost in round 1: rejected: config (see that site's own log)"]
    said = made.server_log(job)
    assert "version 0.0.1" in said
    say("server's log: " + "; ".join(lines(said, "found:    version")[:1] + lines(said, "REJECTED")[:1]))
    made.kill("site-4")
    made.start("site-4")
    made.wait_until_registered("site-4")


def status(made: Consortium, job_id: str) -> str:
    return str(made.ask("job", "meta", job_id).get("data", {}).get("status"))


SERVER_APP = "server"
DRILLS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        site_killed,
        job_process_killed,
        server_killed,
        straggler,
        network_cut,
        full_disk,
        wrong_model,
        old_package,
    )
}
