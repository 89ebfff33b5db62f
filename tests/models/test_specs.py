import json
from dataclasses import replace

import pytest

from wardround.core.errors import ModelRefused
from wardround.models.monai_network import MonaiNetwork
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.specs import describe, rebuild, rebuild_classifier
from wardround.models.vit import ViTFusion

DEEP_LIST: list[object] = []
for _ in range(100_000):
    DEEP_LIST = [DEEP_LIST]
VIT = ViTFusion("vit_tiny_patch16_224", 2, (4, 32, 32), 3, 2, "shared", depth=2, fusion_depth=1)


@pytest.mark.parametrize(
    "spec",
    [
        UNet3d(),
        UNet3d(channels=(4, 8), norm="group", dropout=0.1),
        SegResNet3d(filters=8),
        UNet3d(adapter_rank=2),
        UNet3d(ehr_columns=2),
        UNet3d(in_channels=2, out_channels=1),
        MonaiNetwork("monai.networks.nets.VNet", {"in_channels": 8, "out_channels": 3}, "group"),
    ],
)
def test_settings_survive_json(spec: UNet3d | SegResNet3d | MonaiNetwork) -> None:
    assert rebuild(json.loads(json.dumps(describe(spec))), "m.npz") == spec


def test_a_file_from_before_adapters_has_none() -> None:
    description = describe(UNet3d((4, 8)))
    del description["args"]["adapter_rank"]
    assert rebuild(description, "m.npz") == UNet3d((4, 8), adapter_rank=0)


@pytest.mark.parametrize(
    "description",
    [
        None,
        "UNet3d",
        {},
        {"path": "UNet3d"},
        {"path": "os.system", "args": {"command": "true"}},
        {"path": "wardround.models.nets.UNet3d", "args": {}},
        {"path": "UNet3d", "args": {"wings": 2}},
        {"path": "UNet3d", "args": {"channels": [4]}},
        {"path": "UNet3d", "args": {"channels": 4}},
        {"path": "UNet3d", "args": {"adapter_rank": -1}},
        {"path": "UNet3d", "args": 4},
        {"path": ["UNet3d"], "args": {}},
        {"path": "UNet3d", "args": {"channels": DEEP_LIST}},
        {"path": "Blend", "args": {"network": {"path": "UNet3d", "args": {"channels": DEEP_LIST}}, "share": 0.5}},
        {"path": "MonaiNetwork", "args": {"network": "os.system", "args": {}}},
        {"path": "MonaiNetwork", "args": {"network": "monai.networks.nets.DenseNet121", "args": {"pretrained": True}}},
        {"path": "MonaiNetwork", "args": {"network": "monai.networks.nets.VNet", "args": {"in_channels": 2**20}}},
    ],
)
def test_anything_else_is_refused_by_the_file_name(description: object) -> None:
    with pytest.raises(ModelRefused, match=r"m\.npz"):
        rebuild(description, "m.npz")


def test_settings_of_a_classifier_survive_json_without_the_path_to_weights() -> None:
    assert rebuild_classifier(json.loads(json.dumps(describe(VIT))), "m.npz") == VIT
    assert (
        rebuild_classifier(describe(replace(VIT, weights={"file": "/etc/passwd", "sha256": "0" * 64})), "m.npz") == VIT
    )


@pytest.mark.parametrize("change", [{"classes": 1}, {"size": [4]}, {"wings": 2}, {"name": ["a"]}])
def test_other_settings_of_a_classifier_are_refused(change: dict[str, object]) -> None:
    description = describe(VIT)
    description["args"].update(change)
    with pytest.raises(ModelRefused, match=r"(?s)m\.npz.*ViTFusion"):
        rebuild_classifier(description, "m.npz")


def test_a_network_for_another_task_is_refused() -> None:
    with pytest.raises(ModelRefused):
        rebuild(describe(VIT), "m.npz")
    with pytest.raises(ModelRefused):
        rebuild_classifier(describe(UNet3d()), "m.npz")
