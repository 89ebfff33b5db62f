"""Outputs near known weights: the numbers of a whole pass, from less work."""

import pytest
import torch
from torch import nn

from wardround.core.errors import ModelRefused
from wardround.models.blocks import blocks_of
from wardround.models.flat import FlatModel
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.perturbed_outputs import PerturbedOutputs
from wardround.models.vit import ViTFusion

VIT = ViTFusion("vit_tiny_patch16_224", 2, (32, 32), 3, 3, "separate", depth=3)
UNET = UNet3d((4, 8, 8), residual_units=1, norm="instance", dropout=0.0)
NETS = {"vit": VIT, "unet": UNET, "segresnet": SegResNet3d()}


def images_of(spec, rows=2):
    generator = torch.Generator().manual_seed(1)
    if isinstance(spec, ViTFusion):
        made = torch.rand(rows, spec.case.length, generator=generator)
    else:
        made = torch.randn(rows, 8, 16, 16, 16, generator=generator)
    return made


def swapped(model, w, names):
    """Return (other weights everywhere, w with those of these parameters)."""
    other = w + 0.1 * torch.randn(model.layout.total, generator=torch.Generator().manual_seed(2))
    return other, torch.where(torch.from_numpy(model.layout.mask(names)), other, w)


def names_of(model):
    """Return block -> the names of its parameters."""
    blocks = blocks_of(model.module)
    return {b: [n for n in blocks if blocks[n] == b] for b in dict.fromkeys(blocks.values())}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_the_numbers_are_those_of_a_whole_pass(name, rows):
    spec = NETS[name]
    model = FlatModel(spec.build(0))
    w, images, moved = model.vector.clone(), images_of(spec, rows), 0
    other, _ = swapped(model, w, ())
    near = PerturbedOutputs(model, w, other, images)
    first = model.outputs(w, images)
    assert torch.equal(near(), first)
    for block, names in names_of(model).items():
        found = near(names)
        assert torch.equal(found, model.outputs(swapped(model, w, names)[1], images)), block
        moved += not torch.equal(found, first)
    assert moved >= len(names_of(model)) - 1
    assert torch.equal(near(model.layout.names), model.outputs(other, images))


def test_blocks_before_the_swapped_one_are_not_even_entered():
    model = FlatModel(VIT.build(0))
    w, entered = model.vector.clone(), []
    for index, block in enumerate(model.module.trunk.blocks):
        block.attn.qkv.register_forward_hook(lambda *_, i=index: entered.append(i))
    near = PerturbedOutputs(model, w, swapped(model, w, ())[0], images_of(VIT))
    assert entered == [0, 1, 2]
    expected = {
        "stem": [0, 1, 2],
        "block0.mlp": [1, 2],
        "block1.attention": [1, 2],
        "block2.attention": [2],
        "fusion": [],
        "head": [],
    }
    for block, ran in expected.items():
        entered.clear()
        near(names_of(model)[block])
        assert entered == ran, block


class InPlace(nn.Module):
    """A layer whose output is changed in place by what follows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.second(torch.relu_(self.first(x).add_(1.0)))


def test_what_was_changed_in_place_is_not_taken_for_what_was_returned():
    model = FlatModel(InPlace())
    w, images = model.vector.clone(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    near = PerturbedOutputs(model, w, swapped(model, w, ())[0], images)
    for names in (["second.weight"], ["first.bias"]):
        assert torch.equal(near(names), model.outputs(swapped(model, w, names)[1], images))


def test_the_network_is_left_as_it_was():
    model = FlatModel(UNET.build(0))
    w = model.vector.clone()
    near = PerturbedOutputs(model, w, w + 1, images_of(UNET))
    near(model.layout.names)
    assert all("forward" not in vars(part) for part in model.module.modules())
    for wrong in ((torch.zeros(3), w), (w, torch.zeros(3))):
        with pytest.raises(ModelRefused):
            PerturbedOutputs(model, *wrong, images_of(UNET))
