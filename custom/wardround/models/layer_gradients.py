"""What is the weight gradient of one layer for every sample?

It is computed from the layer's input x and the gradient g of its output. A sample owns
N / S neighbouring rows of the N rows of x and g (a patient with several patches), and
its gradient is the sum over them. Each formula returns what autograd would return for
that sample alone, for the wanted parameters of the layer; what nobody wants is not
computed.

A 3D convolution with one row falls onto PyTorch's slow path on a CPU, so a row is cut
along its first axis into two overlapping windows: the weight gradient of a convolution
is the sum of those of its windows. On the U-Net with 32^3 patches this takes about 1.7
times the time of the gradient summed over the batch (grouped convolution 2.9, unfolding
as Opacus does it 5 to 15).

Sources: Goodfellow 2015, arXiv:1510.01799 (linear layers); Rochette et al. 2019,
arXiv:1912.06015 (convolutions).
Deviations: 1. the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from wardround.models.adapters import (
    Adapted,
    AdaptedConv3d,
    AdaptedConvTranspose3d,
    up_gradients,
)
from wardround.models.vectors import AddVector, Prepend, Scale

Blocks = Mapping[str, Tensor]
Keys = frozenset[str]
Formula = Callable[[Any, Tensor, Tensor, int, Keys], Blocks]


def formula(part: nn.Module) -> Formula | None:
    """Return the formula of a layer with parameters of its own, None if there is none.

    A subclass is covered while it has its parent's forward. Padding that is not zeros,
    or is a word, is not covered.
    """
    if isinstance(part, _ConvNd) and (part.padding_mode != "zeros" or isinstance(part.padding, str)):
        return None
    return next((how for kind, how in _FORMULAS.items() if _is(part, kind)), None)


def needs_input(keys: Keys) -> bool:
    """Return whether the gradient of one of these parameters depends on the input x.

    That of a shift (`bias`) is a sum of g.
    """
    return keys != {"bias"}


def _is(part: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(part, kind) and type(part).forward is kind.forward


def _conv(part: _ConvNd, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    blocks = {}
    if "weight" in keys:
        swapped = isinstance(part, _ConvTransposeNd)
        inner, outer = (g, x) if swapped else (x, g)
        blocks["weight"] = _conv_weight(part, inner, outer, samples)
    if "bias" in keys:
        blocks["bias"] = _by_sample(g.flatten(2).sum(2), samples)
    return blocks


def _adapted(part: Adapted, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    # The gradient of `up` is made from that of the weight.
    blocks = _conv(part, x, g, samples, keys | {"weight"} if "up" in keys else keys)
    found = {key: block for key, block in blocks.items() if key in keys}
    return found | {"up": up_gradients(part, blocks["weight"])} if "up" in keys else found


def _conv_weight(part: _ConvNd, inner: Tensor, outer: Tensor, samples: int) -> Tensor:
    """Return [S, *weight.shape] of the convolution that maps `inner` to `outer`.

    For a transposed convolution it is the other way round.
    """
    # A 1 x 1 convolution with stride 1 is a matrix product over voxels.
    if part.groups == 1 and set((*part.kernel_size, *part.stride)) == {1} and not any(map(int, part.padding)):
        rows, columns = (_tokens(side.movedim(1, -1), samples) for side in (outer, inner))
        return torch.bmm(rows.mT, columns).view(samples, *part.weight.shape)
    padding = [int(n) for n in part.padding]
    if len(inner) == samples and inner.device.type == "cpu" and inner.dim() > 3:
        inner, outer = _windows(part, inner, outer, padding[0])
        padding[0] = 0
    many = len(inner) // samples
    one = part.weight.detach()
    sizes = [one.shape[0]]
    strides = list(part.stride)
    dilations = list(part.dilation)
    nothing = [0] * len(strides)
    # Only the weight's gradient is wanted, neither the input's nor the bias's.
    mask = [False, True, False]
    found = [
        torch.ops.aten.convolution_backward(
            g,
            x,
            one,
            sizes,
            strides,
            padding,
            dilations,
            False,
            nothing,
            part.groups,
            mask,
        )[1]
        for x, g in zip(torch.split(inner, many), torch.split(outer, many), strict=True)
    ]
    return torch.stack(found)


def _windows(
    part: _ConvNd,
    inner: Tensor,
    outer: Tensor,
    padding: int,
) -> tuple[Tensor, Tensor]:
    """Return inner and outer with twice the rows: the halves along the first axis."""
    stride, reach = part.stride[0], part.dilation[0] * (part.kernel_size[0] - 1) + 1
    depth = outer.shape[2]
    half = -(-depth // 2)
    length = (half - 1) * stride + reach
    x, g = inner.movedim(1, -1), outer.movedim(1, -1)
    if depth % 2:
        g = functional.pad(g, (0, 0) * (g.dim() - 2) + (0, 1))
    cut = x.new_empty(len(x), 2, length, *x.shape[2:])
    for index, start in enumerate((-padding, half * stride - padding)):
        low = min(max(0, start), x.shape[1])
        high = max(low, min(x.shape[1], start + length))
        window = cut[:, index]
        window[:, : low - start].zero_()
        window[:, low - start : high - start] = x[:, low:high]
        window[:, high - start :].zero_()
    halves = g.reshape(2 * len(g), half, *g.shape[2:])
    return cut.flatten(0, 1).movedim(-1, 1), halves.movedim(-1, 1)


def _linear(part: nn.Linear, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    rows = _tokens(g, samples)
    blocks = {"weight": torch.bmm(rows.mT, _tokens(x, samples))} if "weight" in keys else {}
    return blocks | {"bias": rows.sum(1)} if "bias" in keys else blocks


def _group_norm(part: nn.GroupNorm, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    return _scale_and_shift(part, part.num_groups, x, g, samples, keys)


def _instance_norm(part: _InstanceNorm, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    return _scale_and_shift(part, x.shape[1], x, g, samples, keys)


def _scale_and_shift(
    part: nn.GroupNorm | _InstanceNorm,
    groups: int,
    x: Tensor,
    g: Tensor,
    samples: int,
    keys: Keys,
) -> Blocks:
    """Return the gradients of a norm's scale and shift.

    x is normalised here again, by sums over one channel at a time, which is faster than
    the layer itself where channels come last.
    """
    g = g.reshape(*g.shape[:2], -1)
    blocks = {}
    if "weight" in keys:
        values = x.reshape(g.shape)
        centred = values - _over_group(values.mean(2), groups)[..., None]
        variance = _over_group(centred.square().mean(2), groups)
        slopes = (centred * g).sum(2) * torch.rsqrt(variance + part.eps)
        blocks["weight"] = _by_sample(slopes, samples)
    return blocks | {"bias": _by_sample(g.sum(2), samples)} if "bias" in keys else blocks


def _over_group(channels: Tensor, groups: int) -> Tensor:
    """Return [N, C]: for every channel the mean over the channels of its group."""
    width = channels.shape[1] // groups
    return channels.reshape(-1, groups, width).mean(2).repeat_interleave(width, 1)


def _layer_norm(part: nn.LayerNorm, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    shape = part.normalized_shape
    blocks = {}
    if "weight" in keys:
        product = functional.layer_norm(x, shape, eps=part.eps) * g
        blocks["weight"] = product.reshape(samples, -1, *shape).sum(1)
    return blocks | {"bias": g.reshape(samples, -1, *shape).sum(1)} if "bias" in keys else blocks


def _prelu(part: nn.PReLU, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    product = x.clamp(max=0) * g
    if part.num_parameters == 1:
        slopes = product.sum(tuple(range(1, x.dim())))[:, None]
    else:
        slopes = product.sum(tuple(range(2, x.dim()))) if x.dim() > 2 else product
    return {"weight": _by_sample(slopes, samples)}


def _add_vector(part: AddVector, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    shared = [axis for axis in range(1, x.dim()) if part.vector.shape[axis] == 1]
    return {"vector": _by_sample(g.sum(shared, keepdim=True) if shared else g, samples)}


def _prepend(part: Prepend, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    return {"tokens": _by_sample(g[:, : part.tokens.shape[1]], samples)}


def _scale(part: Scale, x: Tensor, g: Tensor, samples: int, keys: Keys) -> Blocks:
    return {"gamma": _tokens(x * g, samples).sum(1)}


def _by_sample(rows: Tensor, samples: int) -> Tensor:
    return rows if len(rows) == samples else rows.reshape(samples, -1, *rows.shape[1:]).sum(1)


def _tokens(side: Tensor, samples: int) -> Tensor:
    """Return [S, everything between, features]."""
    return side.reshape(samples, -1, side.shape[-1])


_FORMULAS: Mapping[type[nn.Module], Formula] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _conv),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
    **dict.fromkeys((AdaptedConv3d, AdaptedConvTranspose3d), _adapted),
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.PReLU: _prelu,
    AddVector: _add_vector,
    Prepend: _prepend,
    Scale: _scale,
}
