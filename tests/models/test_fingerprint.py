from __future__ import annotations

import copy

import pytest
from torch import nn

from wardround.core.errors import ModelRefused
from wardround.models.checkpoint import require_fingerprint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import SegResNet3d, UNet3d


def test_settings_and_network_agree_whatever_the_seed_and_dropout():
    spec = UNet3d((4, 8))
    assert fingerprint(spec) == fingerprint(spec.build(3)) == fingerprint(UNet3d((4, 8), dropout=0.3))
    assert fingerprint(SegResNet3d(4)) == fingerprint(SegResNet3d(4, dropout=0.3))
    assert len(fingerprint(spec)) == 16
    assert int(fingerprint(spec), 16) >= 0


def test_every_other_architecture_differs():
    specs = [
        UNet3d((8, 16)),
        UNet3d((8, 24)),
        UNet3d((8, 16, 16)),
        UNet3d((8, 16), norm="group"),
        UNet3d((8, 16), residual_units=2),
        SegResNet3d(8),
        SegResNet3d(8, norm="instance"),
        UNet3d((8, 16), adapter_rank=1),
        UNet3d((8, 16), adapter_rank=2),
        SegResNet3d(8, adapter_rank=1),
        UNet3d((8, 16), ehr_columns=1),
        UNet3d((8, 16), ehr_columns=2),
    ]
    found = [fingerprint(spec) for spec in specs]
    assert len(set(found)) == len(specs)


def test_same_shapes_but_another_function_differ():
    base = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.ReLU())
    assert fingerprint(base) == fingerprint(copy.deepcopy(base))
    for other in (
        nn.Sequential(nn.Conv3d(2, 2, 3, padding=1, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv3d(2, 2, 3, padding=0), nn.ReLU()),
        nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.LeakyReLU()),
        nn.Sequential(nn.Conv3d(2, 2, 3, padding=1, dtype=None), nn.ReLU()).double(),
    ):
        assert fingerprint(other) != fingerprint(base)


def test_refusal_names_the_file_and_both_fingerprints():
    require_fingerprint("a1", "a1", "best.npz")
    with pytest.raises(ModelRefused, match=r"(?s)best\.npz.*a1.*b2"):
        require_fingerprint("a1", "b2", "best.npz")
