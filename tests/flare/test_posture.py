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


def scope(change):
    """Return a spoiler of the one scope of the file."""

    def spoil(text):
        found = json.loads(text)
        change(found["scopes"][0])
        return json.dumps(found)

    return spoil


SPOILT = {
    "no scopes": lambda text: json.dumps(json.loads(text) | {"scopes": []}),
    "a typing error": lambda text: text.replace('"scopes"', '"scope"'),
    "no replies": scope(lambda one: one.pop("task_result_filters")),
    "no tasks": scope(lambda one: one.pop("task_data_filters")),
    "a typing error in a list": lambda text: text.replace("task_result_filters", "task_results_filters"),
    "an empty list": scope(lambda one: one.update(task_result_filters=[])),
    "both empty": scope(lambda one: one.update(task_result_filters=[], task_data_filters=[])),
    "no rules for replies": scope(lambda one: one["task_result_filters"][0]["args"].update(rules=[])),
    "no rules for tasks": scope(lambda one: one["task_data_filters"][0]["args"].update(rules=[])),
    "disabled": scope(lambda one: one["task_result_filters"][0].update(disabled=True)),
    "the wrong way": scope(lambda one: one["task_result_filters"][0].update(direction="in")),
    "another promise": scope(
        lambda one: one["task_result_filters"][0]["args"]["rules"][0]["promise"].update(noise_multiplier=0.1)
    ),
    "twice": scope(lambda one: one.update(task_data_filters=one["task_data_filters"] * 2)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_file_that_does_not_hold_a_policy_for_tasks_and_replies_alike_is_refused(site, repository, name):
    """NVFlare builds each of them without a word, and some or all of the policy would not run."""
    text = (repository / "poc_workspace" / "privacy_hospital.json").read_text()
    (site / "local" / "privacy.json").write_text(SPOILT[name](text))
    with pytest.raises(ConfigRefused, match=r"local/privacy\.json") as caught:
        scopes(site, "site-1")
    assert "privacy_hospital.json" in caught.value.fix


@pytest.mark.parametrize(
    "spoil", [no_such_class, shared_noise, unknown_rule, other_default, lambda text: text[:-20], lambda text: "[]"]
)
def test_what_cannot_be_built_is_refused(site, repository, spoil):
    text = (repository / "poc_workspace" / "privacy_hospital.json").read_text()
    (site / "local" / "privacy.json").write_text(spoil(text))
    with pytest.raises(ConfigRefused, match=r"local/privacy\.json"):
        scopes(site, "site-1")
