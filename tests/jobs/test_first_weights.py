"""`model.weights` in a job: a name becomes a promise, every party starts from it, and none is the recipe's own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from wardround.cli.main import main
from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.jobs import recipes
from wardround.jobs.building import build, require_buildable
from wardround.jobs.folder import about, client_config, job_files, server_config
from wardround.models import shipped
from wardround.models.flat import first_weights
from wardround.models.nets import UNet3d
from wardround.models.warm_start import words_about
from wardround.training.global_model import initial_arrays

NETWORK = ["model.channels=[4,8]", "model.residual_units=0"]
SPEC = UNet3d(channels=(4, 8), residual_units=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of shipped files, with one of a small network in it."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    blocks = {name: block.detach() for name, block in SPEC.build(1).named_parameters()}
    (tmp_path / "small.safetensors").write_bytes(save(blocks, metadata=words_about(SPEC)))
    label = '{"what": "Made of sand.", "command": "dig", "held_out_dice": {"dice_mean": 0.5}}'
    (tmp_path / "small.json").write_text(label)
    return tmp_path


def models_of(config: Any) -> list[Any]:
    """Return the settings of every network below a config."""
    if isinstance(config, dict):
        own = [config["args"]] if str(config.get("path")).startswith("wardround.models.") else []
        return own + [one for key, value in config.items() if key != "about" for one in models_of(value)]
    return [one for value in config for one in models_of(value)] if isinstance(config, list) else []


@pytest.mark.parametrize("privacy", ["plaintext", "secagg_masks", "dp_adaptive"])
def test_a_shipped_name_is_promised_by_its_digest_to_every_party(folder: Path, privacy: str) -> None:
    job = recipes.job("brats_fedavg", [*NETWORK, f"privacy={privacy}", "model.weights=small"])
    promise = {"shipped": "small", "sha256": hashlib.sha256((folder / "small.safetensors").read_bytes()).hexdigest()}
    found = models_of(client_config(job)) + models_of(server_config(job))
    assert found
    assert all(args["weights"] == promise for args in found)
    # Every party builds the network from its own config: all begin with the same numbers, and they are the file's.
    specs = [UNet3d(**args) for args in found]
    digests = {digest(initial_arrays(spec, job.task["seed"])) for spec in specs}
    assert digests == {digest(initial_arrays(SPEC, 1))}
    # The local baseline, too.
    assert all(first_weights(spec, seed).equal(first_weights(SPEC, 1)) for spec in specs for seed in (0, 5))


def test_a_site_whose_file_is_another_is_refused(folder: Path) -> None:
    job = recipes.job("brats_fedavg", [*NETWORK, "model.weights=small"])
    spec = build(job.task["model"], "model")
    (folder / "small.safetensors").write_bytes(b"another")
    with pytest.raises(ModelRefused, match=rf"(?s)another SHA-256.*{spec.weights['sha256']}") as caught:
        spec.build(0)
    assert hashlib.sha256(b"another").hexdigest() not in str(caught.value), "a job could ask for any file's digest"


def test_a_path_is_promised_by_its_digest(folder: Path) -> None:
    file = folder / "small.safetensors"
    job = recipes.job("brats_fedavg", [*NETWORK, f"model.weights={file}"])
    assert job.task["model"]["args"]["weights"] == {
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    given = f"model.weights={{file: {file}, sha256: {'ab' * 32}}}"
    assert recipes.job("brats_fedavg", [given]).task["model"]["args"]["weights"]["sha256"] == "ab" * 32


def test_a_path_from_this_folder_is_promised_as_an_absolute_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    job = recipes.job("brats_fedavg", [*NETWORK, "model.weights=./small.safetensors"])
    assert job.task["model"]["args"]["weights"]["file"] == str(folder / "small.safetensors")
    require_buildable(job)
    with pytest.raises(ConfigRefused, match=r"`--set model\.weights=\./small\.safetensors`"):
        recipes.job("brats_fedavg", [*NETWORK, "model.weights=small.safetensors"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.weights={{file: {file}, sha256: {other}}}"], "(?s)another SHA-256.*abab"),
        (["model.weights={{shipped: small, sha256: {other}}}"], "another SHA-256"),
        (["model.weights={file}", "model.channels=[4,16]"], "weights of the network"),
        (["model.weights=small", "model.norm=group"], "weights of the network"),
        (["model.weights={file}", "model.in_channels=3"], "3 input and"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_when_the_job_is_printed(
    folder: Path, settings: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"file": folder / "small.safetensors", "other": "ab" * 32}
    flags = [word for one in [*NETWORK, *settings] for word in ("--set", one.format(**values))]
    assert main(["jobs", "write", "brats_fedavg", *flags, "--out", str(tmp_path / "out")]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_on_this_machine_is_left_to_those_who_have_it(folder: Path) -> None:
    given = f"model.weights={{file: {folder}/elsewhere.safetensors, sha256: {'ab' * 32}}}"
    require_buildable(recipes.job("brats_fedavg", [*NETWORK, given]))


def test_a_network_of_monai_takes_them_beside_its_arguments(folder: Path) -> None:
    job = recipes.job(
        "brats_fedavg",
        ["model.path=monai.networks.nets.SegResNet", "model.args.init_filters=8", "model.weights=small"],
    )
    args = job.task["model"]["args"]
    assert args["weights"]["shipped"] == "small"
    assert "weights" not in args["args"]
    with pytest.raises(ModelRefused, match="weights of the network"):
        build(job.task["model"], "model").build(0)


@pytest.mark.parametrize("word", ["none", "null"])
def test_none_draws_them(word: str) -> None:
    job = recipes.job("brats_fedavg", [f"model.weights={word}"])
    assert job.task["model"]["args"]["weights"] is None


def test_weights_of_the_recipe_are_left_out_where_a_person_changes_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragment = recipes.fragments.fragment

    def with_weights(kind: str, name: str) -> Any:
        found = fragment(kind, name)
        if kind == "task":
            found["model"]["args"]["weights"] = "small"
        return found

    monkeypatch.setattr(recipes.fragments, "fragment", with_weights)
    assert recipes.job("brats_fedavg").task["model"]["args"]["weights"]["shipped"] == "small"
    assert recipes.job("brats_fedavg", ["model.dropout=0.1"]).task["model"]["args"]["weights"]["shipped"] == "small"
    assert recipes.job("brats_fedavg", ["model.channels=[8,16]"]).task["model"]["args"]["weights"] is None
    assert recipes.job("brats_fedavg", ["model.weights=none"]).task["model"]["args"]["weights"] is None
    path = "model.path=wardround.models.nets.SegResNet3d"
    assert "weights" not in recipes.job("brats_fedavg", [path]).task["model"]["args"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("smal", "did you mean small"),
        ("gone", r"(?s)'gone'.*expected: small"),
        ("../secret", r"(?s)'\.\./secret'.*expected: small"),
        ("/no/such/file", "No such file"),
        ("3", "no name and no path"),
    ],
)
def test_what_is_no_file_is_refused_when_the_job_is_made(folder: Path, value: str, words: str) -> None:
    with pytest.raises(ConfigRefused, match=words):
        recipes.job("brats_fedavg", [f"model.weights={value}"])


def test_card_and_report_say_what_the_weights_are(folder: Path) -> None:
    job = recipes.job("brats_fedavg", [*NETWORK, "model.weights=small"])
    card = job_files(job)["CARD.md"]
    words = " ".join(card.split())
    assert "Training begins from the weights of small (SHA-256 " in words
    assert "Made of sand. Made by `dig`; mean Dice on held-out phantoms 0.50." in words
    assert "Training begins" not in job_files(recipes.job("brats_fedavg"))["CARD.md"]
    # The report prints every setting of `about`.
    assert "Made of sand." in about(job)["first weights"]
    assert "first weights" not in about(recipes.job("brats_fedavg"))
