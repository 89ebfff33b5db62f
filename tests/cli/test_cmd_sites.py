import json
import os
import shutil

import pytest

from wardround.cli.main import main
from wardround.flare.kit import open_kit, read_object
from wardround.ops.kit_keys import changed_since_signed
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort


@pytest.mark.parametrize("party", ["site-1", "localhost"])
def test_a_hardened_kit_has_its_own_list_denies_code_and_is_still_as_signed(
    provisioned, repository, tmp_path, capsys, party
):
    listed = read_object(repository / "poc_workspace" / "local" / "class_allow_list.json")
    kit = open_kit(shutil.copytree(provisioned / party, tmp_path / party))
    before = {path.name: path.read_bytes() for path in kit.startup.iterdir()}
    assert main(["sites", "harden", str(kit.root)]) == 0
    assert "written: local/resources.json" in capsys.readouterr().out
    resources, default = (read_object(kit.local / f"resources.json{end}") for end in ("", ".default"))
    assert resources["class_allow_list"] == listed[kit.role]
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert {key for key in resources if resources[key] != default.get(key)} <= {
        "class_allow_list",
        "allow_log_streaming",
        "app_validator",
        "components",
        "snapshot_persistor",
    }
    others = [one["id"] for one in resources["components"] if not one["path"].startswith("wardround.")]
    assert others == [one["id"] for one in default["components"]]
    permissions = read_object(kit.local / "authorization.json")["permissions"]
    for right in ("byoc", "shell_commands", *(["operate", "configure_job_log"] if party == "site-1" else [])):
        assert {rights[right] for rights in permissions.values()} == {"none"}
    assert permissions["lead"]["manage_job"] == "o:submitter" or "none" not in permissions["lead"]["manage_job"]
    assert {path.name: path.read_bytes() for path in kit.startup.iterdir()} == before
    assert changed_since_signed(kit.local, kit.startup / "rootCA.pem") == []
    assert {path.stat().st_mode & 0o777 for path in kit.secrets()} == {0o600}
    assert (
        main(
            ["sites", "harden", str(kit.root), "--allow", str(repository / "poc_workspace/local/class_allow_list.json")]
        )
        == 0
    )
    assert capsys.readouterr().out.count("as it was:") == 2


def test_an_edited_list_is_what_is_installed(provisioned, tmp_path):
    kit = open_kit(shutil.copytree(provisioned / "site-1", tmp_path / "site-1"))
    (tmp_path / "mine.json").write_text(json.dumps({"site": ["a.B"], "server": []}))
    assert main(["sites", "harden", str(kit.root), "--allow", str(tmp_path / "mine.json")]) == 0
    assert read_object(kit.local / "resources.json")["class_allow_list"] == ["a.B"]


def job_folder(place, path):
    """A job's folder from somebody else, whose client's config names `path`."""
    (place / "app" / "config").mkdir(parents=True)
    executor = {"tasks": ["train"], "executor": {"path": path, "args": {"args": ["id"]}}}
    files = {"meta.json": {}, "app/config/config_fed_client.json": {"executors": [executor]}}
    for name, content in (files | {"app/config/config_fed_server.json": {"workflows": []}}).items():
        (place / name).write_text(json.dumps(content))
    return place


def test_a_class_of_a_leads_job_does_not_come_onto_a_list_without_a_word(provisioned, tmp_path, capsys):
    """What is listed is built, with the arguments that a job gives: here it would be a shell."""
    job, listed = job_folder(tmp_path / "job", "subprocess.Popen"), str(tmp_path / "mine.json")
    assert main(["sites", "allow-list", str(job), "--out", listed]) == 0
    assert "NOT OF WARDROUND" in (said := capsys.readouterr().err)
    assert "subprocess.Popen" in said
    kit = open_kit(shutil.copytree(provisioned / "site-1", tmp_path / "site-1"))
    assert main(["sites", "harden", str(kit.root), "--allow", listed]) == 0
    assert "NOT OF WARDROUND" in capsys.readouterr().err
    main(["preflight", str(kit.root), "--only", "code"])
    assert "wardround does not ship them: subprocess.Popen" in " ".join(capsys.readouterr().out.split())
    assert main(["sites", "harden", str(kit.root)]) == 0
    main(["sites", "allow-list"])
    assert "NOT OF WARDROUND" not in capsys.readouterr().err


@pytest.mark.parametrize("path", ["os.", "subprocess", "nvflare.app_common", "a.B.*"])
def test_a_job_that_names_a_module_is_not_listed(tmp_path, path, capsys):
    assert main(["sites", "allow-list", str(job_folder(tmp_path / "job", path))]) == 2
    said = capsys.readouterr()
    assert "in the place of a class" in said.err
    assert said.out == ""


def test_what_is_no_kit_or_no_list_is_refused(provisioned, tmp_path):
    assert main(["sites", "harden", str(tmp_path)]) == 2
    kit = shutil.copytree(provisioned / "site-1", tmp_path / "site-1")
    (tmp_path / "mine.json").write_text('{"site": ["*"], "server": []}')
    assert main(["sites", "harden", str(kit), "--allow", str(tmp_path / "mine.json")]) == 2
    assert not (kit / "local" / "resources.json").exists()


def test_a_hardened_server_keeps_its_jobs_in_its_own_workspace_for_its_owner_only(provisioned, tmp_path):
    kit = open_kit(shutil.copytree(provisioned / "localhost", tmp_path / "server"))
    for _ in range(2):
        assert main(["sites", "harden", str(kit.root)]) == 0
    text = (kit.local / "resources.json").read_text()
    assert "/tmp/nvflare" not in text  # noqa: S108 - NVFlare's default
    places = [kit.root / "storage" / name for name in ("jobs-storage", "snapshot-storage")]
    assert all(json.dumps(str(place)) in text for place in places)
    assert (kit.root / "storage").stat().st_mode & 0o777 == 0o700
    assert "wardround.flare.rejoin.Rejoin" in text
    assert main(["sites", "harden", str(kit.root), "--storage", str(tmp_path / "disk")]) == 0
    assert str(tmp_path / "disk" / "jobs-storage") in (kit.local / "resources.json").read_text()


def test_a_party_that_chose_its_storage_keeps_it(provisioned, tmp_path):
    kit = open_kit(shutil.copytree(provisioned / "localhost", tmp_path / "server"))
    text = (kit.local / "resources.json.default").read_text()
    (kit.local / "resources.json").write_text(text.replace("/tmp/nvflare", "/srv/fl"))  # noqa: S108
    assert main(["sites", "harden", str(kit.root)]) == 0
    assert '"/srv/fl/jobs-storage"' in (kit.local / "resources.json").read_text()


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_hardening_makes_the_private_folder_beside_the_workspace(provisioned, tmp_path, umask):
    kit = shutil.copytree(provisioned / "site-1", tmp_path / "site-1")
    os.umask(umask)
    assert main(["sites", "harden", str(kit)]) == 0
    assert (tmp_path / "site-1.private").stat().st_mode & 0o777 == 0o700
    (tmp_path / "site-1.private").chmod(0o755)
    assert main(["sites", "harden", str(kit)]) == 0
    assert (tmp_path / "site-1.private").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def fresh(provisioned, tmp_path):
    """A kit as it was delivered, and a folder of cases."""
    write_cohort(tmp_path / "data", hospital(0), seed=0, shape=(24, 24, 24), patients=6)
    return shutil.copytree(provisioned / "site-1", tmp_path / "site-1"), tmp_path / "data"


def test_one_command_sets_a_site_up_and_checks_it(fresh, capsys):
    site, data = fresh
    words = ["sites", "init", str(site), "--data", str(data), "--name", "North", "--budget", "patient=8,1e-5"]
    assert main([*words, "--skip", "round,clock,versions,memory"]) == 0
    page = capsys.readouterr().out
    assert "0 FAIL" in page
    assert "PASS  remote" in page
    assert read_object(site / "local" / "wardround.json") == {"data": str(data), "name": "North"}
    assert read_object(site / "local" / "wardround_state.json") == {"folder": "kept"}
    assert read_object(site / "local" / "wardround_budget.json") == {"patient": {"epsilon": 8, "delta": 1e-5}}
    assert [path.name for path in (site / "local").glob("wardround*") if path.stat().st_mode & 0o077] == []
    assert main([*words, "--skip", "round,clock,versions,memory"]) == 0, "done twice it changes nothing"
    assert "written" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no --data"),
        (["--data", "DATA", "--budget", "patient"], "`--budget patient=8,1e-5`"),
        (["--data", "DATA", "--budget", "ward=8,1e-5"], "`--budget patient=8,1e-5`"),
        (["--data", "DATA", "--budget", "patient=8,2"], "`--budget patient=8,1e-5`"),
        (["--data", "DATA", "--name", "Other"], "another content"),
    ],
)
def test_what_a_set_up_lacks_is_refused_before_anything_is_written(fresh, capsys, words, says):
    site, data = fresh
    if "Other" in words:
        (site / "local" / "wardround.json").write_text(json.dumps({"data": str(data)}))
    assert main(["sites", "init", str(site), *[str(data) if one == "DATA" else one for one in words]]) == 2
    assert says in capsys.readouterr().err
    assert not (site / "local" / "resources.json").exists()


def test_a_server_is_set_up_without_data(provisioned, tmp_path, capsys):
    server = shutil.copytree(provisioned / "localhost", tmp_path / "server")
    assert main(["sites", "init", str(server), "--data", str(tmp_path)]) == 2
    assert main(["sites", "init", str(server), "--skip", "clock,versions,memory"]) == 0
    assert "PASS  storage" in capsys.readouterr().out
