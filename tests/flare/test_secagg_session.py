import stat

import pytest
from nvflare_federation import Party, secagg
from outbounds import outbound

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.flare import secagg_session, workspaces
from wardround.flare.outbound import ID, outbound_of
from wardround.flare.secagg_messages import Call
from wardround.flare.secagg_session import SecAggSession
from wardround.secagg import encryption_key
from wardround.secagg.client import SecAggClient
from wardround.secagg.roster import joined

RUN = "ab" * 16


@pytest.fixture
def site(tmp_path):
    """site(job="simulate_job") -> a party with an empty startup folder"""
    return lambda job=workspaces.SIMULATOR_JOB: Party(tmp_path / "ws" / "site-1", "site-1", job)


def test_no_call_no_exit():
    secure = SecAggSession(secagg("he"), None)
    with pytest.raises(ConfigRefused, match="no call to answer"):
        _ = secure.call
    call = Call(joined(RUN), 2)
    secure.begin(call, "settings", 7)
    assert (secure.call, secure.settings, secure.seed) == (call, "settings", 7)


def test_in_the_simulator_a_site_gets_its_kit(site):
    party = site()
    opened = SecAggSession(secagg("ring"), None).open(party.context())
    assert isinstance(opened, SecAggClient)
    assert opened.agreement.name == "site-1"
    assert {path.name for path in party.startup.iterdir()} == {
        "client.crt",
        "client.key",
        "rootCA.pem",
        encryption_key.SITE_FILE,
    }
    assert opened.agreement.key_id == encryption_key.key_id(encryption_key.read_site(party.startup))
    assert (party.root.parent / "simulated_kits").is_dir()


def test_it_is_opened_once(site):
    secure, party = SecAggSession(secagg("masked"), None), site()
    assert secure.open(party.context()) is secure.open(party.context())


def test_its_secrets_lie_in_the_state_folder_for_the_owner_alone(site, tmp_path, monkeypatch):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    opened = SecAggSession(secagg("he"), None).open(site().context())
    opened.agreement.join(RUN)
    folder = tmp_path / "state" / "site-1" / secagg_session.FOLDER
    assert opened.folder == folder
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("mode", ["fixed", "masked"])
def test_without_encryption_no_sum_key_is_needed(site, mode, project):
    party = site("a1b2c3")
    for file in ("client.crt", "client.key", "rootCA.pem"):
        (party.startup / file).write_bytes((project / "site-1/startup" / file).read_bytes())
    opened = SecAggSession(secagg(mode), None).open(party.context())
    assert opened.agreement.key_id == ""


@pytest.mark.parametrize("file", ["client.crt", "client.key", "rootCA.pem", encryption_key.SITE_FILE])
def test_outside_the_simulator_nothing_is_made_up(site, file, project):
    party = site("a1b2c3")
    for path in (project / "site-1/startup").iterdir():
        if path.name != file:
            (party.startup / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigRefused, match=file):
        SecAggSession(secagg("he"), None).open(party.context())
    assert not (party.startup / file).exists()
    assert not (party.root.parent / "simulated_kits").exists()


def test_the_kit_of_another_site_is_refused(site, project):
    party = site("a1b2c3")
    for path in (project / "site-2/startup").iterdir():
        (party.startup / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigRefused, match=r"client\.crt"):
        SecAggSession(secagg("he"), None).open(party.context())


def test_the_component_is_found_by_its_id_and_type(site):
    """No job names another: two sums of one update, each with sites and noise of its own, would be two releases."""
    party, promised = site(), outbound(secagg=secagg("he"))
    party.engine.components = {ID: promised, "other": object()}
    assert outbound_of(party.context()) is promised
    derived = type("Derived", (type(promised),), {})("none", "none", "none", [])
    for wrong in ({ID: object(), "other": promised}, {"other": promised}, {ID: derived}):
        party.engine.components = wrong
        with pytest.raises(ConfigRefused, match=ID):
            outbound_of(party.context())


@pytest.mark.parametrize("changed", [{"min_clients": 4}, {"threshold": 9}, {"bits": 9}, {"sites": 15}])
def test_secrets_are_used_under_the_protection_that_they_were_prepared_under(site, changed):
    """A second sum of the same update with other sites would be a second release of it: its secrets are not shared."""
    party = site()
    first = SecAggSession(secagg("masked"), None)
    first.open(party.context()).agreement.join("ab" * 16)
    again = SecAggSession(secagg("masked"), None)
    assert again.open(party.context()).agreement.name == party.name
    with pytest.raises(RoundRefused, match="protection"):
        SecAggSession(secagg("masked", **changed), None).open(party.context())
