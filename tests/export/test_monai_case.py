"""The weights of a bundle, as MONAI's own run of it reads them: from a file that may have been anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wardround.core.errors import ConfigRefused
from wardround.export.monai_case import ready


class Noisy:
    """Unpickling it would write a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(2, 3, 3)


def state(value: float = 0.5) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 2, 3, 3, 3), value), "bias": torch.zeros(3)}


def test_the_parameters_are_those_of_the_file(network: nn.Module, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "model.pt")
    made = ready(network, "none", str(tmp_path / "model.pt"), "cpu")
    assert not made.training
    assert all(torch.equal(block, state()[name]) for name, block in made.named_parameters())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"bias": torch.zeros(4)}, "2 blocks that do not fit the network's 2"),
        ({"more": torch.zeros(1)}, "3 blocks that do not fit"),
        (
            {"bias": torch.tensor([0.0, float("nan"), 0.0])},
            "1 blocks with numbers that are not finite, the first is bias",
        ),
        ({"bias": torch.tensor([1e300, 0.0, 0.0], dtype=torch.float64)}, "not finite"),
        ({"bias": torch.zeros(1).expand(3)}, "announces 3 values, and 1 are there"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, "not readable"),
        ({"bias": [0.0, 0.0, 0.0]}, "not readable"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_the_network_stays(
    network: nn.Module, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    before = [block.clone() for block in network.parameters()]
    torch.save({**state(), **changed}, tmp_path / "model.pt")
    with pytest.raises(ConfigRefused, match=words):
        ready(network, "none", str(tmp_path / "model.pt"), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_nothing_in_the_file_is_run(network: nn.Module, tmp_path: Path) -> None:
    torch.save({**state(), "bias": Noisy(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(ConfigRefused, match="not readable"):
        ready(network, "none", str(tmp_path / "model.pt"), "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_or_missing_file_is_refused(network: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(state(), file)
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"no zip" * 100):
        file.write_bytes(content)
        with pytest.raises(ConfigRefused, match="export the bundle again"):
            ready(network, "none", str(file), "cpu")
    file.unlink()
    with pytest.raises(ConfigRefused, match="FileNotFoundError"):
        ready(network, "none", str(file), "cpu")
