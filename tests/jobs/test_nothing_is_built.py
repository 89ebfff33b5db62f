"""Folders that somebody else wrote: whatever class, function or file they name, looking at them runs none of it."""

import json
import os
import shutil

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.jobs import recipes
from wardround.jobs.building import build, require_buildable
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort

CLIENT = "app/config/config_fed_client.json"
POPEN = "subprocess.Popen"


@pytest.fixture(scope="module")
def kit(provisioned, tmp_path_factory):
    root = tmp_path_factory.mktemp("kit")
    site = shutil.copytree(provisioned / "site-1", root / "site-1")
    write_cohort(root / "data", hospital(0), seed=0, shape=(16, 16, 16), patients=5)
    (site / "local" / "wardround.json").write_text(json.dumps({"data": str(root / "data"), "device": "cpu"}))
    assert main(["sites", "harden", str(site)]) == 0
    return site


@pytest.fixture
def ask(kit, capsys):
    """ask(folder, kit) -> (exit code, findings) of the checks that look at a job"""

    def asked(folder, kit=kit):
        capsys.readouterr()
        code = main(["preflight", str(kit), "--json", "--only", "code,round", "--job", str(folder)])
        return code, json.loads(capsys.readouterr().out)

    return asked


@pytest.fixture
def job(repository, tmp_path):
    """job(change) -> a copy of a printed job's folder without code, its client's config changed in place"""

    def made(change=lambda config, args: None):
        folder = shutil.copytree(repository / "jobs" / "brats_fedavg", tmp_path / "brats_fedavg")
        shutil.rmtree(folder / "app" / "custom")
        config = json.loads((folder / CLIENT).read_text())
        change(config, config["executors"][0]["executor"]["args"])
        (folder / CLIENT).write_text(json.dumps(config))
        return folder

    return made


def touch(file, path=POPEN, **more):
    """A component that leaves a trace when it is built."""
    args = {"args": ["touch", str(file)]} if path.endswith("Popen") else {}
    return {"path": path, "args": args, **more}


def command(path, file):
    return {"path": path, "args": {"command": f"touch {file}"}}


ATTACKS = {
    "algorithm": (POPEN, lambda config, args, file: args.update(algorithm=touch(file))),
    "sharing": (POPEN, lambda config, args, file: args.update(sharing=touch(file))),
    "model": (POPEN, lambda config, args, file: args.update(model=touch(file))),
    "sampling": (POPEN, lambda config, args, file: args.update(sampling=touch(file))),
    "schedule": (POPEN, lambda config, args, file: args.update(schedule=touch(file))),
    "function": ("os.system", lambda config, args, file: args.update(model=command("os.system", file))),
    "builtin": (
        "builtins.eval",
        lambda config, args, file: args.update(model={"path": "builtins.eval", "args": {"source": "1"}}),
    ),
    "through one of ours": (
        "wardround.ops.console.subprocess.Popen",
        lambda config, args, file: args.update(model=touch(file, "wardround.ops.console.subprocess.Popen")),
    ),
    "a class of ours that no job names": (
        "wardround.flare.kit.Kit",
        lambda config, args, file: args.update(model={"path": "wardround.flare.kit.Kit", "args": {}}),
    ),
    "nested": (POPEN, lambda config, args, file: args["sampling"]["args"].update(columns=[touch(file)])),
    "nested as a dictionary": (
        POPEN,
        lambda config, args, file: args["model"]["args"].update(norm=touch(file, config_type="dict")),
    ),
    "by class_path": (
        POPEN,
        lambda config, args, file: args.update(
            fedavg_baseline={"class_path": POPEN, "args": {"args": ["touch", str(file)]}}
        ),
    ),
    "a component": (POPEN, lambda config, args, file: config["components"].append({"id": "x", **touch(file)})),
    "the executor": (POPEN, lambda config, args, file: config["executors"][0]["executor"].update(path=POPEN)),
    "an exit": (POPEN, lambda config, args, file: config["task_result_filters"][0]["filters"].insert(0, touch(file))),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=list(ATTACKS))
def test_preflight_builds_nothing_that_a_folder_names(job, ask, tmp_path, attack):
    named, change = ATTACKS[attack]
    trace = tmp_path / "PWNED"
    code, found = ask(job(lambda config, args: change(config, args, trace)))
    assert not trace.exists()
    assert code == 1
    by = {one["check"]: one for one in found}
    assert by["code"]["status"] == by["round"]["status"] == "FAIL"
    assert named in by["code"]["found"]
    assert "not tried" in by["round"]["found"]
    assert all(one["fix"] for one in found)


@pytest.mark.parametrize("part", ["model", "algorithm"])
def test_a_class_that_is_no_such_part_is_not_built_even_where_it_was_typed(part, tmp_path):
    trace = tmp_path / "PWNED"
    typed = [f"{part}.path={POPEN}", f"{part}.args=[touch,{trace}]"]
    with pytest.raises(ConfigRefused, match="was not built"):
        recipes.job("brats_fedavg", typed)
    assert not trace.exists()


def test_an_honest_folder_is_still_tried(job, ask):
    small = lambda config, args: args["sampling"]["args"].update(patch=[16, 16, 16])  # noqa: E731
    assert [one["status"] for one in ask(job(small))[1]] == ["PASS", "PASS"]


def test_a_class_of_ones_own_counts_where_the_kit_lists_it_by_its_full_name(job, ask, kit, tmp_path, monkeypatch):
    package = tmp_path / "sites_own"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(
        "from dataclasses import dataclass\nfrom wardround.models.nets import UNet3d\n\n\n"
        "@dataclass(frozen=True)\nclass Small:\n    width: int\n    divisor = 2\n\n"
        "    def build(self, seed):\n        return UNet3d((self.width, 2 * self.width)).build(seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = job(lambda config, args: args.update(model={"path": "sites_own.nets.Small", "args": {"width": 4}}))
    assert "sites_own.nets.Small" in ask(folder)[1][0]["found"]
    other = shutil.copytree(kit, tmp_path / "site-1")
    file = other / "local" / "resources.json"
    lists = json.loads(file.read_text())
    for lines, code in (
        ([*lists["class_allow_list"], "sites_own.nets"], 1),
        ([*lists["class_allow_list"], "sites_own.nets.Small"], 0),
    ):
        file.write_text(json.dumps(lists | {"class_allow_list": lines}))
        assert ask(folder, other)[0] == code


def link_out(app, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (app / "config" / "config_fed_client.json").unlink()
    (app / "config" / "config_fed_client.json").symlink_to(tmp_path / "secret.json")


def hocon(app, tmp_path):
    text = (app / "config" / "config_fed_client.json").read_text()
    (app / "config" / "config_fed_client.json").unlink()
    (app / "config" / "config_fed_client.conf").write_text(f'include file("/etc/hostname")\n{text}')


def code_beside(app, tmp_path):
    (app / "custom").mkdir()
    (app / "custom" / "requirements.txt").touch()


def pipe(app, tmp_path):
    os.mkfifo(app / "config" / "resources.json")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (link_out, "config_fed_client.json (link)"),
        (hocon, "config_fed_client.conf (file)"),
        (code_beside, "app/custom"),
        (pipe, "config/resources.json (no plain file)"),
    ],
)
def test_preflight_says_what_else_lies_in_a_folder(job, ask, tmp_path, spoil, says):
    folder = job()
    spoil(folder / "app", tmp_path)
    code, found = ask(folder)
    assert code == 1
    assert says in found[0]["found"]


@pytest.mark.parametrize("path", [POPEN, "os.system", "wardround.flare.curves.Curves.handle_event", "{$HOME}.x.Y", "x"])
def test_a_privacy_policy_that_came_with_a_kit_builds_nothing_of_others(kit, tmp_path, capsys, path):
    other, trace = shutil.copytree(kit, tmp_path / "site-1"), tmp_path / "PWNED"
    part = {"path": path, "args": {"args": ["touch", str(trace)]} if path == POPEN else {}}
    scope = {"name": "open", "task_result_filters": [part]}
    (other / "local" / "privacy.json").write_text(json.dumps({"scopes": [scope], "default_scope": "open"}))
    assert main(["preflight", str(other), "--only", "scope"]) == 1
    said = capsys.readouterr().out
    assert path in said
    assert "not built" in said
    assert not trace.exists()


@pytest.mark.parametrize("part", [None, [], {"path": 7, "args": {}}, {"path": "a.B"}, {"path": "a.B", "args": []}, {}])
def test_a_part_of_another_structure_is_refused(part):
    with pytest.raises(ConfigRefused, match="the job's model"):
        build(part, "model")


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.run", "wardround.models.nets.seeded", "no_such_module.Net", "Net"]
)
def test_what_a_person_types_is_a_class_or_refused(path):
    with pytest.raises(ConfigRefused, match=path):
        require_buildable(recipes.job("brats_fedavg", [f"model.path={path}"]))


def an_include(folder):
    text = (folder / CLIENT).read_text()
    (folder / CLIENT).write_text(f'include file("/etc/hostname")\n{text}')


def environment(folder):
    (folder / CLIENT).write_text((folder / CLIENT).read_text().replace('"seed": 0', '"seed": "${HOME}"'))


def environment_in_meta(folder):
    (folder / "meta.json").write_text((folder / "meta.json").read_text().replace("brats_fedavg", "${HOME}"))


def another_config(folder):
    (folder / "meta.conf").write_text("name = x")


@pytest.mark.parametrize("spoil", [an_include, environment, environment_in_meta, another_config])
@pytest.mark.parametrize(
    "command", [("package", "--config-only", "--out", "out"), ("jobs", "submit", "--startup-kit", ".")]
)
def test_a_folder_is_not_handed_to_nvflare_before_it_is_seen_to_be_plain(
    job, tmp_path, monkeypatch, capsys, spoil, command
):
    """NVFlare's command line reads what is submitted as HOCON: the person's own environment would go into the job."""
    monkeypatch.chdir(tmp_path)
    folder = job()
    spoil(folder)
    words, more = [word for word in command if word in ("package", "jobs", "submit")], command[len(command) - 2 :]
    rest = [word for word in command if word not in (*words, *more)]
    assert main([*words, str(folder), *rest, *more]) == 2
    assert "a job without code" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
