from __future__ import annotations

import pytest
import torch
from torch import nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.nets import SegResNet3d, UNet3d, require_federable

SPECS = [
    UNet3d(),
    UNet3d((8, 16), residual_units=0, norm="group", dropout=0.1),
    SegResNet3d(filters=4),
    SegResNet3d(filters=8, norm="instance", dropout=0.2),
    UNet3d((8, 16), dropout=0.1, adapter_rank=2),
    SegResNet3d(filters=4, adapter_rank=9),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_three_logits_per_voxel_at_multiples_of_the_divisor(spec):
    size = 2 * spec.divisor
    with torch.inference_mode():
        assert spec.build(0).eval()(torch.zeros(2, 8, size, size, 2 * size)).shape == (2, 3, size, size, 2 * size)


def test_divisors():
    assert [UNet3d((4, 8)).divisor, UNet3d().divisor, UNet3d((4, 8, 8, 8)).divisor] == [2, 4, 8]
    assert SegResNet3d().divisor == 8


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_weights_depend_on_the_seed_only_and_leave_the_global_random_state(spec):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = nn.utils.parameters_to_vector(spec.build(1).parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(first, nn.utils.parameters_to_vector(spec.build(1).parameters()))
    assert not torch.equal(first, nn.utils.parameters_to_vector(spec.build(2).parameters()))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_norm_is_an_affine_group_norm(spec):
    norms = [part for part in spec.build(0).modules() if "Norm" in type(part).__name__]
    assert norms
    for part in norms:
        assert isinstance(part, nn.GroupNorm)
        assert part.affine
        expected = part.num_channels if spec.norm == "instance" else {3: 3, 4: 4}.get(part.num_channels, 8)
        assert part.num_groups == expected


def test_instance_norm_as_one_group_per_channel_gives_the_same_network_as_monai():
    from monai.networks.nets import UNet

    ours = UNet3d((4, 8), residual_units=2).build(0)
    theirs = UNet(3, 8, 3, (4, 8), (2,), num_res_units=2, norm=("instance", {"affine": True}))
    theirs.load_state_dict(ours.state_dict())
    for values in ours.state_dict().values():
        if values.dim() == 1:
            values.add_(0.1 * torch.randn_like(values))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 8, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_activations_stay_channels_last():
    x = torch.randn(2, 8, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    assert UNet3d((4, 8)).build(0)(x).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNet3d(channels=(16,)),
        lambda: UNet3d(channels=(16, 0)),
        lambda: UNet3d(channels=(16, 3.5)),  # type: ignore[arg-type]
        lambda: UNet3d(residual_units=-1),
        lambda: UNet3d(norm="batch"),  # type: ignore[arg-type]
        lambda: UNet3d(dropout=1.0),
        lambda: UNet3d(adapter_rank=-1),
        lambda: UNet3d(adapter_rank=True),
        lambda: UNet3d(adapter_rank=1.0),  # type: ignore[arg-type]
        lambda: UNet3d(adapter_rank=None),  # type: ignore[arg-type]
        lambda: UNet3d(ehr_columns=-1),
        lambda: UNet3d(ehr_columns=True),
        lambda: UNet3d(ehr_columns=None),  # type: ignore[arg-type]
        lambda: SegResNet3d(adapter_rank=-1),
        lambda: SegResNet3d(adapter_rank="1"),  # type: ignore[arg-type]
        lambda: SegResNet3d(filters=0),
        lambda: SegResNet3d(filters=True),
        lambda: SegResNet3d(norm="batch"),  # type: ignore[arg-type]
        lambda: SegResNet3d(dropout=-0.1),
        lambda: SegResNet3d(dropout=float("nan")),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ConfigRefused):
        make()


def test_channels_from_json_are_a_list():
    assert UNet3d(channels=[8, 16]) == UNet3d(channels=(8, 16))  # type: ignore[arg-type]


def with_buffer(values: torch.Tensor) -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_buffer("table", values)
    return module


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)),
        nn.BatchNorm3d(2, affine=False, track_running_stats=False),
        nn.SyncBatchNorm(2),
        nn.InstanceNorm3d(2, track_running_stats=True),
        with_buffer(torch.zeros(2)),
        nn.Linear(2, 2).double(),
    ],
    ids=["batch norm", "batch norm without state", "sync", "running statistics", "float buffer", "float64"],
)
def test_what_cannot_be_federated_is_refused(module):
    with pytest.raises(ModelRefused, match="federated"):
        require_federable(module)


def test_index_tables_and_stateless_norms_are_accepted():
    require_federable(with_buffer(torch.arange(2)))
    require_federable(nn.Sequential(nn.InstanceNorm3d(2, affine=True), nn.GroupNorm(1, 2), nn.LayerNorm(2)))
