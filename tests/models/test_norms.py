import pytest
import torch
from torch import nn

from wardround.models.norms import with_group_norms


@pytest.mark.parametrize(
    ("norm", "width", "groups"), [("instance", 6, 6), ("group", 6, 6), ("group", 12, 6), ("group", 3, 3)]
)
def test_groups_scale_and_shift(norm: str, width: int, groups: int) -> None:
    norm_ = nn.InstanceNorm3d(width, affine=True, eps=1e-3)
    nn.init.normal_(norm_.weight)
    net = with_group_norms(nn.Sequential(nn.Sequential(norm_)), norm)  # type: ignore[arg-type]
    made = net[0][0]  # type: ignore[index]
    assert isinstance(made, nn.GroupNorm)
    assert (made.num_groups, made.eps) == (groups, 1e-3)
    assert torch.equal(made.weight, norm_.weight)


def test_instance_is_the_same_function() -> None:
    x, norm = torch.randn(2, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0)), nn.InstanceNorm3d(4, affine=True)
    torch.testing.assert_close(with_group_norms(nn.Sequential(norm), "instance")(x), norm(x))


def test_a_network_without_them_is_left_alone() -> None:
    net = nn.Sequential(nn.GroupNorm(2, 4), nn.Conv3d(4, 1, 1))
    assert [type(part) for part in with_group_norms(net, "instance")] == [nn.GroupNorm, nn.Conv3d]  # type: ignore[attr-defined]
