"""A report that would say more, less or something else than what the two configs of a job build is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.flare.job_settings import require_same
from wardround.jobs import folder, recipes

Json = dict[str, Any]
Edit = Callable[[Json, Json], object]
WEIGHTS = {"shipped": "randomised_phantoms", "sha256": "0" * 64}
MEAN = "mean_of_last_third"


def controller(server: Json) -> Json:
    found: Json = server["workflows"][0]["args"]
    return found


def about(server: Json) -> Json:
    found: Json = controller(server)["about"]
    return found


def mode(server: Json) -> Json:
    found: Json = controller(server)["mode"]["args"]
    return found


def executor(client: Json) -> Json:
    found: Json = client["executors"][0]["executor"]["args"]
    return found


def outbound(client: Json) -> Json:
    found: Json = next(one["args"] for one in client["components"] if one["id"] == "outbound")
    return found


def promise(client: Json) -> Json:
    found: Json = outbound(client)["privacy"]["args"]["promise"]["args"]
    return found


def configs(name: str, *settings: str) -> tuple[Json, Json]:
    made = recipes.job(name, settings)
    return copy.deepcopy(folder.server_config(made)), copy.deepcopy(folder.client_config(made))


def at_both(server: Json, client: Json, **changed: Any) -> None:
    """Change the noise in the promise and in what the report says of it, not its epsilon."""
    promise(client).update(changed)
    about(server)["dp"].update(changed)


def decoy(server: Json, _: Json) -> None:
    """What is true stands first, where nobody prints it, and the report lies."""
    server["workflows"][0] = {"about": copy.deepcopy(about(server)), **server["workflows"][0]}
    about(server).update(lr=99.0)


def mean_at_the_sites(server: Json, client: Json) -> None:
    about(server)["final_model"] = executor(client)["schedule"]["args"]["final_model"] = MEAN
    mode(server).pop("final_model")


def mean_in_the_report(server: Json, client: Json) -> None:
    about(server)["final_model"] = MEAN
    executor(client)["schedule"]["args"].pop("final_model")
    mode(server).pop("final_model", None)


def warm_sites(server: Json, client: Json) -> None:
    """The sites and the report begin from weights that the server never sends."""
    executor(client)["model"]["args"]["weights"] = WEIGHTS
    about(server)["model"]["weights"] = "shipped randomised_phantoms, sha256 " + "0" * 64


EDITS: dict[str, tuple[str, Edit, str]] = {
    # The report says of a part what the job has not.
    "a secure sum": ("brats_fedavg", lambda s, c: about(s).update(secagg={"masks": True}), "secagg"),
    "noise": ("brats_fedavg", lambda s, c: about(s).update(dp={"noise_multiplier": 2.0}), "promises none"),
    "a compression": ("brats_fedavg", lambda s, c: about(s).update(compression={"class": "x"}), "compression"),
    "a scaling": ("brats_fedavg", lambda s, c: about(s).update(scaling={"start": [1.0]}), "scaling"),
    "a title": ("brats_fedavg", lambda s, c: about(s).update(privacy="homomorphic encryption"), "privacy"),
    "first weights": ("brats_fedavg", lambda s, c: about(s).update({"first weights": "good ones"}), "first weights"),
    "a setting of nothing": ("brats_fedavg", lambda s, c: about(s).update(note="certified"), "note"),
    "no name": ("brats_fedavg", lambda s, c: about(s).pop("job"), "no job"),
    "min_clients": ("brats_fedavg", lambda s, c: about(s).update(min_clients=4), "min_clients"),
    # There is not exactly one report, among the controller's arguments.
    "no report": ("brats_fedavg", lambda s, c: controller(s).pop("about"), "no times"),
    "a list": ("brats_fedavg", lambda s, c: controller(s).update(about=[about(s)]), "not those of the controller"),
    "a decoy": ("brats_fedavg", decoy, "2 times"),
    # The claim is not that of the promise.
    "another epsilon": ("brats_dp_adaptive", lambda s, c: about(s)["dp"].update(epsilon=0.01), "epsilon"),
    "an old epsilon": ("brats_dp_adaptive", lambda s, c: at_both(s, c, noise_multiplier=0.05), "epsilon"),
    "an old epsilon of patients": ("brats_dp_patient", lambda s, c: at_both(s, c, noise_multiplier=0.6), "epsilon"),
    "an epsilon of other trust": (
        "brats_dp_joint",
        lambda s, c: about(s)["dp"].update(epsilon_one_without_noise=8.0),
        "epsilon_one_without_noise",
    ),
    "less noise of all": ("brats_dp_joint", lambda s, c: at_both(s, c, noise_multiplier=0.6), "epsilon"),
    "other blocks at home": (
        "brats_dp_joint",
        lambda s, c: s["workflows"][0]["args"]["mode"]["args"].update(home_roles=["body"]),
        "home_roles",
    ),
    "a target": ("brats_dp_adaptive", lambda s, c: about(s)["dp"].update(target_epsilon=1.0), "target_epsilon"),
    "no noise told": ("brats_dp_adaptive", lambda s, c: about(s)["dp"].pop("noise_multiplier"), "noise_multiplier"),
    "no claim told": ("brats_dp_adaptive", lambda s, c: about(s).pop("dp"), "dp"),
    "more rounds": ("brats_dp_adaptive", lambda s, c: outbound(c)["privacy"]["args"].update(num_rounds=99), "epsilon"),
    "a delta": ("brats_dp_adaptive", lambda s, c: outbound(c)["privacy"]["args"].update(delta=0.1), "delta"),
    "a stage of others": ("brats_dp_adaptive", lambda s, c: outbound(c)["privacy"].update(path="my.Noise"), "my.Noise"),
    # The halves are of two jobs.
    "the mean at the sites": ("brats_fedavg", mean_at_the_sites, "final_model"),
    "the mean in the report": ("brats_fedavg", mean_in_the_report, "final_model"),
    "the mean in a secure sum": ("brats_fedavg_he", mean_in_the_report, "final_model"),
    "warm sites": ("brats_fedavg", warm_sites, "model"),
    "a network": ("brats_fedavg", lambda s, c: mode(s)["model"]["args"].update(channels=[8, 16]), "model"),
    "a class of network": ("brats_fedavg", lambda s, c: mode(s)["model"].update(path="my.Net"), "model"),
    "a seed": ("brats_fedavg", lambda s, c: mode(s).update(seed=5), "seed"),
    "roles at home": ("brats_fedavg", lambda s, c: mode(s).update(home_roles=["head"]), "home_roles"),
    "fewer hospitals": ("brats_fedavg", lambda s, c: mode(s).update(min_clients=1), "min_clients"),
    "no inputs": ("brats_fedavg", lambda s, c: mode(s).update(inputs=None), "inputs"),
    "rounds": ("brats_fedavg", lambda s, c: controller(s).update(num_rounds=5), "num_rounds"),
    "variables": ("brats_fedavg_he", lambda s, c: executor(c).update(variables=["model", "control"]), "variables"),
    "bits": ("brats_fedavg_he", lambda s, c: outbound(c)["secagg"]["args"].update(bits=16), "secagg"),
    "no sum": ("brats_fedavg_he", lambda s, c: outbound(c).update(secagg="none"), "secagg"),
    "too few": ("brats_fedavg_he", lambda s, c: mode(s)["secagg"]["args"].update(min_clients=1), "secagg"),
}


@pytest.mark.parametrize("edit", EDITS, ids=list(EDITS))
def test_one_half_or_one_word_that_was_edited_is_refused(edit: str) -> None:
    job, change, words = EDITS[edit]
    server, client = configs(job)
    require_same(server, client)
    change(server, client)
    with pytest.raises(ConfigRefused) as caught:
        require_same(server, client)
    assert words in str(caught.value)
    assert caught.value.fix.startswith("do not edit") or "jobs write" in caught.value.fix


def test_a_list_of_names_elsewhere_does_not_stand_for_the_one_that_is_read() -> None:
    server, client = configs("brats_fedavg")
    outbound(client)["allowed_names"].append("Mueller")
    server["elsewhere"] = {"allowed_names": ["Mueller"]}
    with pytest.raises(ConfigRefused, match="allowed_names"):
        require_same(server, client)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("brats_fedavg", ["model.weights=randomised_phantoms", f"final_model={MEAN}", "schedule=long"]),
        ("brats_fedavg", ["aggregation=median", "federation.min_clients=3", "compression=quantise"]),
        ("brats_fedavg", ["sharing=klmask", "work_by_patients=proportional", "server_optimizer=fedyogi"]),
        ("brats_fedavg", ["privacy=secagg_he", "secagg.masks=true", "validation=own_patients"]),
        ("brats_fedavg", ["privacy=fixed_point", "secagg.masks=true", "compression=low_rank"]),
        ("brats_dp_adaptive", ["dp.noise_multiplier=2.5", "num_rounds=5"]),
    ],
)
def test_what_is_printed_with_settings_is_what_is_computed(name: str, settings: list[str]) -> None:
    require_same(*configs(name, *settings))


def test_numbers_of_another_form_and_another_accountants_last_digit_are_no_difference() -> None:
    server, client = configs("brats_dp_adaptive")
    mode(server)["model"]["args"]["channels"] = [16.0, 32.0, 64.0]
    executor(client)["schedule"]["args"]["work"] = 40.0
    about(server)["dp"]["epsilon"] += 0.0001
    require_same(server, client)
    executor(client)["schedule"]["args"]["nesterov"] = 1
    with pytest.raises(ConfigRefused, match="nesterov"):
        require_same(server, client)
