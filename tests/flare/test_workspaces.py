import os
import stat
import subprocess
import sys

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.workspace import Workspace

from wardround.core.errors import ConfigRefused
from wardround.flare import workspaces


def test_the_simulator_is_known_by_its_job_id(context):
    assert workspaces.in_simulator(context())
    assert not workspaces.in_simulator(context(job="a1b2c3"))


def test_a_run_has_a_folder_in_its_own_workspace(context, workspace, tmp_path):
    folder = workspaces.run_folder(context(job="a1b2c3"))
    assert folder == tmp_path / "party" / "a1b2c3" / "wardround"
    assert folder.is_dir()
    assert workspaces.workspace_root(context()) == tmp_path / "party"


def test_secrets_and_state_of_a_real_party_lie_outside_the_workspace_that_nvflare_serves(
    context, tmp_path, monkeypatch
):
    fl_ctx = context(job="a1b2c3")
    for folder in (workspaces.private_folder(fl_ctx), workspaces.state_folder(fl_ctx)):
        assert folder == tmp_path / "party.private" / "a1b2c3"
        assert not folder.is_relative_to(workspaces.workspace_root(fl_ctx))
    assert workspaces.private_folder(context()) == workspaces.run_folder(context())
    monkeypatch.setenv("WARDROUND_PRIVATE", str(tmp_path / "elsewhere"))
    assert workspaces.private_folder(fl_ctx) == tmp_path / "elsewhere" / "a1b2c3"


@pytest.mark.parametrize("inside", ["party", "party/private", "party/../party/x"])
def test_a_private_folder_inside_the_workspace_is_refused(context, tmp_path, monkeypatch, inside):
    monkeypatch.setenv("WARDROUND_PRIVATE", str(tmp_path / inside))
    with pytest.raises(ConfigRefused, match="outside the workspace"):
        workspaces.private_folder(context(job="a1b2c3"))


def test_a_private_folder_that_cannot_be_made_is_refused_and_nothing_falls_back(context, tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    fl_ctx = context(job="a1b2c3", few=True)
    monkeypatch.setattr(type(tmp_path), "mkdir", denied)
    with pytest.raises(ConfigRefused, match="WARDROUND_PRIVATE"):
        workspaces.private_folder(fl_ctx)


@pytest.fixture(params=[0o022, 0o000])
def loose(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("loose")
@pytest.mark.parametrize("job", [workspaces.SIMULATOR_JOB, "a1b2c3"])
@pytest.mark.parametrize("kept", [False, True])
def test_whatever_the_umask_all_that_a_run_writes_is_for_its_owner_only(context, tmp_path, monkeypatch, job, kept):
    if kept:
        monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    (tmp_path / "party" / "a1b2c3" / "wardround").mkdir(parents=True)
    for folder in (workspaces.run_folder, workspaces.private_folder, workspaces.state_folder):
        place = folder(context(job=job))
        (place / "overlays").mkdir(exist_ok=True)
        for path in (place / "site_report.html", place / "overlays" / "one.png"):
            path.write_text("a patient")
        for path in (place, *place.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_state_lies_in_the_run_folder_or_where_the_variable_says(context, tmp_path, monkeypatch):
    assert workspaces.state_folder(context()) == workspaces.run_folder(context())
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    mine, other = workspaces.state_folder(context()), workspaces.state_folder(context(party="site-2"))
    assert mine == tmp_path / "state" / "site-1"
    assert other == tmp_path / "state" / "site-2"
    assert stat.S_IMODE(mine.stat().st_mode) & 0o077 == 0


def named(context, name, job="a1b2c3"):
    fl_ctx = context(job=job)
    fl_ctx.set_prop(FLContextKey.JOB_META, {"name": name}, private=True, sticky=False)
    return fl_ctx


def test_at_a_real_site_every_job_has_a_state_of_its_own(context, tmp_path, monkeypatch):
    local = tmp_path / "party" / "local" / "wardround_state.json"
    assert not workspaces.keeps_state(named(context, "one"))
    local.write_text('{"folder": "kept"}')
    assert workspaces.state_folder(named(context, "one")) == tmp_path / "party.private" / "kept" / "one"
    assert workspaces.state_folder(named(context, "../two")) == tmp_path / "party.private" / "kept" / "_two"
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    assert workspaces.state_folder(named(context, "one")) == tmp_path / "state" / "site-1" / "one"


@pytest.mark.parametrize(
    "text",
    [
        '{"folder": "../party/kept"}',
        '{"folder": "../party"}',
        "",
        "[]",
        '{"folder": ""}',
        '{"folder": 1}',
        '{"folder": "a", "more": 1}',
    ],
)
def test_a_state_file_that_says_something_else_is_refused(context, tmp_path, text):
    (tmp_path / "party" / "local" / "wardround_state.json").write_text(text)
    with pytest.raises(ConfigRefused, match="wardround_state"):
        workspaces.state_folder(named(context, "one"))


@pytest.mark.parametrize("inside", ["party", "party/kept", "party/../party/x"])
def test_state_that_the_variable_puts_into_the_workspace_is_refused(context, tmp_path, monkeypatch, inside):
    """Secrets are part of it; in the simulator, whose workspace is served to nobody, it may lie there."""
    fl_ctx = named(context, "one")
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / inside))
    with pytest.raises(ConfigRefused, match=r"WARDROUND_STATE[\s\S]*inside the workspace"):
        workspaces.state_folder(fl_ctx)
    assert workspaces.state_folder(context(few=True)).is_relative_to(tmp_path / inside)


def test_a_job_goes_on_under_the_id_that_it_began_with_until_it_has_ended(context, tmp_path):
    """So a ledger charges the job once, however often it is submitted again after a crash."""
    (tmp_path / "party" / "local" / "wardround_state.json").write_text('{"folder": "kept"}')
    first, second = named(context, "one", "id-1"), named(context, "one", "id-2")
    assert workspaces.run_id(first) == workspaces.run_id(second) == "id-1"
    workspaces.begin_new_run(second)
    assert workspaces.run_id(second) == "id-1"
    workspaces.finish(second)
    third = named(context, "one", "id-3")
    workspaces.begin_new_run(third)
    assert workspaces.run_id(third) == "id-3"


@pytest.mark.parametrize("began", ["id-1", "id-2"])
def test_a_server_that_lies_cannot_make_a_site_forget_within_one_job(context, tmp_path, began):
    """Asked to judge and then to begin anew, or, in a job that goes on, to begin anew: what it opened would be forgotten."""
    (tmp_path / "party" / "local" / "wardround_state.json").write_text('{"folder": "kept"}')
    running = named(context, "one", "id-2")
    workspaces.run_id(named(context, "one", began))
    workspaces.run_id(running)
    secrets = workspaces.state_folder(running) / "secure" / "secrets.json"
    for path in (secrets, secrets.parent.parent / "global" / "round-00002.npz"):
        path.parent.mkdir()
        path.write_text("")
    workspaces.begin_new_run(running)
    workspaces.finish(running)
    workspaces.begin_new_run(running)
    assert secrets.is_file()
    assert workspaces.run_id(running) == began


@pytest.mark.parametrize(
    ("file", "job", "cleared"),
    [
        ("round-00002.npz", "id-2", True),
        ("global/round-00001.npz", "id-2", True),
        ("round-00001.npz", "id-2", False),
        ("round-00002.npz", "id-1", False),
    ],
)
def test_a_new_job_clears_what_an_old_one_left_unfinished_and_no_job_its_own(context, tmp_path, file, job, cleared):
    """After one round of an old job it may be that round which is asked again: nothing is cleared then."""
    (tmp_path / "party" / "local" / "wardround_state.json").write_text('{"folder": "kept"}')
    assert workspaces.run_id(named(context, "one", "id-1")) == "id-1"
    path = workspaces.state_folder(named(context, "one", "id-1")) / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    workspaces.begin_new_run(named(context, "one", job))
    assert path.exists() is not cleared


def test_without_kept_state_a_job_has_its_own_id_and_nothing_is_cleared(context):
    fl_ctx = context(job="id-1")
    (workspaces.state_folder(fl_ctx) / "round-00001.npz").write_text("")
    workspaces.finish(fl_ctx)
    workspaces.begin_new_run(fl_ctx)
    assert workspaces.run_id(fl_ctx) == "id-1"
    assert (workspaces.state_folder(fl_ctx) / "round-00001.npz").is_file()


def test_the_name_of_a_job_is_that_of_its_meta(context):
    fl_ctx = context()
    assert workspaces.job_name(fl_ctx) == workspaces.SIMULATOR_JOB
    fl_ctx.set_prop(FLContextKey.JOB_META, {"name": "brats_fedavg"}, private=True, sticky=False)
    assert workspaces.job_name(fl_ctx) == "brats_fedavg"


@pytest.mark.parametrize("wish", ["1", "7"])
def test_the_variable_decides_about_threads(context, monkeypatch, wish):
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert workspaces.threads_for_this_process(context()) == int(wish)


@pytest.mark.parametrize("wish", ["", "0", "-2", "many", "4,2"])
def test_otherwise_the_cores_are_shared(context, monkeypatch, wish):
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    monkeypatch.setattr(workspaces.os, "cpu_count", lambda: 12)
    workers = [["python", "-m", "nvflare.private.fed.app.simulator.simulator_worker", "-o", str(n)] for n in range(3)]
    monkeypatch.setattr("psutil.process_iter", lambda _: [Process(line) for line in [*workers, ["bash"], None]])
    assert workspaces.threads_for_this_process(context()) == 4
    assert workspaces.threads_for_this_process(context(job="a1b2c3")) == 12


class Process:
    def __init__(self, line):
        self.info = {"cmdline": line}


HOLD = """
import sys
from pathlib import Path
from wardround.flare import workspaces as places
places.keep_to_this_job(Path(sys.argv[1]), "id-1")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def first_job(context, tmp_path):
    """Another process, in which a job of the same name runs at this site."""
    (tmp_path / "party" / "local" / "wardround_state.json").write_text('{"folder": "kept"}')
    folder = workspaces.state_folder(named(context, "one", "id-2"))
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("task", [workspaces.begin_new_run, workspaces.run_id])
def test_a_second_job_of_one_name_is_refused_while_the_first_one_runs(context, first_job, monkeypatch, task):
    """A double click: both would go on from the same state, and each would overwrite what the other one remembers."""
    monkeypatch.setattr(workspaces, "PATIENCE_S", 0)
    with pytest.raises(ConfigRefused, match="another job of this name, id-1, is running") as refused:
        task(named(context, "one", "id-2"))
    assert str(first_job.pid) in refused.value.found
    assert not (workspaces.state_folder(named(context, "one", "id-2")) / "began_as").exists()
    assert workspaces.run_id(named(context, "two", "id-2")) == "id-2", "a job of another name is free to run"


def test_the_lock_of_a_job_that_was_killed_is_not_waited_for(context, first_job, monkeypatch):
    monkeypatch.setattr(workspaces, "PATIENCE_S", 5)
    first_job.kill()
    assert workspaces.run_id(named(context, "one", "id-2")) == "id-2"
    workspaces.begin_new_run(named(context, "one", "id-2"))


def test_a_simulator_whose_sites_cannot_start_says_so(context, tmp_path):
    workspaces.require_startable(context())
    for folder in ("startup", "local"):
        (tmp_path / "my runs" / "server" / folder).mkdir(parents=True)
    moved = context()
    moved.get_engine().workspace = Workspace(str(tmp_path / "my runs" / "server"), "server")
    with pytest.raises(ConfigRefused, match="-w /tmp/run"):
        workspaces.require_startable(moved)
