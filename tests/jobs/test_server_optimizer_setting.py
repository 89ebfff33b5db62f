"""What the server does with the mean update, chosen beside the algorithm, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from wardround.algorithms.klmask import KLMask
from wardround.algorithms.server_optimizers import FedAvgM, Mean, MeanOfModels, part_of
from wardround.algorithms.sharing import parts
from wardround.core.errors import ConfigRefused
from wardround.core.traits import require_fit
from wardround.flare.job_settings import require_same
from wardround.jobs import folder, recipes
from wardround.jobs.building import build, require_buildable

OURS = "wardround.algorithms.server_optimizers"


@pytest.mark.parametrize(
    ("name", "settings", "title", "kind"),
    [
        ("brats_fedavgm", [], "FedAvgM", "FedAvgM"),
        ("brats_fedyogi", [], "FedYogi", "FedYogi"),
        ("brats_fedopt", [], "FedOpt (Adam)", "FedAdam"),
        ("brats_mrmtl", [], "MR-MTL", "MeanOfModels"),
        ("brats_fedavg", ["server_optimizer=fedavgm"], "FedAvg, FedAvgM at the server", "FedAvgM"),
        ("brats_fedopt", ["server_optimizer=fedyogi"], "FedAvg, FedYogi at the server", "FedYogi"),
        ("brats_fedopt", ["server_optimizer=mean"], "FedAvg", "Mean"),
        (
            "brats_perfedavg",
            ["server_optimizer=fedavgm", "sharing=norms_at_home"],
            "Per-FedAvg (FO), norm at home, FedAvgM at the server",
            "FedAvgM",
        ),
    ],
)
def test_a_job_names_its_server_optimizer(name: str, settings: list[str], title: str, kind: str) -> None:
    made = recipes.job(name, settings)
    require_buildable(made)
    assert made.title == title
    mode = folder.server_config(made)["workflows"][0]["args"]["mode"]["args"]
    assert mode["server_optimizer"]["path"] == f"{OURS}.{kind}"
    told = folder.about(made)
    assert told.get("server_optimizer_class") == (None if kind == "Mean" else f"{OURS}.{kind}")


def test_its_settings_follow_its_name() -> None:
    made = recipes.job("brats_fedavg", ["server_optimizer.momentum=0.9", "server_optimizer=fedavgm"])
    assert made.server_optimizer["args"] == {"lr": 1.0, "momentum": 0.9}
    with pytest.raises(ConfigRefused, match="no such setting"):
        recipes.job("brats_fedavg", ["server_optimizer=fedavgm", "server_optimizer.beta1=0.9"])


def test_the_card_says_what_the_server_does() -> None:
    def card(name: str, *settings: str) -> str:
        return " ".join(folder.job_files(recipes.job(name, settings))["CARD.md"].split())

    assert "with momentum" in card("brats_fedavgm")
    assert "Hsu et al. 2019" in card("brats_fedavgm")
    assert "with momentum" not in card("brats_fedavg")
    assert "| server | lr 1.0, momentum 0.5 |" in card("brats_fedavg", "server_optimizer=fedavgm")
    assert "the hospital's own model, of which only the change leaves" in card("brats_mrmtl")


@pytest.mark.parametrize("privacy", ["secagg_masks", "secagg_he", "secagg_ring", "fixed_point"])
@pytest.mark.parametrize("name", ["brats_fedavgm", "brats_fedyogi", "brats_mrmtl"])
def test_the_sites_of_a_secure_sum_are_the_server(name: str, privacy: str) -> None:
    made = recipes.job(name, [f"privacy={privacy}"])
    require_buildable(made)
    executor = folder.client_config(made)["executors"][0]["executor"]["args"]
    assert executor["server_optimizer"] == made.server_optimizer


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("brats_fedavg", ["server_optimizer=fedyogy"], "fedyogi"),
        ("brats_klmask", ["server_optimizer=fedavgm"], "hospitals took home"),
        ("brats_fedyogi", ["sharing=klmask"], "hospitals took home"),
        ("brats_mrmtl", ["sharing=klmask"], "no longer the mean"),
        ("brats_mrmtl", ["server_optimizer=fedavgm"], "an error in the shared one stays"),
        ("brats_mrmtl", ["server_optimizer=mean"], "an error in the shared one stays"),
        (
            "brats_mrmtl",
            ["aggregation=median", "federation.min_clients=3"],
            "an error in the shared one stays",
        ),
        (
            "brats_mrmtl",
            ["privacy=dp_adaptive", "fedavg_baseline=false", "sharing=norms_alone"],
            "an error in the shared one stays",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, settings: list[str], words: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        require_buildable(recipes.job(name, settings))
    assert words in " ".join(str(caught.value).split())


def test_a_site_of_a_secure_sum_refuses_it_again(masks: KLMask) -> None:
    trained = parts(build(recipes.job("brats_fedavg").algorithm["site"], "algorithm"), masks, beside=False)
    require_fit([*trained, part_of(Mean(1.0))])
    require_fit([*trained, part_of(MeanOfModels())])
    with pytest.raises(ConfigRefused, match="FedAvgM"):
        require_fit([*trained, part_of(FedAvgM(1.0, 0.5))])


@pytest.fixture
def masks() -> KLMask:
    found: KLMask = build(recipes.job("brats_klmask").sharing, "sharing")
    return found


@pytest.mark.parametrize("privacy", ["plaintext", "secagg_masks"])
def test_a_report_names_the_server_optimizer_that_ran(privacy: str, tmp_path: Path) -> None:
    """FedAdam and FedYogi have the same settings; a config that was edited from one to the other is refused."""
    made = recipes.job("brats_fedyogi", [f"privacy={privacy}"])
    server, client = folder.server_config(made), folder.client_config(made)
    require_same(server, client)
    edited = copy.deepcopy((server, client))
    for config in edited:
        for part in _named(config, "server_optimizer"):
            part["path"] = f"{OURS}.FedAdam"
    with pytest.raises(ConfigRefused, match="server_optimizer_class"):
        require_same(*edited)


def _named(config: object, key: str) -> list[dict[str, object]]:
    if isinstance(config, list):
        return [found for one in config for found in _named(one, key)]
    if not isinstance(config, dict):
        return []
    here = [config[key]] if isinstance(config.get(key), dict) and "path" in config[key] else []
    return here + [found for one in config.values() for found in _named(one, key)]
