import stat

import pytest
from hidden_federation import Party, protection
from outbounds import outbound

from wardround.errors import ConfigRefused, RoundRefused
from wardround.flare import places, secagg_session
from wardround.flare.outbound import ID, outbound_of
from wardround.flare.sealed import Call
from wardround.flare.secagg_session import SecAggSession
from wardround.privacy import sum_key
from wardround.privacy.roster import joined
from wardround.privacy.sum_site import SumSite

RUN = "ab" * 16


@pytest.fixture
def site(tmp_path):
    """site(job="simulate_job") -> a party with an empty startup folder"""
    return lambda job=places.SIMULATOR_JOB: Party(tmp_path / "ws" / "site-1", "site-1", job)


def test_no_call_no_exit():
    secure = SecAggSession(protection("he"), None)
    with pytest.raises(ConfigRefused, match="no call to answer"):
        _ = secure.call
    call = Call(joined(RUN), 2)
    secure.begin(call, "settings", 7)
    assert (secure.call, secure.settings, secure.seed) == (call, "settings", 7)


def test_in_the_simulator_a_site_gets_its_kit(site):
    party = site()
    opened = SecAggSession(protection("ring"), None).open(party.context())
    assert isinstance(opened, SumSite)
    assert opened.participant.name == "site-1"
    assert {path.name for path in party.startup.iterdir()} == {
        "client.crt",
        "client.key",
        "rootCA.pem",
        sum_key.SITE_FILE,
    }
    assert opened.participant.key_id == sum_key.key_id(sum_key.read_site(party.startup))
    assert (party.root.parent / "simulated_kits").is_dir()


def test_it_is_opened_once(site):
    secure, party = SecAggSession(protection("masked"), None), site()
    assert secure.open(party.context()) is secure.open(party.context())


def test_its_secrets_lie_in_the_state_folder_for_the_owner_alone(site, tmp_path, monkeypatch):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    opened = SecAggSession(protection("he"), None).open(site().context())
    opened.participant.join(RUN)
    folder = tmp_path / "state" / "site-1" / secagg_session.FOLDER
    assert opened.folder == folder
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("mode", ["fixed", "masked"])
def test_without_encryption_no_sum_key_is_needed(site, mode, project):
    party = site("a1b2c3")
    for file in ("client.crt", "client.key", "rootCA.pem"):
        (party.startup / file).write_bytes((project / "site-1/startup" / file).read_bytes())
    opened = SecAggSession(protection(mode), None).open(party.context())
    assert opened.participant.key_id == ""


@pytest.mark.parametrize("file", ["client.crt", "client.key", "rootCA.pem", sum_key.SITE_FILE])
def test_outside_the_simulator_nothing_is_made_up(site, file, project):
    party = site("a1b2c3")
    for path in (project / "site-1/startup").iterdir():
        if path.name != file:
            (party.startup / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigRefused, match=file):
        SecAggSession(protection("he"), None).open(party.context())
    assert not (party.startup / file).exists()
    assert not (party.root.parent / "simulated_kits").exists()


def test_the_kit_of_another_site_is_refused(site, project):
    party = site("a1b2c3")
    for path in (project / "site-2/startup").iterdir():
        (party.startup / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigRefused, match=r"client\.crt"):
        SecAggSession(protection("he"), None).open(party.context())


def test_the_component_is_found_by_its_id_and_type(site):
    """No job names another: two sums of one update, each with sites and noise of its own, would be two releases."""
    party, promised = site(), outbound(protection=protection("he"))
    party.engine.components = {ID: promised, "other": object()}
    assert outbound_of(party.context()) is promised
    derived = type("Derived", (type(promised),), {})("none", "none", "none", [])
    for wrong in ({ID: object(), "other": promised}, {"other": promised}, {ID: derived}):
        party.engine.components = wrong
        with pytest.raises(ConfigRefused, match=ID):
            outbound_of(party.context())


@pytest.mark.parametrize("changed", [{"min_sites": 4}, {"threshold": 9}, {"bits": 9}, {"sites": 15}])
def test_secrets_are_used_under_the_protection_that_they_were_prepared_under(site, changed):
    """A second sum of the same update with other sites would be a second release of it: its secrets are not shared."""
    party = site()
    first = SecAggSession(protection("masked"), None)
    first.open(party.context()).participant.join("ab" * 16)
    again = SecAggSession(protection("masked"), None)
    assert again.open(party.context()).participant.name == party.name
    with pytest.raises(RoundRefused, match="protection"):
        SecAggSession(protection("masked", **changed), None).open(party.context())
