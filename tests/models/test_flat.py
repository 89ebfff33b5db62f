from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from wardround.core.errors import ModelRefused
from wardround.models.flat import FlatModel
from wardround.models.nets import SegResNet3d, UNet3d

SPEC = UNet3d((4, 8))


def loss_fn(logits: torch.Tensor) -> torch.Tensor:
    return (torch.sigmoid(logits) - 0.3).square().mean()


def images(count: int = 2, size: int = 8) -> torch.Tensor:
    x = torch.randn(count, 8, size, size, size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("spec", [SPEC, SegResNet3d(4)], ids=str)
def test_gradient_is_that_of_an_ordinary_network(spec):
    module = spec.build(0)
    flat = FlatModel(copy.deepcopy(module))
    x = images(size=16)
    expected = loss_fn(module(x.contiguous()))
    expected.backward()
    loss, grad = flat.value_and_grad(flat.vector, x, loss_fn)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, block in flat.layout.unflatten(grad.numpy()).items():
        reference = module.get_parameter(name).grad
        assert reference is not None
        np.testing.assert_allclose(block, reference.numpy(), rtol=1e-3, atol=1e-6)


def test_gradient_is_the_slope_of_the_loss():
    flat = FlatModel(SPEC.build(0))
    w = flat.vector.clone()
    direction = torch.randn(len(w), generator=torch.Generator().manual_seed(2))
    slope = float(flat.value_and_grad(w, images(), loss_fn)[1] @ direction)
    step = 1e-3
    plus = flat.value_and_grad(w + step * direction, images(), loss_fn)[0]
    minus = flat.value_and_grad(w - step * direction, images(), loss_fn)[0]
    assert slope == pytest.approx((plus - minus) / (2 * step), rel=0.03)


def test_parameters_and_gradients_stay_views_into_the_vectors():
    flat = FlatModel(SPEC.build(0))
    for _ in range(2):
        flat.value_and_grad(flat.vector, images(), loss_fn)
    offset = 0
    for block in flat.module.parameters():
        assert block.data_ptr() == flat.vector[offset:].data_ptr()
        assert block.grad is not None
        assert block.grad.data_ptr() == flat.grad[offset:].data_ptr()
        offset += block.numel()
    assert offset == flat.layout.total == len(flat.vector)
    flat.vector.zero_()
    assert not any(block.any() for block in flat.module.parameters())


def test_vector_has_the_order_of_the_layout():
    module = SPEC.build(0)
    values = {name: block.detach().numpy().copy() for name, block in module.named_parameters()}
    flat = FlatModel(module)
    assert list(flat.layout.names) == list(values)
    np.testing.assert_array_equal(flat.vector.numpy(), flat.layout.flatten(values))


def test_the_gradient_does_not_pile_up_and_does_not_change_w():
    flat = FlatModel(SPEC.build(0))
    w = flat.vector.clone() * 0.9
    before = w.clone()
    first = flat.value_and_grad(w, images(), loss_fn)[1].clone()
    torch.testing.assert_close(flat.value_and_grad(w, images(), loss_fn)[1], first)
    assert torch.equal(w, before)
    assert torch.equal(flat.vector, w)


def test_a_single_image_gives_what_it_gives_in_company():
    flat = FlatModel(SPEC.build(0))
    pair = images(2)
    grads = [flat.value_and_grad(flat.vector, pair[i : i + 1], loss_fn)[1].clone() for i in range(2)]
    both = flat.value_and_grad(flat.vector, pair, loss_fn)[1]
    torch.testing.assert_close((grads[0] + grads[1]) / 2, both, rtol=1e-3, atol=1e-6)


def test_dropout_follows_its_seed_and_leaves_the_global_random_state():
    flat = FlatModel(UNet3d((4, 8), dropout=0.5).build(0))

    def loss(seed: int) -> float:
        return flat.value_and_grad(flat.vector, images(), loss_fn, dropout_seed=seed)[0]

    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, other = loss(1), loss(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert loss(1) == first != other
    unseeded = [flat.value_and_grad(flat.vector, images(), loss_fn)[0] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_load_copies_and_refuses_another_length():
    flat = FlatModel(SPEC.build(0))
    other = FlatModel(SPEC.build(1)).vector
    flat.load(other)
    assert torch.equal(flat.vector, other)
    assert flat.vector.data_ptr() != other.data_ptr()
    with pytest.raises(ModelRefused, match="vector of weights"):
        flat.load(other[1:])


def test_frozen_parameters_are_trained_and_batch_norm_is_refused():
    module = nn.Sequential(nn.Conv3d(8, 3, 1))
    module.requires_grad_(False)
    flat = FlatModel(module)
    assert flat.value_and_grad(flat.vector, images(), loss_fn)[1].any()
    with pytest.raises(ModelRefused):
        FlatModel(nn.BatchNorm3d(2))
    with pytest.raises(ModelRefused, match="no parameters"):
        FlatModel(nn.ReLU())


def test_half_precision_is_ignored_on_a_cpu():
    assert not FlatModel(SPEC.build(0), half=True).half


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_stays_near_float32():
    full, half = (FlatModel(SPEC.build(0), "cuda", half=half) for half in (False, True))
    x = images(size=16).cuda()
    a, b = (flat.value_and_grad(flat.vector, x, loss_fn) for flat in (full, half))
    assert b[1].dtype == torch.float32
    assert a[0] == pytest.approx(b[0], rel=0.02)
    assert torch.cosine_similarity(a[1], b[1], dim=0) > 0.98


class Choosing(nn.Module):
    """Uses one of its two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
        self.chosen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[self.chosen](x)


def test_what_a_step_does_not_use_has_gradient_zero_whatever_the_step_before():
    model, x = FlatModel(Choosing()), torch.ones(3, 2)
    first = model.value_and_grad(model.vector, x, torch.sum)[1].clone()
    model.module.chosen = 1
    second = model.value_and_grad(model.vector, x, torch.sum)[1]
    assert first.tolist() == [3, 3, 3, 0, 0, 0]
    assert second.tolist() == [0, 0, 0, 3, 3, 3]
    assert [block.grad.flatten()[0].item() for block in model.module.parameters()] == [0, 0, 3, 3]


@pytest.mark.parametrize("shape", [(1, 2), (1, 4, 2), (1, 3, 4, 2)])
def test_one_sample_that_is_no_volume(shape):
    model = FlatModel(nn.Linear(2, 1))
    torch.testing.assert_close(model.value_and_grad(model.vector, torch.ones(shape), torch.mean)[1], torch.ones(3))
    assert model.outputs(model.vector, torch.ones(shape)).shape == (*shape[:-1], 1)
