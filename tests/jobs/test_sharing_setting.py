"""What a job shares, chosen beside its algorithm: combinations by name, by class, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.jobs import folder, recipes
from wardround.jobs.building import require_buildable

ROLES = "wardround.algorithms.sharing.Roles"


def trainer(made: recipes.Job) -> recipes.Json:
    found: recipes.Json = folder.client_config(made)["executors"][0]["executor"]["args"]
    return found


@pytest.mark.parametrize(
    ("name", "settings", "title", "home"),
    [
        ("brats_fedbn", [], "FedBN", ["norm"]),
        ("brats_fedrep", [], "FedRep", ["head"]),
        ("brats_dp_adaptive", [], "FedSim", ["head", "body", "adapter"]),
        ("brats_klmask", [], "KL masks", []),
        ("brats_perfedavg", ["sharing=norms_at_home"], "Per-FedAvg (FO), norm at home", ["norm"]),
        ("brats_fedprox", ["sharing=klmask"], "FedProx, KL masks", []),
        ("brats_scaffold", ["sharing=head_at_home"], "SCAFFOLD, head at home", ["head"]),
        ("brats_fedbn", ["sharing=everything"], "FedAvg", []),
        ("brats_fedbn", ["sharing.home=[head]"], "FedAvg, head at home", ["head"]),
        ("brats_klmask", ["sharing.choose=random"], "FedAvg, KL masks (random)", []),
        (
            "brats_ditto",
            [f"sharing.path={ROLES}", "sharing.home=[norm]"],
            "Ditto, norm at home",
            ["norm"],
        ),
    ],
)
def test_a_job_is_an_algorithm_and_what_it_shares(name: str, settings: list[str], title: str, home: list[str]) -> None:
    made = recipes.job(name, settings)
    require_buildable(made)
    assert made.title == title
    server = folder.server_config(made)["workflows"][0]["args"]
    assert server.get("mode", {"args": server})["args"]["home_roles"] == home
    assert server["about"]["sharing_class"] == trainer(made)["sharing"]["path"] == made.sharing["path"]


def test_the_card_says_what_stays_from_the_very_value() -> None:
    def card(name: str, *settings: str) -> str:
        return " ".join(folder.job_files(recipes.job(name, settings))["CARD.md"].split())

    stays = "what stays of the model at the hospital:"
    assert f"{stays} nothing, all of it is shared" in card("brats_fedavg")
    assert f"{stays} the normalisation layers" in card("brats_fedbn")
    assert f"{stays} the last block of the network (the head)" in card("brats_fedbn", "sharing.home=[head]")
    assert "The normalisation layers never leave" not in card("brats_fedbn", "sharing.home=[head]")
    assert "at most 30% of the parameters (the report names them" in card("brats_klmask")
    assert "at most 20% of the parameters" in card("brats_klmask", "sharing.most=0.2")
    assert f"{stays} the normalisation layers; the hospital's own personal model" in card(
        "brats_ditto", "sharing=norms_at_home"
    )
    assert "| sharing | home [norm] |" in card("brats_fedbn")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("brats_scaffold", ["sharing=klmask"], "has taken home"),
        ("brats_fedrep", ["sharing=everything"], "keeps nothing at home"),
        ("brats_fedrep", ["sharing=klmask"], "keeps nothing at home"),
        ("brats_fedavg", ["sharing=adapters_alone"], "adapter_rank"),
        ("brats_dp_patient", ["sharing=klmask"], "without noise"),
        ("brats_fedavg_secagg", ["sharing=klmask", "fedavg_baseline=true"], "FedAvg beside it"),
    ],
)
def test_what_is_not_sound_is_refused_when_it_is_printed(name: str, settings: list[str], words: str) -> None:
    with pytest.raises(ConfigRefused, match=words):
        require_buildable(recipes.job(name, settings))


def test_an_unknown_way_to_share_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigRefused, match="did you mean norms_at_home"):
        recipes.job("brats_fedavg", ["sharing=norm_at_home"])


def test_the_sharing_of_a_job_is_listed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "settings", "brats_fedbn"]) == 0
    page = capsys.readouterr().out
    assert "sharing.path = wardround.algorithms.sharing.Roles" in page
    assert "sharing.home = [norm]" in page
    assert main(["jobs", "write", "brats_fedprox", "--set", "sharing=norms_at_home", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "brats_fedprox/app/config/config_fed_client.json").read_text())
    assert config["executors"][0]["executor"]["args"]["sharing"]["args"] == {"home": ["norm"]}
