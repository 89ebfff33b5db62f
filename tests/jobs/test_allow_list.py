import json

import pytest
import yaml
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.sec.authz import AuthorizationService
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.security.security import COMMAND_CATEGORIES, FLAuthorizer

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.flare.posture import may_bring_code
from wardround.jobs import allow_list, fragments, recipes
from wardround.jobs.job_classes import NETWORKS, PHANTOMS, classes

LISTED = allow_list.allow_list()
FILE = "poc_workspace/local/class_allow_list.json"


def in_jobs(repository, side):
    """Every class path in the checked-in configs of one side, read as JSON and walked here once more."""
    found = set()

    def walk(value):
        if isinstance(value, dict):
            if "path" in value and value.get("config_type") != "dict":
                found.add(value["path"])
            for part in value.values():
                walk(part)
        for part in value if isinstance(value, list) else ():
            walk(part)

    for path in (repository / "jobs").glob(f"*/app/config/config_fed_{side}.json"):
        walk(json.loads(path.read_text()))
    return found


@pytest.mark.parametrize(("party", "side"), [("site", "client"), ("server", "server")])
def test_the_checked_in_list_is_exactly_what_the_jobs_name(repository, party, side):
    """And what `--set` names for any job: networks, phantoms, compressions, server optimizers; or what one side builds alone."""
    listed = json.loads((repository / FILE).read_text())
    assert set(listed) == {"site", "server"}
    page = fragments.table()
    chosen = {*NETWORKS, *classes(page["compressions"]), *classes(page["server_optimizers"])}
    at_sites = {*PHANTOMS, *classes(page["validations"]), *classes(page["work_by_patients"])}
    only = set(classes(page["aggregations"])) if party == "server" else at_sites
    chosen |= only
    assert listed[party] == sorted(chosen | in_jobs(repository, side))


def test_what_app_configs_can_name_is_on_the_list(repository):
    listed = LISTED
    named = set()

    def walk(value):
        if isinstance(value, dict):
            named.update([value["path"]] if isinstance(value.get("path"), str) and "." in value["path"] else [])
            for part in value.values():
                walk(part)
        for part in value if isinstance(value, list) else ():
            walk(part)

    for path in (repository / "app_configs").rglob("*.yaml"):
        walk(yaml.safe_load(path.read_text()))
    assert len(named) > 20
    assert named <= {*listed["site"], *listed["server"]}


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize(("party", "side"), [("site", "client"), ("server", "server")])
def test_nvflare_lets_every_job_pass_and_refuses_it_when_one_line_is_gone(repository, tmp_path, name, party, side):
    """NVFlare's own authorizer over each component of the printed config, with the resources that we write."""
    config = json.loads((repository / "jobs" / name / f"app/config/config_fed_{side}.json").read_text())
    needed, listed = sorted(set(allow_list.classes(config))), LISTED[party]

    def refused(lines):
        resources = tmp_path / "resources.json"
        resources.write_text(json.dumps(allow_list.resources({}, party, lines)))
        policy = ComponentPathAuthorizer()
        policy._get_resources_file_path = lambda fl_ctx=None, workspace=None: str(resources)
        wrong = []
        for path in needed:
            try:
                policy.authorize_component_config({"path": path, "args": {}})
            except UnsafeComponentError:
                wrong.append(path)
        return wrong

    assert refused(listed) == []
    assert refused([line for line in listed if line != needed[-1]]) == [needed[-1]]


def test_one_job_needs_less():
    few, many = allow_list.allow_list([recipes.job("brats_klmask")]), LISTED
    assert all(set(few[side]) < set(many[side]) for side in ("site", "server"))


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"site": []}',
        '{"site": ["*"], "server": []}',
        '{"site": ["wardround."], "server": []}',
        '{"site": ["wardround"], "server": []}',
        '{"site": ["wardround.flare"], "server": []}',
        '{"site": ["os.system"], "server": []}',
        '{"site": ["a.B."], "server": []}',
        '{"site": [1], "server": []}',
        '{"site": "a.B", "server": []}',
        '{"site": [" a.B"], "server": []}',
    ],
)
def test_a_list_names_whole_classes_or_is_refused(tmp_path, text):
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(ConfigRefused, match="allow-list"):
        allow_list.read(file)


def test_a_list_is_read_as_it_was_printed(tmp_path, capsys):
    assert main(["sites", "allow-list", "--out", str(tmp_path / "list.json")]) == 0
    assert allow_list.read(tmp_path / "list.json") == LISTED
    capsys.readouterr()
    assert main(["sites", "allow-list", "brats_fedavg_he"]) == 0
    assert "wardround.flare.executor.SiteExecutor" in json.loads(capsys.readouterr().out)["site"]


DEFAULT = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": "any",
        "lead": {"submit_job": "any", "byoc": "any", "operate": "o:site"},
        "member": {"view": "any"},
    },
}


def test_no_role_may_bring_code_by_nvflares_own_reading_and_every_other_right_stays():
    assert may_bring_code(DEFAULT) == ["lead", "project_admin"]
    made = allow_list.authorization(DEFAULT)
    assert may_bring_code(made) == []
    assert made["permissions"]["lead"] == DEFAULT["permissions"]["lead"] | dict.fromkeys(allow_list.FORBIDDEN, "none")
    assert {right for right, who in made["permissions"]["project_admin"].items() if who == "any"} == set(
        allow_list.RIGHTS
    ) - set(allow_list.FORBIDDEN)
    assert allow_list.authorization(made) == made


def test_a_policy_without_permissions_is_refused():
    with pytest.raises(ConfigRefused, match="no `permissions`"):
        allow_list.authorization({"format_version": "1.0"})


@pytest.mark.parametrize("role", ["project_admin", "lead", "member"])
@pytest.mark.parametrize(("code", "answer"), [(True, (False, "BYOC not permitted")), (False, (True, ""))])
def test_a_hardened_party_answers_a_job_with_code_as_the_documentation_says(monkeypatch, role, code, answer):
    """What sites and the server ask NVFlare when a job is deployed."""
    made = FLAuthorizer("hospital", allow_list.authorization(DEFAULT))
    monkeypatch.setattr(AuthorizationService, "the_authorizer", made)
    info = {"byoc": True} if code else {}
    assert AppAuthzService.authorize_app_info(info, "somebody", "consortium", role, {}) == answer


def test_every_category_of_nvflare_is_written_out_for_a_role_that_had_all():
    assert set(COMMAND_CATEGORIES.values()) <= set(allow_list.RIGHTS)


def test_resources_keep_what_the_party_had():
    found = {"components": [1], "class_allow_list": ["old.One"], "allow_log_streaming": True}
    made = allow_list.resources(found, "site", ["a.B"])
    assert made == {
        "components": [1],
        "class_allow_list": ["a.B"],
        "allow_log_streaming": False,
        "class_list_enforcement_mode": "enforce",
        "app_validator": {"path": "wardround.flare.plain_jobs.PlainJobs", "args": {}},
    }
    assert allow_list.resources(found, "server", ["a.B"])["allow_log_streaming"] is True


def test_no_listed_class_lets_a_job_choose_the_name_of_an_event(tmp_path):
    """An event passes no filter, so a free name for it is a way out for what a site knows."""
    resources = tmp_path / "resources.json"
    resources.write_text(json.dumps(allow_list.resources({}, "site", LISTED["site"])))
    policy = ComponentPathAuthorizer()
    policy._get_resources_file_path = lambda fl_ctx=None, workspace=None: str(resources)
    words = "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent"
    with pytest.raises(UnsafeComponentError, match="ConvertToFedEvent"):
        policy.authorize_component_config(
            {"path": words, "args": {"events_to_convert": ["x"], "fed_event_prefix": "y"}}
        )
