import subprocess
import sys

import pytest
import torch

from wardround.models.monai_unet import UNet
from wardround.models.nets import UNet3d, seeded
from wardround.models.norms import with_group_norms

SHAPES = [
    ((4, 8), 0, 0.0),
    ((4, 8), 2, 0.0),
    ((4, 4, 8), 1, 0.3),
    ((4, 8, 8, 6), 2, 0.1),
    ((16, 32, 64), 1, 0.0),
]


@pytest.mark.parametrize(("channels", "units", "dropout"), SHAPES)
def test_it_is_monais_network_bit_for_bit(channels, units, dropout):
    """Names and their order, first weights, outputs and gradients, in training with dropout too."""
    from monai.networks.nets import UNet as Monai

    spec = UNet3d(channels, residual_units=units, dropout=dropout)
    theirs = with_group_norms(seeded(lambda: Monai(**spec.monai_args), 7), "instance")
    ours = spec.build(7)
    assert isinstance(ours, UNet)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, block in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], block), name
    x = torch.randn(2, 8, *(2 ** len(channels),) * 3).contiguous(memory_format=torch.channels_last_3d)
    found = []
    for network in (ours, theirs):
        torch.manual_seed(3)
        loss = network(x).square().mean()
        loss.backward()
        network.eval()
        found.append((loss.detach(), network(x).detach(), [block.grad for block in network.parameters()]))
    (loss, out, grads), (other_loss, other_out, other_grads) = found
    assert torch.equal(loss, other_loss)
    assert torch.equal(out, other_out)
    assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))


def test_modules_come_in_monais_order():
    """Fingerprints list every leaf layer in this order."""
    from monai.networks.nets import UNet as Monai

    spec = UNet3d((4, 8, 8), residual_units=1)
    theirs = with_group_norms(Monai(**spec.monai_args), "instance")
    leaves = [
        [(name, type(part).__name__) for name, part in network.named_modules() if next(part.children(), None) is None]
        for network in (spec.build(0), theirs)
    ]
    assert leaves[0] == leaves[1]


def test_neither_building_nor_predicting_imports_monai():
    code = (
        "import sys, numpy as np\n"
        "from wardround.models.nets import UNet3d\n"
        "from wardround.tasks.inference import predict_logits\n"
        "image = np.ones((4, 9, 9, 9), np.float32)\n"
        "predict_logits(UNet3d((4, 8)).build(0), image, np.ones(4, bool), (8, 8, 8), 'cpu', 3)\n"
        "print('monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
