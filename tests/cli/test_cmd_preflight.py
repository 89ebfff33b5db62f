"""The page as a person reads it: a kit that is ready but for the server, then one thing broken at a time."""

import json
import shutil

import pytest

from wardround.cli.main import main
from wardround.ops.preflight import CHECKS, SERVER_ONLY, SITE_ONLY
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort


@pytest.fixture(scope="module")
def ready(provisioned, repository, tmp_path_factory):
    """A site with data, budget and scope, hardened."""
    root = tmp_path_factory.mktemp("ready")
    site = shutil.copytree(provisioned / "site-1", root / "site-1")
    write_cohort(root / "data", hospital(0), seed=0, shape=(24, 24, 24), patients=8)
    (site / "local" / "wardround.json").write_text(json.dumps({"data": str(root / "data"), "device": "cpu"}))
    (site / "local" / "wardround_budget.json").write_text('{"patient": {"epsilon": 8, "delta": 1e-5}}')
    shutil.copyfile(repository / "poc_workspace" / "privacy.json", site / "local" / "privacy.json")
    assert main(["sites", "harden", str(site)]) == 0
    return site


@pytest.fixture
def site(ready, tmp_path):
    return shutil.copytree(ready, tmp_path / "site-1")


@pytest.fixture
def ask(capsys):
    """ask(kit, *words) -> (exit code, check -> statuses, findings)"""

    def asked(kit, *words):
        capsys.readouterr()
        code = main(["preflight", str(kit), "--json", *words])
        found = json.loads(capsys.readouterr().out)
        by = {}
        for one in found:
            by.setdefault(one["check"], []).append(one["status"])
        return code, by, found

    return asked


LOCAL = "kit,certificates,keys,data,disk,gpu,budget,remote,private,scope,code"


def test_a_ready_site(ready, ask):
    code, by, found = ask(ready, "--skip", "server")
    assert code == 0
    assert list(by) == [name for name in CHECKS if name not in ("server", *SERVER_ONLY)]
    passing = ("kit", "keys", "data", "disk", "gpu", "budget", "remote", "private", "scope", "code", "round")
    assert {name: by[name] for name in passing} == {name: ["PASS"] for name in passing}
    assert "nothing was sent" in found[-1]["found"]


def test_the_page_names_every_fix(ready, capsys):
    assert main(["preflight", str(ready), "--only", "server", "--started"]) == 1
    capsys.readouterr()
    assert main(["preflight", str(ready), "--only", "kit,server"]) == 0
    page = capsys.readouterr().out
    assert "PASS  kit" in page
    assert "WARN  server        localhost:8002 refuses: nothing listens there (yet)" in page
    assert "to do: ask the lead whether the server runs" in page
    assert page.rstrip().endswith("1 PASS, 1 WARN, 0 FAIL")
    assert max(map(len, page.splitlines())) <= 120


def test_a_kit_whose_path_nvflares_scripts_cut_in_pieces_is_a_fail(site, ask, tmp_path):
    moved = site.rename(tmp_path / "my site")
    code, by, found = ask(moved, "--only", "kit")
    assert (code, by) == (1, {"kit": ["FAIL"]})
    assert "a blank" in found[0]["found"]
    assert "move the kit" in found[0]["fix"]


def edit(site, name, change):
    file = site / "local" / name
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def no_data(site):
    (site / "local" / "wardround.json").unlink()


def other_signed_file(site):
    with (site / "startup" / "start.sh").open("a") as out:
        out.write("# mine\n")


def streamed(site):
    edit(site, "resources.json", lambda found: found | {"allow_log_streaming": True})


def shorter_list(site):
    edit(site, "resources.json", lambda found: found | {"class_allow_list": found["class_allow_list"][:3]})


def no_list(site):
    edit(
        site, "resources.json", lambda found: {key: value for key, value in found.items() if key != "class_allow_list"}
    )


def any_format(site):
    edit(site, "resources.json", lambda found: {key: value for key, value in found.items() if key != "app_validator"})


def no_scope_class(site):
    file = site / "local" / "privacy.json"
    file.write_text(file.read_text().replace("SitePolicy", "NoPolicy"))


def no_scopes(site):
    edit(site, "privacy.json", lambda found: found | {"scopes": [], "default_scope": ""})


def half_a_scope(site):
    edit(
        site,
        "privacy.json",
        lambda found: found | {"scopes": [one | {"task_result_filters": []} for one in found["scopes"]]},
    )


def hospital_scope_without_its_limit(site):
    edit(site, "privacy.json", lambda found: found | {"default_scope": "hospital"})


def components(site, change):
    edit(site, "resources.json", lambda found: found | {"components": change(found["components"])})


def no_guard(site):
    components(site, lambda found: [one for one in found if one["id"] != "wardround_guard"])


def guard_of_another_class(site):
    components(site, lambda found: [one | {"path": "wardround.flare.guard.OwnerOnly"} for one in found[:1]] + found[1:])


def provisioned_resources(site):
    (site / "local" / "resources.json").write_text(
        json.dumps(
            json.loads((site / "local" / "resources.json").read_text())
            | {"components": json.loads((site / "local" / "resources.json.default").read_text())["components"]}
        )
    )


def right(name, who, role="lead"):
    def spoil(site):
        edit(
            site,
            "authorization.json",
            lambda found: (
                found | {"permissions": found["permissions"] | {role: found["permissions"].get(role, {}) | {name: who}}}
            ),
        )

    spoil.__name__ = f"{name}_{who}_{role}".replace(" ", "_")
    return spoil


def a_role_that_may_all(site):
    edit(site, "authorization.json", lambda found: found | {"permissions": found["permissions"] | {"guest": "any"}})


def provisioned_policy(site):
    (site / "local" / "authorization.json").unlink()


def open_private_folder(site):
    folder = site.with_name("site-1.private")
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)


def state_inside_the_workspace(site):
    (site / "local" / "wardround_state.json").write_text('{"folder": "../site-1/kept"}')


def cuda(site):
    edit(site, "wardround.json", lambda found: found | {"device": "cuda:77"})


@pytest.mark.parametrize(
    ("spoil", "check", "says"),
    [
        (no_data, "data", "wardround.json"),
        (other_signed_file, "kit", "startup/start.sh"),
        (streamed, "scope", "stream"),
        (shorter_list, "code", "are not listed"),
        (no_list, "code", "are not listed"),
        (any_format, "code", "HOCON or YAML"),
        (no_scope_class, "scope", "privacy.json"),
        (no_scopes, "scope", "no scope"),
        (half_a_scope, "scope", "0 SitePolicy in task_result_filters"),
        (hospital_scope_without_its_limit, "scope", "limits per patient only"),
        (cuda, "gpu", "usable GPUs"),
        (no_guard, "remote", "SiteGuard"),
        (guard_of_another_class, "remote", "SiteGuard"),
        (provisioned_resources, "remote", "SiteGuard"),
        (right("shell_commands", "o:site"), "remote", "cat (lead)"),
        (right("shell_commands", ["none", "n:lead@consortium.org"]), "remote", "tail (lead)"),
        (right("Cat", "any"), "remote", "cat (lead)"),
        (right("operate", "any"), "remote", "restart (lead)"),
        (right("configure_site_log", "o:consortium"), "remote", "configure_site_log"),
        (right("delete_workspace", "o:submitter"), "remote", "delete_workspace"),
        (provisioned_policy, "remote", "cat (project_admin)"),
        (a_role_that_may_all, "remote", "shutdown (guest)"),
        (open_private_folder, "private", "can be read by others"),
        (state_inside_the_workspace, "private", "inside the workspace"),
    ],
)
def test_one_thing_broken_is_one_fail(site, ask, spoil, check, says):
    spoil(site)
    code, by, found = ask(site, "--only", LOCAL)
    assert code == 1
    assert [name for name, statuses in by.items() if "FAIL" in statuses] == [check]
    (wrong,) = [one for one in found if one["status"] == "FAIL"]
    assert says in wrong["found"]
    assert wrong["fix"]


def test_what_hangs_on_a_fail_points_there(site, ask):
    no_data(site)
    _, by, found = ask(site, "--only", "data,disk,gpu,code,round")
    assert by == {"data": ["FAIL"], "disk": ["PASS"], "gpu": by["gpu"], "code": ["PASS"], "round": ["WARN"]}
    said = {one["check"]: one["found"] for one in found}
    assert said["round"] == "not checked, because of what stands under data"
    assert "without decoded cases" in said["disk"]
    assert "not checked" not in said["gpu"]


def test_a_kit_as_delivered_warns_of_code_and_classes(provisioned, ask):
    code, by, found = ask(provisioned / "localhost", "--only", "code")
    assert (code, by) == (0, {"code": ["WARN", "WARN"]})
    assert "lead, project_admin" in found[0]["found"]


def test_any_class_is_a_warning(site, ask):
    edit(site, "resources.json", lambda found: found | {"class_list_enforcement_mode": "warn"})
    assert ask(site, "--only", "code")[1] == {"code": ["WARN"]}
    edit(
        site,
        "resources.json",
        lambda found: found | {"class_list_enforcement_mode": "enforce", "class_allow_list": ["*"]},
    )
    assert ask(site, "--only", "code")[1] == {"code": ["WARN"]}


def test_a_line_for_a_whole_module_is_a_warning(site, ask):
    edit(
        site,
        "resources.json",
        lambda found: found | {"class_allow_list": [*found["class_allow_list"], "nvflare.app_opt"]},
    )
    _, by, found = ask(site, "--only", "code")
    assert by == {"code": ["WARN"]}
    assert "nvflare.app_opt" in found[0]["found"]


def test_a_server_is_asked_what_applies(provisioned, ask):
    code, by, found = ask(provisioned / "localhost")
    assert code == 1
    assert list(by) == [name for name in CHECKS if name not in SITE_ONLY]
    assert by["server"] == ["PASS"]
    assert {one["check"] for one in found if one["status"] == "FAIL"} == {"storage"}
    assert ask(provisioned / "localhost", "--only", "server", "--started")[0] == 1


def test_the_job_of_a_folder_is_the_one_that_is_tried(ready, repository, ask):
    _, by, found = ask(ready, "--only", "round", "--job", str(repository / "jobs" / "brats_fedrep"))
    assert by == {"round": ["PASS"]}
    assert found[0]["found"].startswith("brats_fedrep on cpu")
    assert ask(ready, "--only", "round", "--job", "no_such_job")[0] == 1


@pytest.mark.parametrize("words", [["--only", "ports"], ["--skip", "kit,everything"]])
def test_checks_that_do_not_exist(ready, words):
    assert main(["preflight", str(ready), *words]) == 2


def test_a_folder_that_is_no_kit(tmp_path):
    assert main(["preflight", str(tmp_path)]) == 2


def test_a_servers_storage_is_lasting_and_closed(provisioned, tmp_path, ask):
    """Where NVFlare puts it, everybody may read every result, and a restart empties it."""
    server = shutil.copytree(provisioned / "localhost", tmp_path / "server")
    code, by, found = ask(server, "--only", "storage")
    assert (code, by) == (1, {"storage": ["FAIL", "FAIL"]})
    assert "temporary folder" in found[0]["found"]
    assert "sites harden" in found[0]["fix"]
    assert main(["sites", "harden", str(server)]) == 0
    assert ask(server, "--only", "storage,remote,private")[:2] == (
        0,
        {"remote": ["PASS"], "private": ["PASS"], "storage": ["PASS"]},
    )
    (server / "storage").chmod(0o755)
    for folder in (tmp_path, server):
        folder.chmod(0o755)
    code, by, _ = ask(server, "--only", "storage")
    assert by == {"storage": ["FAIL", "FAIL"]} or any(one.stat().st_mode & 0o077 == 0 for one in server.parents)


def test_what_the_first_release_left_in_the_workspace_is_told_without_a_name(site, ask):
    left = site / "a-job" / "wardround"
    (left / "secure").mkdir(parents=True)
    (left / "secure" / "secrets.json").write_text("{}")
    (left / "refusals.txt").write_text("case PATIENT")
    _, by, found = ask(site, "--only", "private")
    assert by == {"private": ["WARN"]}
    assert "2 files" in found[0]["found"]


def test_a_component_of_ones_own_is_a_warning(site, ask):
    components(site, lambda found: [*found, {"id": "mine", "path": "my.Component", "args": {}}])
    _, by, found = ask(site, "--only", "remote")
    assert by == {"remote": ["WARN"]}
    assert "my.Component" in found[0]["found"]
