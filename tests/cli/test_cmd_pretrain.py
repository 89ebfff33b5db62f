"""`wardround pretrain`: a file and its label, a run that stops and continues, and which blocks a network takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wardround.cli.main import main
from wardround.models.weights_file import digest_of
from wardround.research import pretrain

NETWORK = ("--set", "model.channels=[4,8]", "--set", "sampling.patch=[16,16,16]")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "POOL", 4)
    monkeypatch.setattr(pretrain, "PATCHES", ((16, 16, 16),))


def test_a_file_with_its_label_and_the_blocks_that_a_job_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.safetensors"
    command = ["pretrain", "--out", str(out), "--steps", "2", "--seed", "4", "--held-out", "1", *NETWORK]
    assert main(command) == 0
    said = capsys.readouterr()
    assert digest_of(out) in said.out
    assert f"model.weights={out}" in said.out
    assert json.loads(out.with_suffix(".json").read_text())["command"] == "wardround pretrain --steps 2 --seed 4"
    # A second run would throw the first away: it says so, and continues one that is asked to.
    assert main(command) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    capsys.readouterr()
    assert main(["pretrain", "--show", str(out), *NETWORK, "--set", "model.adapter_rank=2"]) == 0
    shown = capsys.readouterr().out
    assert "taken" in shown
    assert "drawn from the seed" in shown
    assert main(["pretrain", "--show", str(out)]) == 2
    assert "weights of the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [("w.pt", "`--out {place}/w.safetensors`"), ("w", "ending"), ("no/w.safetensors", "`mkdir -p {place}/no`")],
)
def test_a_name_under_which_nothing_would_be_found_is_refused(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--out", str(tmp_path / name), "--steps", "1", *NETWORK]) == 2
    assert words.format(place=tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_run_that_is_stopped_says_that_there_is_no_file_yet(
    by_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.safetensors"

    def train(spec: Any, plan: Any, progress: Any, state: Path, *rest: Any) -> bool:
        if by_hand:
            raise KeyboardInterrupt
        state.touch()
        return False

    monkeypatch.setattr(pretrain, "train", train)
    assert main(["pretrain", "--out", str(out), "--steps", "1", *NETWORK]) == (130 if by_hand else 1)
    said = capsys.readouterr().err
    assert f"there is no {out} yet" in said
    assert ("begin again" if by_hand else f"continue with --resume ({tmp_path / 'w.state.npz'})") in said


def test_without_a_state_nothing_is_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--out", str(tmp_path / "w.safetensors"), "--resume", *NETWORK]) == 2
    assert "leave --resume out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_reads_no_volumes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--out", str(tmp_path / "w"), "--job", "tumour_type_fedavg"]) == 2
    assert "phantoms have masks" in capsys.readouterr().err
