import json

import pytest

from wardround.errors import ModelRefused
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.specs import describe, rebuild


@pytest.mark.parametrize("spec", [UNet3d(), UNet3d(channels=(4, 8), norm="group", dropout=0.1), SegResNet3d(filters=8)])
def test_settings_survive_json(spec: UNet3d | SegResNet3d) -> None:
    assert rebuild(json.loads(json.dumps(describe(spec))), "m.npz") == spec


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
        {"path": "UNet3d", "args": 4},
        {"path": ["UNet3d"], "args": {}},
    ],
)
def test_anything_else_is_refused_by_the_file_name(description: object) -> None:
    with pytest.raises(ModelRefused, match=r"m\.npz"):
        rebuild(description, "m.npz")
