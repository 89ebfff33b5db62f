import json
import shutil

import pytest
from nvflare.fuel.hci.cmd_arg_utils import validate_text_file_name

from wardround.core.errors import ConfigRefused
from wardround.flare.kit import open_kit, read_object, readable_by_others, write_changed
from wardround.secagg import encryption_key


def test_a_sites_kit_and_a_servers(provisioned):
    site, server = open_kit(provisioned / "site-2"), open_kit(provisioned / "localhost" / "startup")
    assert (site.role, server.role) == ("site", "server")
    assert (
        (site.identity, site.host, site.port)
        == (server.identity, server.host, server.port)
        == ("localhost",) * 2 + (8002,)
    )
    assert [path.name for path in site.secrets()] == ["client.key", "wardround_sum_key.key"]
    assert [path.name for path in server.secrets()] == ["server.key"]
    assert site.certificate.is_file()
    assert server.key.is_file()


def test_an_admins_kit_or_any_folder_is_none(provisioned, tmp_path):
    for folder in (provisioned / "admin@consortium.org", tmp_path):
        with pytest.raises(ConfigRefused, match="neither of the two"):
            open_kit(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"servers": []}', '{"servers": [{"service": {"target": "no port"}}]}']
)
def test_a_kit_without_an_address_is_refused(tmp_path, text):
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text(text)
    with pytest.raises(ConfigRefused):
        open_kit(tmp_path)


def test_a_partys_own_file_goes_before_the_signed_default(provisioned, tmp_path):
    kit = open_kit(shutil.copytree(provisioned / "site-1", tmp_path / "site-1"))
    default = kit.own("resources.json")
    before = default.read_bytes()
    assert default.name == "resources.json.default"
    assert write_changed(kit.local / "resources.json", lambda found: found | {"mine": 1})
    assert kit.own("resources.json").name == "resources.json"
    assert default.read_bytes() == before
    assert not write_changed(kit.local / "resources.json", lambda found: found | {"mine": 1})
    assert write_changed(kit.local / "resources.json", lambda found: found | {"more": 2})
    found = read_object(kit.local / "resources.json")
    assert (found["mine"], found["more"]) == (1, 2)
    assert (
        found.items()
        >= {key: value for key, value in json.loads(before).items() if key not in ("mine", "more")}.items()
    )


@pytest.mark.parametrize(
    ("mode", "open_"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True), (0o601, True)]
)
def test_modes(tmp_path, mode, open_):
    file = tmp_path / "key"
    file.touch()
    file.chmod(mode)
    assert readable_by_others(file) is open_


def test_no_secret_of_a_kit_has_a_name_that_nvflares_console_shows(provisioned):
    """`cat`, `head`, `tail` and `grep` of the console take certain endings only."""
    secrets = open_kit(provisioned / "site-1").secrets()
    assert len(secrets) == 2
    assert [path.name for path in secrets if not validate_text_file_name(str(path.name))] == []


def test_the_folder_with_the_roots_private_key_is_closed_to_others(provisioned):
    state = provisioned.parent / "state"
    assert (state / "cert.json").is_file()
    assert not readable_by_others(state)


def test_a_key_under_the_first_releases_name_is_refused_with_what_to_do(provisioned, tmp_path):
    kit = open_kit(shutil.copytree(provisioned / "site-1", tmp_path / "site-1"))
    (kit.startup / encryption_key.SITE_FILE).rename(kit.startup / "wardround_sum_key.json")
    with pytest.raises(ConfigRefused, match="provision again"):
        encryption_key.read_site(kit.startup)
