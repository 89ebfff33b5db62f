"""Adapters: what they compute, where they start, what is fixed, and that the rest of the network does not notice them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.core.arrays import Array
from wardround.core.errors import ModelRefused
from wardround.models import checkpoint
from wardround.models.adapters import Adapted, AdaptedConv3d, AdaptedConvTranspose3d, adapt, correction, is_as_drawn
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.nets import SegResNet3d, UNet3d, require_federable
from wardround.models.per_sample import PerSample
from wardround.models.roles import block_roles
from wardround.models.specs import describe
from wardround.training.prediction import read_weights

Spec = UNet3d | SegResNet3d
PAIRS = [
    (UNet3d((4, 8)), UNet3d((4, 8), adapter_rank=1)),
    (UNet3d((4, 8, 8), 2, "group", 0.3), UNet3d((4, 8, 8), 2, "group", 0.3, adapter_rank=3)),
    (UNet3d((4, 8), residual_units=0), UNet3d((4, 8), residual_units=0, adapter_rank=2)),
    (SegResNet3d(4, dropout=0.2), SegResNet3d(4, dropout=0.2, adapter_rank=2)),
]
SMALL = UNet3d((4, 8), adapter_rank=2)


def images(count: int = 2, size: int = 8, seed: int = 1) -> Tensor:
    x = torch.randn(count, 8, size, size, size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last_3d)


def loss_fn(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) - 0.3).square().mean()


def adapted(module: nn.Module) -> list[Adapted]:
    return [part for part in module.modules() if isinstance(part, Adapted)]


def moved(module: nn.Module) -> nn.Module:
    """Adapters somewhere else than at zero."""
    for index, part in enumerate(adapted(module)):
        nn.init.normal_(part.up, 0.0, 0.3, generator=torch.Generator().manual_seed(index))
    return module


def blocks_of(module: nn.Module) -> dict[str, Array]:
    return {name: block.detach().numpy() for name, block in module.named_parameters()}


def test_without_adapters_the_network_is_that_of_files_already_saved():
    assert [fingerprint(UNet3d(adapter_rank=0)), fingerprint(SegResNet3d(adapter_rank=0))] == [
        "442ee6ebdd2ad991",
        "24d3e6b0e03e8660",
    ]
    assert describe(UNet3d())["args"]["adapter_rank"] == 0


@pytest.mark.parametrize("spec", [plain for plain, _ in PAIRS], ids=str)
def test_without_adapters_nothing_is_touched(spec: Spec):
    module = spec.build(0)
    kinds = {type(part) for part in module.modules() if isinstance(part, nn.Conv3d | nn.ConvTranspose3d)}
    assert kinds <= {nn.Conv3d, nn.ConvTranspose3d}
    assert not list(module.named_buffers())
    assert "adapter" not in block_roles(module).values()


@pytest.mark.parametrize(("plain", "spec"), PAIRS, ids=str)
def test_the_other_weights_have_the_same_names_and_first_values(plain: Spec, spec: Spec):
    without, module = plain.build(5), spec.build(5)
    roles = block_roles(module)
    rest = {name: block for name, block in module.named_parameters() if roles[name] != "adapter"}
    assert list(rest) == [name for name, _ in without.named_parameters()]
    assert all(torch.equal(block, rest[name]) for name, block in without.named_parameters())
    assert not any(block.any() for name, block in module.named_parameters() if roles[name] == "adapter")
    assert without.state_dict().keys() == {name for name in module.state_dict() if not name.endswith(".up")}


@pytest.mark.parametrize(("plain", "spec"), PAIRS, ids=str)
def test_every_convolution_has_one(plain: Spec, spec: Spec):
    module = spec.build(0)
    assert all(isinstance(part, Adapted) for part in module.modules() if isinstance(part, nn.modules.conv._ConvNd))
    for part in adapted(module):
        assert part.up.shape == (part.out_channels, spec.adapter_rank)
        assert part.down.shape == (spec.adapter_rank, part.in_channels, *part.kernel_size)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("plain", "spec"), PAIRS, ids=str)
def test_at_the_start_the_output_is_the_same_bit_by_bit(plain: Spec, spec: Spec, training: bool):
    """In training too: adapters draw nothing, so dropout falls where it fell."""
    without, module = plain.build(3).train(training), spec.build(3).train(training)
    outputs = []
    for network in (without, module):
        torch.manual_seed(2)
        outputs.append(network(images(size=2 * spec.divisor)))
    assert torch.equal(*outputs)
    torch.manual_seed(2)
    assert not torch.equal(moved(module)(images(size=2 * spec.divisor)), outputs[0])


LAYERS = {
    "conv": nn.Conv3d(4, 6, 3, stride=2, padding=1),
    "1 x 1": nn.Conv3d(4, 6, 1, bias=False),
    "uneven": nn.Conv3d(4, 6, (3, 1, 5), stride=(1, 2, 3), padding=(0, 2, 1), dilation=(2, 1, 1)),
    "transposed": nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed, uneven": nn.ConvTranspose3d(4, 6, (2, 3, 1), stride=(1, 2, 2), dilation=(2, 1, 1), bias=False),
}


@pytest.mark.parametrize("rank", [1, 3, 9])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_convolution_plus_up_of_down(name: str, rank: int):
    """Against the two convolutions of the paper, one after the other."""
    layer = copy.deepcopy(LAYERS[name])
    x = torch.randn(2, 4, 7, 8, 9)
    before = layer(x)
    adapt(layer, rank)
    (part,) = adapted(moved(layer))
    if isinstance(part, AdaptedConv3d):
        inner = functional.conv3d(x, part.down, None, part.stride, part.padding, part.dilation)
    else:
        kernel = part.down.transpose(0, 1)
        settings = (part.stride, part.padding, part.output_padding, 1, part.dilation)
        inner = functional.conv_transpose3d(x, kernel, None, *settings)
    outer = functional.conv3d(inner, part.up[:, :, None, None, None])
    torch.testing.assert_close(layer(x), before + outer, rtol=1e-4, atol=1e-4)
    assert float(outer.detach().abs().max()) > 0.1


def test_down_depends_on_the_place_alone():
    """Pinned: the same bits on every machine, whatever the job's seed. A change here orphans every saved adapter."""
    torch.manual_seed(1)
    first, other = SMALL.build(0), SMALL.build(7)
    assert [part.down_digest for part in adapted(first)] == [part.down_digest for part in adapted(other)]
    assert len({part.down_digest for part in adapted(first)}) == len(adapted(first))
    assert [fingerprint(UNet3d(adapter_rank=1)), fingerprint(SegResNet3d(adapter_rank=2))] == [
        "8da8bdb3f2759d37",
        "86aeb370ab5856cf",
    ]


def test_down_keeps_the_size_of_what_passes():
    """Variance 1 / fan-in: unit noise in, about unit noise out, through transposed convolutions too."""
    for layer in (nn.Conv3d(32, 6, 3), nn.ConvTranspose3d(32, 6, 3, stride=2), nn.Conv3d(64, 6, 1)):
        adapt(layer, 40)
        (part,) = adapted(layer)
        with torch.no_grad():
            part.weight.zero_()
            part.up.copy_(torch.eye(40)[:6])
        if part.bias is not None:
            nn.init.zeros_(part.bias)
        inside = layer(torch.randn(2, 32 if part.in_channels == 32 else 64, 9, 9, 9))[..., 2:-2, 2:-2, 2:-2]
        assert 0.8 < float(inside.detach().std()) < 1.2


def test_the_random_state_is_left_and_rank_0_does_nothing():
    torch.manual_seed(5)
    before, layer = torch.get_rng_state(), nn.Conv3d(2, 2, 3)
    state = torch.get_rng_state()
    adapt(layer, 0)
    assert type(layer) is nn.Conv3d
    adapt(layer, 2)
    assert type(layer) is AdaptedConv3d
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(state, before)


def test_grouped_convolutions_and_other_classes_stay():
    class Own(nn.Conv3d):
        pass

    net = nn.Sequential(nn.Conv3d(4, 4, 3, groups=2), Own(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(2, 2))
    kinds = [type(part) for part in net]
    adapt(net, 1)
    assert [type(part) for part in net] == kinds


def test_down_is_no_parameter_does_not_travel_and_is_as_drawn():
    module = SMALL.build(0)
    assert all(is_as_drawn(part) for part in adapted(module))
    require_federable(module)
    require_federable(copy.deepcopy(moved(module)))
    assert not [name for name in (*module.state_dict(), *blocks_of(module)) if "down" in name.split(".")]


@pytest.mark.parametrize("how", ["one value", "another place", "double", "replaced", "beside it"])
def test_a_down_that_drifted_is_refused(how: str):
    module = SMALL.build(0)
    first, second, *_ = adapted(module)
    if how == "one value":
        first.down.flatten()[5].add_(1e-3)
    elif how == "another place":
        first.place = second.place
    elif how == "double":
        first.down = first.down.double()
    elif how == "replaced":
        first.down = torch.zeros_like(first.down)
    else:
        first.register_buffer("running", torch.zeros(2))
    with pytest.raises(ModelRefused, match=r"buffer 'model\.0\.conv\.unit0\.conv\.(down|running)'"):
        FlatModel(module)


def test_a_buffer_is_not_accepted_for_its_name():
    module = nn.Sequential(nn.Conv3d(2, 2, 1))
    module[0].register_buffer("down", torch.zeros(2), persistent=False)
    with pytest.raises(ModelRefused, match=r"0\.down"):
        require_federable(module)


def test_training_keeps_down_and_adapters_alone_learn():
    flat = FlatModel(SMALL.build(0))
    roles = block_roles(flat.module)
    chosen = torch.cat(
        [
            torch.full((size,), roles[name] == "adapter")
            for name, size in zip(flat.layout.names, flat.layout.sizes, strict=True)
        ]
    )
    assert 0 < int(chosen.sum()) < 0.1 * len(chosen)
    start, values = flat.vector.clone(), []
    for _ in range(30):
        loss, gradient = flat.value_and_grad(flat.vector, images(), loss_fn)
        flat.vector.sub_(torch.where(chosen, gradient, 0.0))
        values.append(loss)
    assert values[-1] < 0.9 * values[0]
    assert torch.equal(flat.vector[~chosen], start[~chosen])
    assert all(is_as_drawn(part) for part in adapted(flat.module))


def test_the_gradient_is_the_slope_of_the_loss():
    flat = FlatModel(moved(SMALL.build(0)))
    w = flat.vector.clone()
    ups = flat.layout.flatten({n: b * 0 + (n.endswith(".up")) for n, b in blocks_of(flat.module).items()})
    direction = torch.randn(len(w), generator=torch.Generator().manual_seed(2)) * torch.from_numpy(ups)
    slope = float(flat.value_and_grad(w, images(), loss_fn)[1] @ direction)
    plus, minus = (flat.value_and_grad(w + sign * 1e-3 * direction, images(), loss_fn)[0] for sign in (1, -1))
    assert slope == pytest.approx((plus - minus) / 2e-3, rel=0.03)


def test_activations_stay_channels_last():
    assert moved(SMALL.build(0))(images()).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("spec", [SMALL, SegResNet3d(4, adapter_rank=1)], ids=str)
def test_half_precision_keeps_the_correction_in_float32(spec: Spec):
    module = moved(spec.build(0)).eval()
    x = images(size=16)
    with torch.no_grad():
        full = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = module(x)
            kernels = [correction(part) for part in adapted(module)]
    assert {kernel.dtype for kernel in kernels} == {torch.float32}
    assert all(torch.equal(kernel, correction(part)) for kernel, part in zip(kernels, adapted(module), strict=True))
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(full.flatten(), half.float().flatten(), dim=0) > 0.98


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_computes_the_same():
    cpu, gpu, half = (
        FlatModel(moved(SMALL.build(0)), device, half=fast)
        for device, fast in (("cpu", False), ("cuda", False), ("cuda", True))
    )
    expected = cpu.value_and_grad(cpu.vector, images(size=16), loss_fn)
    for model, tolerance in ((gpu, 0.999), (half, 0.98)):
        loss, gradient = model.value_and_grad(model.vector, images(size=16).cuda(), loss_fn)
        assert loss == pytest.approx(expected[0], rel=0.02)
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.cpu(), expected[1], dim=0) > tolerance
    require_federable(gpu.module)
    assert fingerprint(gpu.module) == fingerprint(SMALL)


@pytest.mark.parametrize("spec", [UNet3d(adapter_rank=1), SegResNet3d(4, adapter_rank=2)], ids=str)
def test_the_gradients_of_patients_are_exact(spec: Spec):
    """Against autograd, one patient at a time, away from zero; the adapters' own columns by themselves too."""
    model = FlatModel(moved(spec.build(0)))
    per_sample = PerSample(model)
    x = images(5, 16)
    assert per_sample.require_exact(x) < 1e-5
    _, rows = per_sample.gradients(model.vector, x, lambda z: torch.sigmoid(z).flatten(1).mean(1), 5)
    ups = [name.endswith(".up") for name in model.layout.names]
    for row, image in zip(rows, x, strict=True):
        _, alone = model.value_and_grad(model.vector, image[None], lambda z: torch.sigmoid(z).mean())
        parts = (torch.split(one, list(model.layout.sizes)) for one in (row, alone))
        found, truth = (torch.cat([b for b, up in zip(p, ups, strict=True) if up]) for p in parts)
        assert float(truth.norm()) > 0
        assert float((found - truth).norm() / truth.norm()) < 0.05


def test_the_fingerprint_covers_the_rank_and_the_fixed_numbers():
    specs = [UNet3d((4, 8), adapter_rank=rank) for rank in range(4)]
    assert len({fingerprint(spec) for spec in specs}) == 4
    module = SMALL.build(0)
    assert fingerprint(moved(module)) == fingerprint(SMALL)
    adapted(module)[0].down[0, 0, 0, 0, 0] += 1e-3
    assert fingerprint(module) != fingerprint(SMALL)


@pytest.mark.parametrize("spec", [SMALL, SegResNet3d(4, adapter_rank=1)], ids=str)
def test_a_saved_model_is_read_again_and_computes_the_same(spec: Spec, tmp_path):
    module = moved(spec.build(0))
    checkpoint.save(tmp_path / "m.npz", blocks_of(module), fingerprint(module), {"model": describe(spec)})
    weights = read_weights(tmp_path / "m.npz")
    assert weights.spec == spec
    model = FlatModel(weights.spec.build(9))
    model.load(torch.from_numpy(model.layout.flatten(weights.arrays)))
    x = images(size=2 * spec.divisor)
    assert torch.equal(model.module.eval()(x), module.eval()(x))


def test_weights_of_another_rank_are_refused(tmp_path):
    other = describe(UNet3d((4, 8), adapter_rank=1))
    checkpoint.save(tmp_path / "m.npz", blocks_of(SMALL.build(0)), fingerprint(SMALL), {"model": other})
    with pytest.raises(ModelRefused, match="another architecture"):
        read_weights(tmp_path / "m.npz")


def test_both_kinds_are_there():
    kinds = {type(part) for part in adapted(SMALL.build(0))}
    assert kinds == {AdaptedConv3d, AdaptedConvTranspose3d}
