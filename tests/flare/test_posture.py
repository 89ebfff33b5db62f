import json
import shutil

import pytest

from wardround.core.errors import ConfigRefused
from wardround.flare.posture import may_bring_code, scopes


def policy(**roles):
    return {"format_version": "1.0", "permissions": roles}


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        ({"lead": {"byoc": "any"}, "member": {"view": "any"}}, ["lead"]),
        ({"lead": {"byoc": "none"}, "admin": "any"}, ["admin"]),
        ({"lead": {"byoc": "o:site"}}, ["lead"]),
        ({"lead": {"byoc": "n:submitter"}}, ["lead"]),
        ({"lead": {"byoc": ["none", "n:lead@consortium.org"]}, "member": {"Byoc": "o:hospital"}}, ["lead", "member"]),
        ({"lead": {"byoc": "none"}, "admin": {"submit_job": "any"}}, []),
    ],
)
def test_who_may_bring_code(roles, found):
    assert may_bring_code(policy(**roles)) == found


@pytest.mark.parametrize("wrong", [{}, {"format_version": "1.0"}, policy(lead=7), policy(lead={"byoc": "perhaps"})])
def test_a_policy_that_nvflare_cannot_read(wrong):
    with pytest.raises(ConfigRefused, match=r"authorization\.json"):
        may_bring_code(wrong)


@pytest.fixture
def site(provisioned, tmp_path):
    return shutil.copytree(provisioned / "site-1", tmp_path / "site-1")


def test_scopes_as_nvflare_builds_them(site, repository):
    assert scopes(site, "site-1") == (None, [])
    for name, default, names in (
        ("privacy.json", "open", ["hospital", "open", "patient"]),
        ("privacy_hospital.json", "hospital", ["hospital"]),
        ("privacy_patient.json", "patient", ["patient"]),
        ("privacy_secagg.json", "secagg", ["secagg"]),
    ):
        shutil.copyfile(repository / "poc_workspace" / name, site / "local" / "privacy.json")
        assert scopes(site, "site-1") == (default, names)


def no_such_class(text):
    return text.replace("SitePolicy", "NoSuchPolicy")


def shared_noise(text):
    return text.replace('"distributed": false', '"distributed": true')


def unknown_rule(text):
    return text.replace('"rule": "hospital"', '"rule": "nobody"')


def other_default(text):
    return json.dumps(json.loads(text) | {"default_scope": "nobody"})


@pytest.mark.parametrize("spoil", [no_such_class, shared_noise, unknown_rule, other_default, lambda text: text[:-20]])
def test_what_cannot_be_built_is_refused(site, repository, spoil):
    text = (repository / "poc_workspace" / "privacy_hospital.json").read_text()
    (site / "local" / "privacy.json").write_text(spoil(text))
    with pytest.raises(ConfigRefused, match=r"local/privacy\.json"):
        scopes(site, "site-1")
