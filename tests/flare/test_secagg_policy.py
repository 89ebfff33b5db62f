"""A hospital that insists on secure aggregation: real kits, signatures as NVFlare makes them, and whole secure sums."""

import argparse
import copy
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.workspace import Workspace
from nvflare.lighter.utils import load_private_key_file, sign_folders
from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator
from nvflare.private.fed.client.client_runner import TaskRouter
from nvflare_federation import SECAGG, SITES, first_model, secagg, secagg_site
from outbounds import outbound
from site_policies import hospital_policy, patient_policy, secagg_policy, under

from wardround.compression.chosen import Projections, RandomSlices
from wardround.compression.rand_k import RandK
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.dp.budget import FILE
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.ledger import Ledger
from wardround.flare import curves, plaintext_messages, policy_checks, secagg_calls, secagg_messages, workspaces
from wardround.flare.curves import Curves
from wardround.flare.outbound import ID, Outbound
from wardround.flare.outbound_filter import OutboundFilter
from wardround.flare.signer import is_built_from
from wardround.flare.site_policy import SitePolicy
from wardround.messages.identity import Identity
from wardround.messages.statements import Moment
from wardround.secagg.fixed_point import decode

LEAD, ADMIN, SERVER = "lead@consortium.org", "admin@consortium.org", "localhost"
LEAST = {"masks": True, "encryption": False, "min_clients": 3, "sites": 16, "threshold": 0}
PROMISE = HospitalDP(
    max_update_norm=1.0, noise_multiplier=2.0, sites=256, min_clients=3, colluders=0, distributed=False, bits=16
)
REASONS, RUN = "refusals.txt", "ab" * 16
PRINTED = Path(__file__).parents[2] / "jobs" / "brats_fedavg_secagg" / "app" / "config"


@pytest.fixture(autouse=True)
def _no_log_streaming(monkeypatch):
    monkeypatch.setattr(policy_checks, "is_log_streaming_allowed", lambda fl_ctx: False)


def signer(kits, name):
    """Return (key file, certificate file) of a party."""
    kind = "server" if name == SERVER else "client"
    return kits / name / "startup" / f"{kind}.key", kits / name / "startup" / f"{kind}.crt"


def deploy(kits, site, name, edit=None):
    """Put a signed app where NVFlare deploys it for this site's job."""
    app = site.root / site.job / f"app_{site.name}"
    shutil.copytree(PRINTED, app / "config")
    if name:
        key, certificate = signer(kits, name)
        sign_folders(str(app), load_private_key_file(str(key)), str(certificate))
    if edit is not None:
        edit(app)


def insist(site, policy, executor=None, exits=None):
    """Let the site's policy stand before the executor and before the exit, as NVFlare's client runner does."""
    answer, own = site.executor.execute, site.exit
    first = list(policy) if isinstance(policy, tuple) else [policy]
    router = TaskRouter()
    router.add_executor(list(secagg_messages.TASKS), site.executor if executor is None else executor)
    table = {f"{task}/out": [own] if exits is None else exits for task in secagg_messages.TASKS}
    runner = SimpleNamespace(task_result_filters=table, task_router=router)

    def at(fl_ctx, direction):
        fl_ctx.set_prop(FLContextKey.RUNNER, runner)
        fl_ctx.set_prop(FLContextKey.FILTER_DIRECTION, direction, private=True, sticky=False)
        return under(fl_ctx, *first)

    def passed(message, fl_ctx):
        for one in first:
            message = one.process(message, fl_ctx)
        return message

    def execute(task, message, fl_ctx, signal):
        return answer(task, passed(message, at(fl_ctx, FilterKey.IN)), fl_ctx, signal)

    site.executor.execute = execute
    site.exit = SimpleNamespace(
        process=lambda message, ctx: own.process(passed(message, at(ctx, FilterKey.OUT)), ctx),
        log_error=own.log_error,
    )
    return lambda task, message, direction: passed(message, at(site.context(task), direction))


@pytest.fixture
def consortium(provisioned, tmp_path, federation):
    """consortium(mode, job=, by=lead, names=, policy=, memory=None) -> a federation in which site-1 insists"""

    def make(mode="masked", job="job-1", by=LEAD, names=SITES, memory=None, policy=None, insisting=True, **changed):
        made = federation(mode, names=names, job=job, **changed)
        for site in made.sites.values():
            shutil.rmtree(site.startup)
            shutil.copytree(provisioned / site.name / "startup", site.startup)
        shutil.copytree(provisioned / SERVER / "startup", made.server.startup, dirs_exist_ok=True)
        site = made.sites["site-1"]
        deploy(provisioned, site, by)
        if memory is not None:
            for file in memory.glob("wardround_served.json"):
                shutil.copyfile(file, site.root / "local" / file.name)
        made.policy = insist(site, policy or secagg_policy(**LEAST)) if insisting else None
        return made

    return make


def reasons(site):
    path = workspaces.private_folder(site.context()) / REASONS
    return path.read_text() if path.exists() else ""


def call(task="train"):
    return secagg_calls.call_message(secagg_messages.Call(Moment(RUN, 0, 0), 2))


@pytest.fixture
def asked(consortium, provisioned):
    """asked(by=, edit=, executor=, exits=, protection=, **policy) -> the reason of a refusal before training, "" if it may go on"""

    def ask(by=LEAD, edit=None, executor=None, exits=None, found=None, task="train", **least):
        site = consortium(by=None, insisting=False).sites["site-1"]
        shutil.rmtree(site.root / site.job)
        deploy(provisioned, site, by, edit)
        if found is not None:
            site.engine.components[ID] = found if isinstance(found, Outbound) else outbound(secagg=found)
        policy = insist(site, secagg_policy(**LEAST | least), executor, exits)
        try:
            policy(task, call(task), FilterKey.IN)
        except ReleaseRefused:
            return reasons(site)
        return ""

    return ask


@pytest.mark.parametrize("mode", SECAGG)
def test_a_job_that_is_as_strict_and_signed_by_a_lead_ends_well(consortium, mode):
    made = consortium(mode, policy=fitting(mode)).run()
    assert made.panics == []
    assert [entry["aggregated"] for entry in made.record["rounds"]] == [list(SITES)] * 2
    assert len(set(made.models().values())) == 1
    assert reasons(made.sites["site-1"]) == ""


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (SERVER, "a server or a site"),
        ("site-2", "a server or a site"),
        ("site-1", "a server or a site"),
        (None, "no signature"),
    ],
)
@pytest.mark.parametrize("task", ["join", "train", "finish"])
def test_only_a_lead_signs_jobs(asked, by, words, task):
    assert words in asked(by, task=task)


def test_every_role_that_the_hospital_names_signs_and_no_other(asked):
    assert asked(ADMIN) == asked(LEAD) == ""
    assert f"{ADMIN} (project_admin)" in asked(ADMIN, leads=["lead"])


def change(app):
    (app / "config" / "config_fed_client.json").write_text('{"x": 1}')


def more(app):
    (app / "config" / "more.json").write_text("{}")


def unsigned_part(app):
    (app / "config" / ".__nvfl_sig.json").unlink()


def test_a_file_that_was_changed_after_it_was_signed(asked):
    for edit in (change, more, unsigned_part):
        assert "does not fit the files" in asked(edit=edit)


def test_a_folder_that_somebody_else_signed_too(asked, provisioned):
    def two(app):
        key, certificate = signer(provisioned, "site-2")
        sign_folders(str(app / "config"), load_private_key_file(str(key)), str(certificate))

    assert "site-2" in asked(edit=two)


LOOSER = {
    "no masks": (secagg("fixed"), {}),
    "no masks under encryption": (secagg("he"), {}),
    "no encryption": (secagg("masked"), {"encryption": True}),
    "min_clients 3": (secagg("masked"), {"min_clients": 4}),
    "sites 17": (secagg("masked", sites=17), {}),
    "threshold 9": (secagg("masked", threshold=9), {}),
    "threshold 10": (secagg("masked", threshold=10), {"threshold": 11}),
    "threshold 0": (secagg("masked", min_clients=4), {"min_clients": 4, "threshold": 16}),
}


@pytest.mark.parametrize("name", LOOSER)
def test_a_looser_sum_is_refused_before_training_by_name(asked, name):
    found, least = LOOSER[name]
    assert f"secure aggregation with {name.split(' under')[0]}" in asked(found=found, **least)


@pytest.mark.parametrize("mode", ["masked", "he with masks", "ring"])
def test_a_stricter_sum_is_welcome(asked, mode):
    assert asked(found=secagg(mode, min_clients=5, sites=12)) == ""
    assert asked(found=secagg(mode, threshold=12), threshold=11) == ""


class Other(Executor):
    """An executor of somebody else."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return shareable


def test_an_update_leaves_by_no_other_door(asked, provisioned):
    ours, other, settings = OutboundFilter(), patient_policy(), vars_of(secagg_site())
    for doors in (
        {"found": outbound()},
        {"exits": []},
        {"exits": [other]},
        {"exits": [other, ours]},
        {"exits": [ours, other]},
        {"exits": [type("Derived", (OutboundFilter,), {})()]},
        {"executor": Other()},
        {"executor": type("Derived", (type(secagg_site()),), {})(**settings)},
    ):
        assert "leaves in the open" in asked(**doors)


def vars_of(executor):
    names = (
        "algorithm",
        "sharing",
        "model",
        "schedule",
        "sampling",
        "model_selection",
        "phantoms",
        "seed",
        "server_optimizer",
        "variables",
    )
    return {name: getattr(executor, name) for name in names}


def test_a_reply_is_checked_again_before_it_leaves(consortium, update):
    """What is refused before training is refused at the exit too: filters may be listed for results alone."""
    made = consortium("fixed")
    site, policy = made.sites["site-1"], made.policy
    for message in (
        plaintext_messages.update_message(update({"model:w": np.ones(3, np.float32)})),
        secagg_messages.again_message(0),
    ):
        with pytest.raises(ReleaseRefused):
            policy("train", message, FilterKey.OUT)
    assert site.receipts == []


@pytest.mark.parametrize(
    "wrong", [{"masks": False}, {"leads": []}, {"leads": "lead"}, {"min_clients": 2}, {"sites": 2}]
)
def test_a_policy_that_insists_on_nothing_is_refused(wrong):
    with pytest.raises(ConfigRefused):
        secagg_policy(**LEAST | wrong)


# the same job twice


def fitting(mode):
    """Return what a hospital insists on that wants all that this mode has."""
    return secagg_policy(**LEAST | {"masks": mode != "he", "encryption": mode != "masked"})


def second(consortium, first, **changed):
    made = consortium(job="job-2", memory=first.sites["site-1"].root / "local", **changed)
    return made.run()


@pytest.mark.parametrize("mode", SECAGG)
def test_the_same_job_with_other_hospitals_is_refused_by_the_machine(consortium, mode):
    """The difference of the two sums would be site-4's update."""
    first = consortium(mode, policy=fitting(mode)).run()
    assert first.panics == []
    made = second(consortium, first, mode=mode, policy=fitting(mode), names=SITES[:3])
    site = made.sites["site-1"]
    assert "another run of the same settings" in reasons(site)
    assert {row["task"] for row in site.receipts} == {"join"}


def test_the_same_job_with_the_same_hospitals_runs_again(consortium):
    first = consortium().run()
    made = second(consortium, first)
    assert made.panics == []
    assert made.models() == first.models()


def test_the_same_job_opened_without_a_hospital_that_was_in_it_is_refused(consortium):
    """All are asked; the answer of one is dropped, so that it is not in the second sum."""
    first = consortium().run()
    again = consortium(job="job-2", memory=first.sites["site-1"].root / "local")
    again.run(meddle=lambda task, name, call, reply: None if (task, name) == ("train", "site-4") else reply)
    assert "site-1, site-2, site-3 are in the sum" in reasons(again.sites["site-1"])
    assert "unmask" not in [row["task"] for row in again.sites["site-1"].receipts]


def test_the_same_update_under_other_settings_is_refused(consortium):
    """Other fine-tuning afterwards makes other settings, and changes nothing in what is summed."""
    first = consortium().run()
    made = consortium(job="job-2", names=SITES[:3], memory=first.sites["site-1"].root / "local")
    for site in made.sites.values():
        work = site.executor.trainer.work
        work.model_selection = dataclasses.replace(work.model_selection, lr=0.02)
    made.run()
    site = made.sites["site-1"]
    assert "in which site-1, site-2, site-3 were asked" in reasons(site)
    assert "train" not in [row["task"] for row in site.receipts]


@pytest.mark.parametrize("name", [SERVER, LEAD])
def test_the_server_and_administrators_are_no_hospitals(consortium, provisioned, name):
    """A server that joins under its own certificate would count as one of min_clients."""
    made = consortium(names=SITES[:3])
    key, certificate = signer(provisioned, name)
    stranger = made.sites["site-3"].secure.open(made.sites["site-3"].context()).agreement
    stranger.identity = Identity(name, certificate.read_bytes(), load_private_key_file(str(key)))
    call_ = secagg_messages.Call(Moment(RUN, -1, 0), 2)
    joins = [made.sites[one].answer("join", secagg_calls.call_message(call_)) for one in SITES[:2]]
    victim = made.sites["site-1"]
    stranger.job = victim.secure.open(victim.context()).agreement.job
    said = [secagg_messages.read_reply(one, "join").statement for one in joins] + [stranger.join(RUN)]
    victim.answer("prepare", secagg_calls.call_message(secagg_messages.Call(Moment(RUN, 0, 0), 2, tuple(said))))
    assert "the server or an administrator, which is no hospital" in reasons(victim)
    assert "prepare" not in [row["task"] for row in victim.receipts]


@pytest.mark.parametrize(
    "spoil", ["", "[]", '{"format": "another"}', '{"format": "wardround served 1", "settings": 7}']
)
def test_a_memory_that_cannot_be_read_stops_everything(consortium, spoil, tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "wardround_served.json").write_text(spoil)
    made = consortium(memory=tmp_path / "memory").run()
    assert "memory of sums" in reasons(made.sites["site-1"])
    assert made.sites["site-1"].hospital.trained == []


def test_a_run_that_goes_on_from_kept_state_is_the_same_run(consortium, monkeypatch, tmp_path):
    """Documented: it may go on with those that are left, in the rounds that were not opened."""
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "kept"))
    monkeypatch.setattr(workspaces, "job_name", lambda fl_ctx: "one")
    first = consortium()
    first.run(meddle=lambda task, name, call, reply: None if (task, call.moment.round) == ("train", 1) else reply)
    assert first.panics
    made = second(consortium, first, names=SITES[:3])
    assert reasons(made.sites["site-1"]) == ""
    assert [entry["aggregated"] for entry in made.record["rounds"]][1:] == [list(SITES[:3])]


def test_what_is_remembered_names_no_patient(consortium):
    made = consortium().run()
    said = json.loads((made.sites["site-1"].root / "local" / "wardround_served.json").read_text())
    ((_, rounds),) = said["settings"].items()
    assert {key for one in rounds.values() for key in one} == {"run", "roster", "opened", "update"}


def test_two_filters_of_one_scope_are_refused(consortium):
    """Their rules would stand in an order that one filter refuses."""
    made = consortium(policy=(SitePolicy([{"rule": "patient"}]), secagg_policy(**LEAST)))
    site = made.sites["site-1"]
    with pytest.raises(ReleaseRefused):
        site.answer("join", secagg_calls.call_message(secagg_messages.Call(Moment(RUN, -1, 0), 2)))
    assert "2 SitePolicy in task_data_filters" in reasons(site)


def test_two_rules_in_one_scope_have_both_their_say(consortium):
    def insisting(*rules):
        return SitePolicy([{"rule": "secagg", **LEAST}, *rules])

    made = consortium(policy=insisting({"rule": "patient"}))
    site = made.sites["site-1"]
    site.engine.components[curves.ID] = Curves()
    with pytest.raises(ReleaseRefused):
        site.answer("join", secagg_calls.call_message(secagg_messages.Call(Moment(RUN, -1, 0), 2)))
    assert "patient-level" in reasons(site)
    own_noise = {"rule": "hospital", "promise": dataclasses.asdict(PROMISE), "delta": 1e-5}
    noised = consortium(policy=insisting(own_noise))
    site = noised.sites["site-1"]
    site.engine.components[curves.ID] = Curves()
    (site.root / "local" / FILE).write_text(json.dumps({"hospital": {"epsilon": 20, "delta": 1e-5}}))
    noised.run()
    assert noised.panics == []
    assert len(Ledger(site.root / "local").state().accounts["job-1"].spent["policy"]) == 2
    assert (site.root / "local" / "wardround_served.json").is_file()


@pytest.mark.parametrize("chosen", [RandomSlices(2, 0), Projections(1, 0)], ids=lambda one: one.name)
def test_a_compression_that_sends_a_part_later_is_refused(consortium, chosen):
    """What waits at the site would leave in the next round with sites that the update was never compared for."""
    made = consortium(compression=chosen)
    made.run()
    assert f"compression {chosen.name}" in reasons(made.sites["site-1"])
    assert "--set compression=none" in reasons(made.sites["site-1"])
    assert [line for line in made.sites["site-1"].receipts if line["task"] == "train"] == []


def test_what_was_owed_before_a_scope_came_does_not_leave_under_it(consortium):
    """The site owes half of its first update when the hospital installs the scope `hospital`, with a tiny clip."""
    slices, clip = RandomSlices(2, 0), 1e-4
    promise = dataclasses.replace(PROMISE, max_update_norm=clip, noise_multiplier=1.0, sites=16)
    made = consortium(insisting=False, weights="equal", reference_patients=1, bits=16, compression=slices)
    site, installed = made.sites["site-1"], []

    def before(task, name, call):
        if (task, name, call.moment.round) == ("train", "site-1", 1) and not installed:
            installed.append(True)
            site.restart()
            site.engine.components[curves.ID] = Curves()
            (site.root / "local" / FILE).write_text(json.dumps({"hospital": {"epsilon": 50, "delta": 1e-5}}))
            insist(site, hospital_policy(promise, 1e-5))

    made.run(before=before)
    assert reasons(site) == ""
    assert [entry["aggregated"] for entry in made.record["rounds"]] == [list(SITES)] * 2
    stage = RandK(2, 0, Layout.of(first_model()))
    owed = ~np.isin(stage.places(1), stage.places(0))
    client = site.secure.open(site.context("train"))
    grid = client.grid(1)
    left = (decode(grid, client.fields(1).astype(np.int64))[0] * grid.steps())[owed]
    assert len(left) > 1000
    # All that left is clip and noise: the update of the first round is a hundred times as long.
    assert np.linalg.norm(left) < clip + 1.2 * clip * np.sqrt(len(left))


def loaded(folder, job, repository):
    """Return (what NVFlare's own loader has made of a printed job, its signed text)."""
    app = folder / "job-1" / "app_site-1"
    shutil.copytree(repository / "jobs" / job / "app", app)
    for name in ("startup", "local"):
        (folder / name).mkdir()
    words = argparse.Namespace(
        set=[], sp_scheme="tcp", sp_target="x:1", client_name="site-1", job_id="job-1", workspace=str(folder)
    )
    file = app / "config" / "config_fed_client.json"
    made = ClientJsonConfigurator(Workspace(str(folder), "site-1"), str(file), words, str(app), ["secure_train=True"])
    made.configure()
    return made, json.loads(file.read_text())


JOBS = (
    "brats_fedavg_secagg",
    "brats_fedavg_he",
    "brats_perfedavg_ring",
    "brats_perfedavg_he",
    "brats_dp_adaptive",
    "tumour_type_mmpfl_adp",
)


@pytest.mark.parametrize("job", JOBS)
def test_what_is_signed_is_what_nvflare_has_loaded(repository, tmp_path, job):
    """And any single value that differs is seen, wherever it stands."""
    made, signed = loaded(tmp_path, job, repository)
    assert is_built_from(made.config_data, signed)
    for change in changes(signed):
        other = copy.deepcopy(signed)
        change(other)
        assert not is_built_from(made.config_data, other)


def changes(content, at=()):
    """Yield a function for every value in a JSON that changes just this one."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        if isinstance(value, (dict, list)):
            yield from changes(value, (*at, key))
        else:
            yield lambda root, at=(*at, key): put(root, at)


def put(root, at):
    for key in at[:-1]:
        root = root[key]
    value = root[at[-1]]
    root[at[-1]] = (
        not value if isinstance(value, bool) else value + 1 if isinstance(value, (int, float)) else f"{value}x"
    )


def test_an_app_that_was_deployed_after_another_one_was_loaded(consortium, repository, tmp_path):
    """A server has its own run, and lays a lead's over it before anybody looks."""
    made = consortium(insisting=False)
    site = made.sites["site-1"]
    running, _ = loaded(tmp_path / "other", "brats_fedavg_he", repository)
    policy = insist(site, secagg_policy(**LEAST))
    site.engine.conf = running
    with pytest.raises(ReleaseRefused):
        policy("train", call(), FilterKey.IN)
    assert "not the one that runs" in reasons(site)
