"""Outputs near known weights: the numbers of a whole pass, from less work."""

import pytest
import torch
from torch import nn

from wardround.errors import ModelRefused
from wardround.models.blocks import blocks_of
from wardround.models.flat import FlatModel
from wardround.models.nearby import Nearby
from wardround.models.nets import SegResNet3d, UNet3d
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


def moved(model, names):
    """Return the weights with some noise in these parameters."""
    noise = 0.1 * torch.randn(model.layout.total, generator=torch.Generator().manual_seed(2))
    mask = torch.from_numpy(model.layout.mask(names))
    return torch.where(mask, model.vector + noise, model.vector)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_the_numbers_are_those_of_a_whole_pass(name, rows):
    spec = NETS[name]
    model = FlatModel(spec.build(0))
    w, images, blocks = model.vector.clone(), images_of(spec, rows), blocks_of(model.module)
    near = Nearby(model, w, images)
    assert torch.equal(near(w), model.outputs(w, images))
    changed = 0
    for block in dict.fromkeys(blocks.values()):
        model.load(w)
        v = moved(model, [n for n, b in blocks.items() if b == block])
        found = near(v)
        assert torch.equal(found, model.outputs(v, images)), block
        changed += not torch.equal(found, near.first)
    assert changed >= len(set(blocks.values())) - 1


def test_blocks_before_the_swapped_one_do_not_run():
    model = FlatModel(VIT.build(0))
    w, images, ran = model.vector.clone(), images_of(VIT), []
    for index, block in enumerate(model.module.trunk.blocks):
        block.attn.qkv.register_forward_hook(lambda *_, i=index: ran.append(i))
    near = Nearby(model, w, images)
    assert ran == [0, 1, 2]
    counted = {}
    for block in ("stem", "block0.attention", "block1.mlp", "block2.attention", "fusion", "head"):
        model.load(w)
        v = moved(model, [n for n, b in blocks_of(model.module).items() if b == block])
        ran.clear()
        near(v)
        counted[block] = len(ran)
    # a hook sees a remembered call as well: what counts is that the trunk's blocks are not even entered
    assert counted["head"] == counted["fusion"] == 0
    assert counted["stem"] == 3
    assert counted["block2.attention"] == 1


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
    near = Nearby(model, w, images)
    for names in (["second.weight"], ["first.bias"]):
        model.load(w)
        v = moved(model, names)
        assert torch.equal(near(v), model.outputs(v, images))


def test_the_network_is_left_as_it_was():
    model = FlatModel(UNET.build(0))
    near = Nearby(model, model.vector.clone(), images_of(UNET))
    with pytest.raises(ModelRefused):
        near(torch.zeros(3))
    near(model.vector + 1)
    assert all("forward" not in vars(part) for part in model.module.modules())
