from __future__ import annotations

import json

import pytest
import torch
from nvflare.private.json_configer import JsonConfigurator
from torch import nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.any_network import AnyNetwork
from wardround.models.blocks import blocks_of
from wardround.models.fingerprint import fingerprint

UNET = {"spatial_dims": 3, "in_channels": 8, "out_channels": 3, "channels": [4, 8], "strides": [2]}
ATTENTION = {"path": "monai.networks.nets.AttentionUnet", "args": UNET}


def test_all_hospitals_start_alike_and_the_seed_decides() -> None:
    first, again, other = (AnyNetwork([ATTENTION], "group").build(seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in made.parameters()]) for made in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert fingerprint(first) == fingerprint(other)
    assert first(torch.zeros(1, 8, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_statistics_of_a_batch_are_refused_or_replaced() -> None:
    with pytest.raises(ModelRefused, match=r"model\.batch_norms=group") as caught:
        AnyNetwork([ATTENTION]).build(0)
    assert "BatchNorm3d" in caught.value.found
    for kind in ("group", "instance"):
        made = AnyNetwork([ATTENTION], kind).build(0)  # type: ignore[arg-type]
        assert not [part for part in made.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    "network",
    [
        [],
        [ATTENTION, ATTENTION],
        ATTENTION,
        None,
        "monai.networks.nets.AttentionUnet",
        [{"path": "monai.networks.nets.AttentionUnet"}],
        [{"path": 7, "args": {}}],
        [ATTENTION | {"config_type": "dict"}],
        [{"class_path": ATTENTION["path"], "args": UNET}],
        [{"path": "os.system", "args": {"command": "touch /tmp/wardround-pwned"}}],
        [{"path": "subprocess.Popen", "args": {"args": ["true"]}}],
        [{"path": "no_such_module.Net", "args": {}}],
        [{"path": "Net", "args": {}}],
        [{"path": "monai.networks.nets.AttentionUnet", "args": {"wings": 2}}],
    ],
)
def test_what_is_no_network_is_refused(network: object) -> None:
    with pytest.raises(ConfigRefused, match="the job's network"):
        AnyNetwork(network).build(0)  # type: ignore[arg-type]


def test_nvflare_checks_the_class_against_a_hospitals_list_and_leaves_building_to_us(tmp_path) -> None:
    """What stands in a list is authorised by NVFlare, and not built."""
    part = {"path": "wardround.models.any_network.AnyNetwork", "args": {"network": [ATTENTION], "batch_norms": "group"}}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"part": part}))
    seen = []
    reader = JsonConfigurator(str(file), ["nvflare"], ["apis"])
    reader.set_component_build_authorizer(lambda config, ctx, node: seen.append(config["path"]) or "")
    made = reader.build_component(reader.config_data["part"])
    assert seen == [part["path"], ATTENTION["path"]]
    assert made == AnyNetwork([ATTENTION], "group")


def test_the_blocks_of_any_network_are_its_outermost_modules() -> None:
    args = {"in_channels": 8, "out_channels": 3, "features": [4, 4, 8, 8, 8, 4]}
    blocks = blocks_of(AnyNetwork([{"path": "monai.networks.nets.BasicUNet", "args": args}]).build(0))
    assert set(blocks.values()) == {
        "conv_0",
        *(f"down_{n}" for n in "1234"),
        *(f"upcat_{n}" for n in "4321"),
        "final_conv",
    }
    assert len(set(blocks_of(AnyNetwork([ATTENTION], "group").build(0)).values())) > 1
    assert blocks_of(nn.Sequential(nn.Conv3d(1, 1, 1))) == {"0.weight": "0", "0.bias": "0"}
