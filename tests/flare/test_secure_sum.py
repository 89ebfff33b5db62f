import stat

import pytest
from hidden_federation import Party, protection, secure_site

from wardround.data.cases import MODALITIES
from wardround.errors import ConfigRefused, RoundRefused
from wardround.flare import places, secure_sum
from wardround.flare.hidden_release import HiddenRelease
from wardround.flare.release import NoNoise
from wardround.flare.sealed import Call
from wardround.flare.secure_sum import ID, SecureSum, secure_sum_of
from wardround.privacy import sum_key
from wardround.privacy.roster import joined
from wardround.privacy.sum_site import SumSite

RUN = "ab" * 16


@pytest.fixture
def site(tmp_path):
    """site(job="simulate_job") -> a party with an empty startup folder"""
    return lambda job=places.SIMULATOR_JOB: Party(tmp_path / "ws" / "site-1", "site-1", job)


@pytest.mark.parametrize("changed", [{"protection": None}, {"seed": None}])
def test_a_promise_that_is_missing_is_refused(changed):
    with pytest.raises(ConfigRefused, match="secure_sum"):
        SecureSum(**{"protection": protection("he"), "seed": 0} | changed)


def test_no_call_no_exit():
    secure = SecureSum(protection("he"), 0)
    with pytest.raises(ConfigRefused, match="no call to answer"):
        _ = secure.call
    call = Call(joined(RUN), 2)
    secure.begin(call)
    assert secure.call is call


def test_in_the_simulator_a_site_gets_its_kit(site):
    party = site()
    opened = SecureSum(protection("ring"), 0).open(party.context())
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
    secure, party = SecureSum(protection("masked"), 0), site()
    assert secure.open(party.context()) is secure.open(party.context())


def test_its_secrets_lie_in_the_state_folder_for_the_owner_alone(site, tmp_path, monkeypatch):
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "state"))
    opened = SecureSum(protection("he"), 0).open(site().context())
    opened.participant.join(RUN)
    folder = tmp_path / "state" / "site-1" / secure_sum.FOLDER
    assert opened.folder == folder
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("mode", ["fixed", "masked"])
def test_without_encryption_no_sum_key_is_needed(site, mode, project):
    party = site("a1b2c3")
    for file in ("client.crt", "client.key", "rootCA.pem"):
        (party.startup / file).write_bytes((project / "site-1/startup" / file).read_bytes())
    opened = SecureSum(protection(mode), 0).open(party.context())
    assert opened.participant.key_id == ""


@pytest.mark.parametrize("file", ["client.crt", "client.key", "rootCA.pem", sum_key.SITE_FILE])
def test_outside_the_simulator_nothing_is_made_up(site, file, project):
    party = site("a1b2c3")
    for path in (project / "site-1/startup").iterdir():
        if path.name != file:
            (party.startup / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigRefused, match=file):
        SecureSum(protection("he"), 0).open(party.context())
    assert not (party.startup / file).exists()
    assert not (party.root.parent / "simulated_kits").exists()


def test_the_kit_of_another_site_is_refused(site, project):
    party = site("a1b2c3")
    for path in (project / "site-2/startup").iterdir():
        (party.startup / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigRefused, match=r"client\.crt"):
        SecureSum(protection("he"), 0).open(party.context())


def test_the_component_is_found_by_its_id_and_type(site):
    party, secure = site(), SecureSum(protection("he"), 0)
    party.engine.components = {ID: secure, "other": object()}
    assert secure_sum_of(party.context()) is secure
    for wrong in ({ID: object(), "other": secure}, {"other": secure}):
        party.engine.components = wrong
        with pytest.raises(ConfigRefused, match=ID):
            secure_sum_of(party.context())


@pytest.mark.parametrize("changed", [{"min_sites": 4}, {"threshold": 9}, {"bits": 9}, {"sites": 15}])
def test_secrets_are_used_under_the_protection_that_they_were_prepared_under(site, changed):
    """A second sum of the same update with other sites would be a second release of it: its secrets are not shared."""
    party = site()
    first = SecureSum(protection("masked"), 0)
    first.open(party.context()).participant.join("ab" * 16)
    again = SecureSum(protection("masked"), 0)
    assert again.open(party.context()).participant.name == party.name
    with pytest.raises(RoundRefused, match="protection"):
        SecureSum(protection("masked", **changed), 0).open(party.context())


def test_no_part_of_a_job_names_a_sum_of_its_own():
    """One sum per job: neither an exit nor an executor can be pointed at another component."""
    with pytest.raises(TypeError, match="secure_id"):
        secure_site(secure_id="another")
    with pytest.raises(TypeError, match="secure_id"):
        HiddenRelease(NoNoise(), MODALITIES, secure_id="another")
