import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.shareable import Shareable

import wardround
from wardround import __version__
from wardround.core.errors import ConfigRefused, VersionRefused
from wardround.flare import made_with, plaintext_messages
from wardround.flare.made_with import ID, INSTALLED, MadeWith, package_digest, package_files, require_made_with
from wardround.flare.site_parts import REASONS, guarded
from wardround.flare.workspaces import private_folder


@pytest.mark.parametrize("code", [INSTALLED, package_digest()])
def test_what_it_was_made_with_may_run(context, code):
    require_made_with(context(**{ID: MadeWith(__version__, code)}))


@pytest.mark.parametrize(
    ("promise", "says"),
    [
        (MadeWith("9.9.9", INSTALLED), r"wardround 9\.9\.9, with which[\s\S]*pip install wardround==9\.9\.9"),
        (MadeWith(__version__, "0" * 64), r"of other code[\s\S]*sha256 0000000000000000[\s\S]*uninstall wardround"),
        (None, "without the component 'made_with'"),
        ("something else", "without the component 'made_with'"),
    ],
)
def test_anything_else_is_refused_with_what_to_install(context, promise, says):
    with pytest.raises(VersionRefused, match=says):
        require_made_with(context(**{ID: promise}))


@pytest.mark.parametrize(
    ("version", "code"), [(None, INSTALLED), ("", INSTALLED), (__version__, None), (__version__, "")]
)
def test_a_promise_has_both_parts(version, code):
    with pytest.raises(VersionRefused):
        MadeWith(version, code)


def test_a_site_refuses_before_it_works_and_the_server_reads_why(context):
    """The word travels: which version runs where is no secret. Nothing was done."""
    done = []
    fl_ctx = context(job="a1b2c3", **{ID: MadeWith("9.9.9", INSTALLED)})
    reply = guarded(FLComponent(), fl_ctx, lambda: done.append(1) or Shareable())
    assert (done, plaintext_messages.refusal_code(reply)) == ([], "version")
    assert "pip install wardround==9.9.9" in (private_folder(fl_ctx) / REASONS).read_text()


@pytest.mark.parametrize(("version", "stopped"), [(__version__, False), ("9.9.9", True)])
def test_a_server_does_not_start_and_a_site_leaves_the_others_alone(context, monkeypatch, version, stopped):
    fl_ctx = context()
    promise = MadeWith(version, INSTALLED)
    promise.handle_event(EventType.START_RUN, fl_ctx)
    assert fl_ctx.get_engine().events == []
    monkeypatch.setattr(made_with, "ServerEngineSpec", type(fl_ctx.get_engine()))
    promise.handle_event(EventType.END_RUN, fl_ctx)
    assert fl_ctx.get_engine().events == []
    promise.handle_event(EventType.START_RUN, fl_ctx)
    assert [name for name, _ in fl_ctx.get_engine().events] == [EventType.FATAL_SYSTEM_ERROR] * stopped


def test_the_package_is_its_code_and_templates_alone():
    root = Path(wardround.__file__).parent
    code, templates = ({p.relative_to(root).as_posix() for p in root.rglob(f"*.{kind}")} for kind in ("py", "html"))
    assert set(package_files()) >= code | templates
    assert {name for name in package_files() if not name.endswith((".py", ".html"))} == {
        "py.typed",
        "reports/templates/style.css",
        "serving/templates/page.css",
        "serving/templates/page.js",
    }


def test_the_digest_is_that_of_names_and_bytes_wherever_it_lies(tmp_path):
    """Slow oracle, and the same package copied elsewhere; one byte more is another digest."""
    lines = b"".join(
        hashlib.sha256(name.encode()).digest() + hashlib.sha256(path.read_bytes()).digest()
        for name, path in sorted(package_files().items())
    )
    assert package_digest() == hashlib.sha256(lines).hexdigest()
    for name, path in package_files().items():
        target = tmp_path / "wardround" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    code = "from wardround.flare.made_with import package_digest; print(package_digest())"

    def elsewhere() -> str:
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert elsewhere() == package_digest()
    with (tmp_path / "wardround" / "rng.py").open("a") as out:
        out.write("\n")
    assert elsewhere() != package_digest()


@pytest.fixture
def deployed(workspace, repository):
    """deployed(job, change) -> nothing; the job's two configs lie where NVFlare puts them, the client's changed in place"""

    def put(job, change=lambda server, client: None):
        folder = Path(workspace.get_app_config_dir("a1b2c3"))
        shutil.copytree(repository / "jobs" / job / "app" / "config", folder, dirs_exist_ok=True)
        files = [folder / f"config_fed_{side}.json" for side in ("server", "client")]
        configs = [json.loads(file.read_text()) for file in files]
        change(*configs)
        for file, config in zip(files, configs, strict=True):
            file.write_text(json.dumps(config))

    return put


def mode(server):
    return server["workflows"][0]["args"]["mode"]["args"]


def trainer(client):
    return client["executors"][0]["executor"]["args"]


EDITS = {
    "another algorithm": lambda server, client: trainer(client).update(
        algorithm={"path": "my.Own", "args": {"mu": 0.01}}
    ),
    "another strength": lambda server, client: trainer(client)["algorithm"]["args"].update(mu=1.0),
    "a setting more": lambda server, client: trainer(client)["model"]["args"].update(extra=1),
    "another network": lambda server, client: trainer(client)["model"]["args"].update(channels=[4, 8]),
    "another schedule": lambda server, client: trainer(client)["schedule"]["args"].update(lr=0.5),
    "another seed": lambda server, client: trainer(client).update(seed=1),
    "nobody beside": lambda server, client: trainer(client).pop("fedavg_baseline"),
    "another server optimizer": lambda server, client: mode(server)["server_optimizer"]["args"].update(server_lr=0.5),
    "another aggregation": lambda server, client: mode(server).update(
        aggregation={"path": "wardround.aggregation.median.CoordinateMedian", "args": {"f": 1, "far": 4.0}}
    ),
    "other words": lambda server, client: server["workflows"][0]["args"]["about"]["algorithm_settings"].update(mu=9.0),
    "no executor": lambda server, client: client.update(executors=[]),
    "no structure": lambda server, client: client.update(executors=7),
}


@pytest.mark.parametrize("edit", EDITS, ids=list(EDITS))
def test_a_report_names_what_ran_or_nothing_runs(context, monkeypatch, deployed, edit):
    """The report's settings are written when a job is printed; an edited config is refused at the server and at every site."""
    deployed("brats_fedprox", EDITS[edit])
    fl_ctx, done = context(job="a1b2c3"), []
    assert (
        plaintext_messages.refusal_code(guarded(FLComponent(), fl_ctx, lambda: done.append(1) or Shareable()))
        == "config"
    )
    assert done == []
    fl_ctx = context(job="a1b2c3")
    monkeypatch.setattr(made_with, "ServerEngineSpec", type(fl_ctx.get_engine()))
    MadeWith(__version__, INSTALLED).handle_event(EventType.START_RUN, fl_ctx)
    ((name, words),) = fl_ctx.get_engine().events
    assert name == EventType.FATAL_SYSTEM_ERROR
    assert "the report would say" in words or "another structure" in words
    assert "--set algorithm.path" in words


def promised(client):
    """Return what a job's client config says about what leaves."""
    return next(one["args"] for one in client["components"] if one["id"] == "outbound")


def test_every_printed_job_tells_what_it_runs(context, deployed, repository):
    """Also where a number comes back in another form, as NVFlare's command line may write it."""

    def rewritten(server, client):
        trainer(client)["schedule"]["args"]["work"] = float(trainer(client)["schedule"]["args"]["work"])

    for folder in sorted((repository / "jobs").iterdir()):
        for change in (lambda server, client: None, rewritten):
            deployed(folder.name, change)
            require_made_with(context(job="a1b2c3"))


def test_hidden_jobs_are_compared_too(context, deployed):
    def weaker(server, client):
        promised(client)["secagg"]["args"]["bits"] = 4

    def noise(server, client):
        promised(client)["privacy"]["args"]["promise"]["args"]["noise_multiplier"] = 0.5

    def nothing(server, client):
        promised(client)["privacy"] = "none"

    for job, change, word in (
        ("brats_fedavg_he", weaker, "secagg"),
        ("brats_dp_patient", noise, "noise_multiplier"),
        ("brats_dp_patient", nothing, "promises none"),
    ):
        deployed(job, change)
        with pytest.raises(ConfigRefused, match=word):
            require_made_with(context(job="a1b2c3"))


def test_files_that_nvflare_writes_into_a_deployed_job_are_not_part_of_the_package(monkeypatch, tmp_path):
    """NVFlare signs every folder of a job that brings code, templates too."""
    copy = shutil.copytree(Path(wardround.__file__).parent, tmp_path / "wardround")
    monkeypatch.setattr(made_with, "__file__", str(copy / "flare" / "made_with.py"))
    before = package_files().keys()
    for folder in (copy, copy / "flare", copy / "reports" / "templates"):
        (folder / ".__nvfl_sig.json").write_text("{}")
    assert len(before) > 300
    assert package_files().keys() == before
