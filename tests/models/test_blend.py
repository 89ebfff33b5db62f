"""A blend is the mean of probabilities, whatever the size of the logits, and one network like any other."""

import copy
import json

import numpy as np
import pytest
import torch

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.blend import Blend, Blended, mixed_classes, mixed_regions
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.nets import UNet3d
from wardround.models.norms import with_group_norms
from wardround.models.specs import describe, rebuild, rebuild_classifier, require_size
from wardround.models.vit import ViTFusion

SPEC = UNet3d((4, 8))
VIT = ViTFusion("vit_tiny_patch16_224", 2, (4, 32, 32), 3, 2, "shared", depth=2, fusion_depth=1)


def test_regions_have_the_mean_probability() -> None:
    one, other, third = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(n)) * 3 for n in range(3))
    for shares in ((0.25, 0.75), (0.5, 0.3, 0.2)):
        logits = [one, other, third][: len(shares)]
        wanted = sum(share * torch.sigmoid(x.double()) for share, x in zip(shares, logits, strict=True))
        torch.testing.assert_close(torch.sigmoid(mixed_regions(logits, shares)).double(), wanted, rtol=1e-5, atol=1e-6)


def test_classes_have_the_mean_probability() -> None:
    one, other = (torch.randn(5, 3, generator=torch.Generator().manual_seed(n)) * 4 for n in range(2))
    wanted = 0.25 * torch.softmax(one.double(), 1) + 0.75 * torch.softmax(other.double(), 1)
    found = torch.softmax(mixed_classes([one, other], (0.25, 0.75)).double(), 1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_large_logits_stay_finite_and_by_hand() -> None:
    """One member is sure that a voxel is inside, one that it is outside: the larger share decides."""
    sure, against = torch.tensor([300.0, -300.0]), torch.tensor([-300.0, -300.0])
    found = mixed_regions([sure, against], (0.75, 0.25))
    assert found[0] == pytest.approx(np.log(0.75 / 0.25), rel=1e-5)
    assert found[1] == pytest.approx(-300.0, rel=1e-5)


@pytest.mark.parametrize(
    "shares", [(1.0, 0.0), (0.5,), (0.5, 0.6), (0.5, 0.25, 0.25), (-0.5, 1.5), (True, False), ("a", "b")]
)
def test_other_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigRefused, match="shares of a blend"):
        mixed_regions([torch.zeros(2), torch.zeros(2)], shares)


def test_outputs_of_different_shapes_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="outputs of shapes"):
        mixed_regions([torch.zeros(3, 4), torch.zeros(3, 5)], (0.5, 0.5))
    with pytest.raises(ConfigRefused, match="outputs of shapes"):
        mixed_classes([torch.zeros(3, 4), torch.zeros(1, 4)], (0.5, 0.5))


def test_the_network_is_the_mean_of_its_members() -> None:
    made = Blend(SPEC, 0.25).build(0)
    with torch.no_grad():
        for block in made.shared.parameters():
            block.add_(0.1)
    images = torch.randn(2, 8, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        parts = [torch.sigmoid(member.eval()(images)) for member in made.members]
        found = torch.sigmoid(made.eval()(images))
    torch.testing.assert_close(found, 0.25 * parts[0] + 0.75 * parts[1], rtol=1e-4, atol=1e-5)
    layout = FlatModel(made).layout
    assert layout.total == 2 * FlatModel(SPEC.build(0)).layout.total
    assert {name.partition(".")[0] for name in layout.names} == {"own", "shared"}


def test_share_members_and_outputs_are_in_the_fingerprint() -> None:
    found = [
        fingerprint(spec)
        for spec in (
            SPEC,
            Blend(SPEC, 0.25),
            Blend(SPEC, 0.5),
            Blend(SPEC, 0.25, exclusive=True),
            Blend(UNet3d((4, 12)), 0.25),
        )
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(copy.deepcopy(Blend(SPEC, 0.25))) == found[1]


def test_norms_inside_are_replaced_as_in_a_single_network() -> None:
    import monai.networks.nets

    plain = UNet3d((4, 8))
    theirs = Blended(*(monai.networks.nets.UNet(**plain.monai_args) for _ in range(2)), 0.5)
    assert fingerprint(with_group_norms(theirs, "instance")) == fingerprint(Blend(plain, 0.5))


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, "0.5", None, True])
def test_a_share_that_is_none_is_refused(share: object) -> None:
    with pytest.raises(ConfigRefused):
        Blend(SPEC, share)  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    for spec, read in ((Blend(SPEC, 0.25), rebuild), (Blend(VIT, 0.75, exclusive=True), rebuild_classifier)):
        assert read(json.loads(json.dumps(describe(spec))), "m.npz") == spec
    assert Blend(UNet3d((4, 8, 8)), 0.5).divisor == 4


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"network": describe(SPEC)},
        {"network": describe(SPEC), "share": 1.0, "exclusive": False},
        {"network": describe(SPEC), "share": "0.5", "exclusive": False},
        {"network": describe(SPEC), "share": 0.5, "exclusive": True},
        {"network": describe(Blend(SPEC, 0.5)), "share": 0.5, "exclusive": False},
        {"network": {"path": "os.system", "args": {"command": "true"}}, "share": 0.5, "exclusive": False},
        {"network": describe(VIT), "share": 0.5, "exclusive": False},
        {"network": 4, "share": 0.5, "exclusive": False},
    ],
)
def test_other_blends_in_a_file_are_refused(args: dict[str, object]) -> None:
    with pytest.raises(ModelRefused, match=r"m\.npz"):
        rebuild({"path": "Blend", "args": args}, "m.npz")


def test_weights_of_one_member_are_no_blend() -> None:
    arrays = {name: block.detach().numpy() for name, block in SPEC.build(0).named_parameters()}
    with pytest.raises(ModelRefused, match="another architecture"):
        require_size(Blend(SPEC, 0.5), arrays, "m.npz")
