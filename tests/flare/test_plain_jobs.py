"""What a hardened party takes for a job without code, seen with NVFlare's own start code, deployer and loaders."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from wardround.cli.main import main

# What NVFlare itself refuses first: a text that is no JSON at all, and an app without this side's config.
NVFLARES_OWN_WORDS = {"no json", "a deep one", "no server's config"}
NAMES = ("config/config_fed_client.json", "config/config_fed_server.json")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """(folder for apps, asked): a web server in the hospital's network, and what it was asked for."""
    asked = []

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'inside = "yes"\n')

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Inside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def app_of(repository, folder, job="brats_fedavg"):
    made = shutil.copytree(repository / "jobs" / job / "app", folder)
    shutil.rmtree(made / "custom")
    return made


def edit(app, name, change):
    config = json.loads((app / name).read_text())
    changed = change(config)
    (app / name).write_text(json.dumps(config if changed is None else changed))


def as_hocon(app, before, ending="conf"):
    text = (app / NAMES[0]).read_text()
    (app / NAMES[0]).unlink()
    (app / "config" / f"config_fed_client.{ending}").write_text(f"{before}\n{text.strip()[1:-1]}")


def filters_of(config):
    return config["task_result_filters"][0]["filters"]


def spoilt(repository, root, address):
    """Return name -> an app that no hardened party may take."""
    secret = root / "secret.conf"
    secret.write_text('key = "00ff00ff"\n')
    apps = {}

    def add(name):
        apps[name] = app_of(repository, root / name.replace(" ", "_"))
        return apps[name]

    as_hocon(add("hocon that includes a file"), f'include file("{secret}")')
    as_hocon(add("hocon that asks an address"), f'include url("{address}/hocon")')
    as_hocon(add("hocon that reads the environment"), "note = ${HOSPITAL_SECRET}")
    as_hocon(add("a default ending"), f'include file("{secret}")', "conf.default")
    (add("yaml") / NAMES[0]).rename(apps["yaml"] / "config" / "config_fed_client.yml")
    (add("json default") / NAMES[0]).rename(apps["json default"] / "config" / "config_fed_client.json.default")
    deep = add("a config below a folder")
    (deep / "config" / "deep").mkdir()
    (deep / NAMES[0]).rename(deep / "config" / "deep" / "config_fed_client.json")
    for name in ("config/resources.json", "config/log_config.json", "requirements.txt", "CARD.md.conf"):
        (add(f"another file {name}") / name).write_text("{}")
    (add("a folder") / "data").mkdir()
    (apps["a folder"] / "data" / "x.json").write_text("{}")
    (add("no server's config") / NAMES[1]).unlink()

    def argument(config, value):
        config["executors"][0]["executor"]["args"]["seed"] = value

    edit(add("a variable of the environment"), NAMES[0], lambda config: argument(config, "{$HOSPITAL_SECRET}"))
    edit(add("a variable inside words"), NAMES[0], lambda config: argument(config, "x {$HOSPITAL_SECRET}"))
    edit(add("a variable of the site"), NAMES[0], lambda config: argument(config, "{WORKSPACE}/startup"))
    edit(add("a secret"), NAMES[0], lambda config: argument(config, "${secret:file:/etc/hostname}"))
    edit(add("an address"), NAMES[0], lambda config: argument(config, f"{address}/value"))
    edit(add("an address at the server"), NAMES[1], lambda config: config["workflows"][0]["args"].update(x="http://a"))
    edit(add("a setting of NVFlare"), NAMES[0], lambda config: config.update(allow_log_streaming=True))
    edit(add("no outbound filter"), NAMES[0], lambda config: config.update(task_result_filters=[]))
    edit(
        add("another filter after it"), NAMES[0], lambda config: filters_of(config).append({"path": "x.Y", "args": {}})
    )
    edit(add("a task without it"), NAMES[0], lambda config: config["executors"][0]["tasks"].append("more"))
    edit(
        add("an executor without it"),
        NAMES[0],
        lambda config: config["executors"].append({"tasks": ["x"], "executor": {}}),
    )
    edit(add("every task of an executor"), NAMES[0], lambda config: config["executors"][0].update(tasks=["*"]))
    edit(add("no executor"), NAMES[0], lambda config: config.update(executors=[]))
    edit(add("a list"), NAMES[0], lambda config: [config])
    (add("a key twice") / NAMES[0]).write_text('{"format_version": 1, "format_version": 2}')
    (add("no number") / NAMES[0]).write_text('{"format_version": NaN}')
    (add("no json") / NAMES[0]).write_text("format_version = 2")
    (add("a deep one") / NAMES[0]).write_text("[" * 100_000)
    (add("a long one") / NAMES[0]).write_text(json.dumps({"format_version": "x" * 2_000_000}))
    return apps


def deployed(kit, side, apps):
    """Return what the party answers to each app, in a process of its own."""
    words = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "deploy_app.py"),
        str(kit),
        side,
        *map(str, apps),
    ]
    done = subprocess.run(
        words, env=os.environ | {"HOSPITAL_SECRET": "hunter2"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("side", "party"), [("client", "site-1"), ("server", "localhost")])
def test_a_hardened_party_takes_two_json_files_and_nothing_else(
    provisioned, repository, tmp_path, hospital, side, party
):
    address, asked = hospital
    kit = shutil.copytree(provisioned / party, tmp_path / "kit")
    assert main(["sites", "harden", str(kit)]) == 0
    good = app_of(repository, tmp_path / "good")
    (good / "CARD.md").write_text("A card.\n")
    for folder in (good, good / "config"):
        (folder / ".__nvfl_submitter.crt").write_text("")
    apps = spoilt(repository, tmp_path, address)
    taken, *answers = deployed(kit, side, [good, *apps.values()])
    assert taken["refused"] == ""
    assert taken["config"] == json.loads((good / f"config/config_fed_{side}.json").read_text())
    assert {name: answer["refused"] for name, answer in zip(apps, answers, strict=True) if not answer["refused"]} == {}
    assert asked == []
    said = json.dumps(answers)
    assert "00ff00ff" not in said
    assert "hunter2" not in said
    words = {name: answer["refused"] for name, answer in zip(apps, answers, strict=True)}
    assert {name for name, text in words.items() if "wardround package" not in text} <= NVFLARES_OWN_WORDS
    started = [path for path in kit.rglob("meta.json") if "job-0" not in path.parts]
    assert started == []


def test_a_party_as_delivered_reads_hocon_so_this_test_can_tell(provisioned, repository, tmp_path, hospital):
    address, asked = hospital
    kit = shutil.copytree(provisioned / "site-1", tmp_path / "kit")
    app = app_of(repository, tmp_path / "app")
    as_hocon(app, f'include url("{address}/as-delivered")\nnote = ${{HOSPITAL_SECRET}}')
    (answer,) = deployed(kit, "client", [app])
    assert answer["config"]["note"] == "hunter2"
    assert "/as-delivered" in asked
    asked.clear()


def test_a_job_with_curves_at_an_mlflow_server_may_name_that_address(provisioned, tmp_path):
    settings = ["--set", "federation.tracking=[mlflow]", "--set", "federation.mlflow_uri=http://tracking:5000"]
    assert main(["package", "brats_fedavg", "--config-only", *settings, "--out", str(tmp_path)]) == 0
    kit = shutil.copytree(provisioned / "localhost", tmp_path / "kit")
    assert main(["sites", "harden", str(kit)]) == 0
    (answer,) = deployed(kit, "server", [tmp_path / "brats_fedavg" / "app"])
    assert answer["refused"] == ""
