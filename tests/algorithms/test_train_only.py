"""Training some blocks alone: which leave, and that nothing else ever moves, whatever the algorithm does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from wardround.algorithms.base import Algorithm, LocalStart, Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import begin, local_round
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.patient_steps import PatientSteps
from wardround.algorithms.sharing import ROLES, Roles
from wardround.algorithms.train_only import TrainOnly, trained
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.models.nets import UNet3d
from wardround.models.roles import block_roles, shared_layout

NAMES = ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "low.up", "last.weight", "last.bias")
ROLE = dict(zip(NAMES, ("body", "body", "norm", "norm", "adapter", "head", "head"), strict=True))
LAYOUT = Layout(NAMES, ((2,),) * len(NAMES))
AFFINE = {"conv.bias", "norm.weight", "norm.bias", "last.bias"}


class Pull:
    """The gradient of |w - 1|^2 / 2, in every value."""

    def sample(self, count: int) -> tuple[None, ...]:
        return (None,) * count

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        return 0.0, w - 1


def one_round(
    algorithm: Algorithm, sharing: Any, weight_decay: float = 0.0
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    steps = Steps(4, 0.1, momentum=0.5, weight_decay=weight_decay)
    received = {"model": torch.arange(LAYOUT.total, dtype=torch.float32)}
    update, memory, _ = local_round(algorithm, sharing, received, {}, LAYOUT, ROLE, Pull(), steps)
    return {name.removeprefix("model:"): block for name, block in update.items()}, memory


@pytest.mark.parametrize(
    ("train", "leaves"),
    [
        (("affine",), AFFINE),
        (("head",), {"last.weight", "last.bias"}),
        (("adapter",), {"low.up"}),
        (("affine", "head"), {*AFFINE, "last.weight"}),
        (("adapter", "affine"), {*AFFINE, "low.up"}),
        (("affine", "head", "adapter"), {*AFFINE, "low.up", "last.weight"}),
    ],
)
def test_what_is_trained_leaves_and_nothing_else(train: tuple[str, ...], leaves: set[str]) -> None:
    update, memory = one_round(FedAvg(), TrainOnly(train))
    assert set(update) == leaves
    assert all(block.any() for block in update.values())
    assert "home" not in memory


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(0.1)])
def test_blocks_that_are_not_trained_count_for_nothing(algorithm: Algorithm) -> None:
    """Weight decay moves them inside an algorithm; the gradients of the others must not see it."""
    update, _ = one_round(algorithm, TrainOnly(("affine",)), weight_decay=0.5)
    alone = Layout(tuple(sorted(AFFINE)), ((2,),) * 4)
    whole = LAYOUT.unflatten(torch.arange(LAYOUT.total, dtype=torch.float32).numpy())
    received = {"model": torch.from_numpy(alone.flatten({name: whole[name] for name in alone.names}))}
    steps = Steps(4, 0.1, momentum=0.5, weight_decay=0.5)
    expected, _, _ = local_round(algorithm, TrainOnly(("affine",)), received, {}, alone, roles_of(alone), Pull(), steps)
    for name in AFFINE:
        assert update[name] == pytest.approx(expected[f"model:{name}"], abs=1e-6)


def roles_of(layout: Layout) -> dict[str, str]:
    return {name: ROLE[name] for name in layout.names}


def test_a_joint_step_sends_exactly_minus_the_sum() -> None:
    """In whole steps of the grid, whatever the weights are: float32 would round."""

    class Grid:
        def sample(self, count: int) -> tuple[None, ...]:
            return (None,) * count

        def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
            whole = torch.arange(w.numel(), dtype=torch.float64) * 99_991 - 500_000
            return 0.0, whole * 2.0**-14

    received = {"model": torch.logspace(-12, 2, LAYOUT.total) * torch.tensor([1.0, -1.0]).repeat(LAYOUT.total // 2)}
    update, _, _ = local_round(
        PatientSteps(4), TrainOnly(("affine",)), received, {}, LAYOUT, ROLE, Grid(), Steps(30, 0.1)
    )
    whole = LAYOUT.unflatten((-(torch.arange(LAYOUT.total) * 99_991 - 500_000) * 2.0**-14).float().numpy())
    assert {name: block.tolist() for name, block in update.items()} == {
        f"model:{name}": whole[name].tolist() for name in NAMES if name in AFFINE
    }


def test_the_mask_and_the_layout_name_the_same_values() -> None:
    module = UNet3d((4, 8), 1, "instance", 0.0, 0, 0, 2, 1, None).build(0)
    layout, roles = Layout.of({n: p.detach().numpy() for n, p in module.named_parameters()}), block_roles(module)
    sharing = TrainOnly(("affine",))
    mask = trained(sharing, layout, roles)
    assert mask is not None
    shared = shared_layout(module, sharing.home_roles)
    assert int(mask.sum()) == shared.total
    assert {name.rpartition(".")[2] for name in shared.names} <= {"weight", "bias"}
    assert all(roles[name] == "norm" or name.endswith(".bias") for name in shared.names)
    assert trained(Roles(("norm",)), layout, roles) is None


def test_joint_steps_take_no_block_that_the_hospital_kept_for_itself() -> None:
    """Such a block would have moved by the hospital's own sum without noise."""
    start = LocalStart(
        {"model": torch.zeros(LAYOUT.total)}, {"home": torch.zeros(LAYOUT.total)}, LAYOUT, ROLE, None, ("norm",)
    )
    with pytest.raises(ConfigRefused, match="keeps as its own"):
        PatientSteps(4).train(start, SimpleNamespace(), Steps(1, 0.1))


@pytest.mark.parametrize("train", [(), ("norms",), ("affine", "body"), "affin"])
def test_other_words_are_refused(train: Any) -> None:
    with pytest.raises(ConfigRefused, match="the blocks that a job trains"):
        TrainOnly(train)


def test_a_job_begins_and_the_usual_roles_are_unchanged() -> None:
    begin(PatientSteps(2), TrainOnly(("affine",)), Steps(5, 0.1))
    assert set(ROLES) == {"head", "norm", "body", "adapter"}
    with pytest.raises(ConfigRefused, match="patches"):
        PatientSteps(0)
