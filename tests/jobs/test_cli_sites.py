import json
import shutil

import pytest

from wardround.hospital.kit import open_kit, read_object
from wardround.jobs.cli import main
from wardround.privacy.kit_keys import changed_since_signed


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
    }
    permissions = read_object(kit.local / "authorization.json")["permissions"]
    assert {rights["byoc"] for rights in permissions.values()} == {"none"}
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


def test_what_is_no_kit_or_no_list_is_refused(provisioned, tmp_path):
    assert main(["sites", "harden", str(tmp_path)]) == 2
    kit = shutil.copytree(provisioned / "site-1", tmp_path / "site-1")
    (tmp_path / "mine.json").write_text('{"site": ["*"], "server": []}')
    assert main(["sites", "harden", str(kit), "--allow", str(tmp_path / "mine.json")]) == 2
    assert not (kit / "local" / "resources.json").exists()
