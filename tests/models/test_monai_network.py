"""Networks of MONAI by name and arguments: what is built, what is refused, what a weights file and a bundle make of them."""

from __future__ import annotations

import json

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.monai_form import monai_config
from wardround.models.monai_network import MonaiNetwork
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.network_fit import require_fit, require_private
from wardround.models.roles import block_roles
from wardround.models.specs import require_size

NETS = "monai.networks.nets."
CHANNELS = {"in_channels": 8, "out_channels": 3}
DYN = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]}
DYNUNET = MonaiNetwork(NETS + "DynUNet", {"spatial_dims": 3, **CHANNELS, **DYN})
SEGRESNET = MonaiNetwork(NETS + "SegResNet", {"spatial_dims": 3, **CHANNELS, "init_filters": 8})
ATTENTION = {"spatial_dims": 3, **CHANNELS, "channels": [4, 8], "strides": [2]}
PATCH = (16, 16, 16)
SPECS = [DYNUNET, SEGRESNET, MonaiNetwork(NETS + "AttentionUnet", ATTENTION, "group")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.network)
def test_all_hospitals_start_alike_and_the_seed_decides(spec: MonaiNetwork) -> None:
    before = torch.get_rng_state()
    first, again, other = (FlatModel(spec.build(seed)).vector for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    require_fit(spec, 8, 3, PATCH)
    assert torch.equal(before, torch.get_rng_state())
    assert set(block_roles(spec.build(0)).values()) >= {"head", "body"}


def test_the_fingerprint_covers_every_argument() -> None:
    other = MonaiNetwork(DYNUNET.network, {**DYNUNET.args, "act_name": "relu"})
    assert [p.shape for p in other.build(0).parameters()] == [p.shape for p in DYNUNET.build(0).parameters()]
    assert fingerprint(other) != fingerprint(DYNUNET) == fingerprint(DYNUNET.build(3))


@pytest.mark.parametrize(
    ("network", "args"),
    [
        ("os.system", {}),
        ("monai.networks.nets", {}),
        (NETS + "dynunet.DynUNet", DYNUNET.args),
        (NETS + "torch", {}),
        (NETS + "nn", {}),
        (NETS + "no_such_net", {}),
        (NETS + "resnet18", {}),
        ("monai.networks.blocks.Convolution", {}),
        (7, {}),
        (NETS + "DynUNet", [8, 3]),
        (NETS + "DynUNet", {**DYNUNET.args, "wings": 2}),
        (NETS + "DynUNet", {**DYNUNET.args, "filters": {"path": "os.system", "args": {}}}),
        (NETS + "DynUNet", {**DYNUNET.args, "norm_name": "../instance"}),
        (NETS + "DynUNet", {**DYNUNET.args, "norm_name": "https://example.org"}),
        (NETS + "DynUNet", {**DYNUNET.args, "norm_name": object()}),
        (NETS + "DenseNet121", {"spatial_dims": 3, **CHANNELS, "pretrained": True}),
        (NETS + "EfficientNetBN", {"model_name": "efficientnet-b0"}),
        (NETS + "HoVerNet", {"pretrained_url": "x"}),
        (NETS + "Transchex", {}),
    ],
)
def test_what_is_no_network_of_monai_or_fetches_something_is_refused(network: object, args: object) -> None:
    with pytest.raises(ConfigRefused, match="MONAI network"):
        MonaiNetwork(network, args)  # type: ignore[arg-type]


@pytest.mark.parametrize("args", [{}, {**DYNUNET.args, "strides": [1, 2]}])
def test_arguments_that_it_cannot_be_built_with_are_refused(args: dict[str, object]) -> None:
    with pytest.raises(ConfigRefused, match="DynUNet"):
        MonaiNetwork(NETS + "DynUNet", args).build(0)


def test_statistics_of_a_batch_are_refused_or_replaced() -> None:
    with pytest.raises(ModelRefused, match=r"model\.batch_norms=group") as caught:
        MonaiNetwork(NETS + "VNet", CHANNELS).build(0)
    assert "BatchNorm3d" in caught.value.found
    for kind in ("group", "instance"):
        made = MonaiNetwork(NETS + "AttentionUnet", ATTENTION, kind).build(0)  # type: ignore[arg-type]
        assert not [part for part in made.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    ("network", "more"),
    [
        ("DynUNet", {**DYN, "spatial_dims": 3, "deep_supervision": True}),
        ("SegResNetDS", {"spatial_dims": 3, "init_filters": 4, "norm": "INSTANCE", "dsdepth": 2}),
        ("BasicUNetPlusPlus", {"features": [4, 4, 4, 4, 4, 4]}),
    ],
)
def test_several_outputs_are_refused_with_the_way_out(network: str, more: dict[str, object]) -> None:
    with pytest.raises(ConfigRefused, match="deep supervision off"):
        require_fit(MonaiNetwork(NETS + network, {**CHANNELS, **more}), 8, 3, (32, 32, 32))


@pytest.mark.parametrize(
    ("spec", "patch"),
    [
        (MonaiNetwork(DYNUNET.network, {**DYNUNET.args, "in_channels": 4}), PATCH),
        (MonaiNetwork(DYNUNET.network, {**DYNUNET.args, "out_channels": 4}), PATCH),
        (DYNUNET, (15, 15, 15)),
        (UNet3d(in_channels=2), PATCH),
        (SegResNet3d(out_channels=1), PATCH),
    ],
)
def test_other_channels_or_patches_than_the_tasks_are_refused(spec: UNet3d, patch: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigRefused, match="8 input and 3 output channels"):
        require_fit(spec, 8, 3, patch)


def test_gradients_of_single_patients_are_tried() -> None:
    act = {"act_name": ["leakyrelu", {"negative_slope": 0.01}]}
    require_private(MonaiNetwork(DYNUNET.network, {**DYNUNET.args, **act}), 8, PATCH)
    with pytest.raises(ModelRefused, match="in place"):  # MONAI's own activation changes its input
        require_private(DYNUNET, 8, PATCH)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.network)
def test_monai_builds_the_same_network_from_a_bundles_config(spec: MonaiNetwork) -> None:
    config = json.loads(json.dumps(monai_config(spec, "wardround")))
    made, ours = ConfigParser({"net": config}).get_parsed_content("net"), spec.build(0)
    with torch.no_grad():
        for block, own in zip(made.parameters(), ours.parameters(), strict=True):
            block.copy_(own)
    x = torch.randn(1, 8, *PATCH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(made.eval()(x), ours.eval()(x))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.network)
def test_the_size_of_a_network_in_a_file_is_known_before_it_is_made(spec: MonaiNetwork) -> None:
    arrays = {name: block.detach().numpy() for name, block in spec.build(0).named_parameters()}
    require_size(spec, arrays, "m.npz")
    with pytest.raises(ModelRefused, match=r"m\.npz"):
        require_size(spec, dict(list(arrays.items())[1:]), "m.npz")
