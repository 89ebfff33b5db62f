"""Which public scales make hospital-level noise cost the least accuracy?

They are wide where the loss is flat and updates are large, and narrow elsewhere.

    s_g proportional to (v_g / h_g)^(1/4)
    v: mean squared update, h: mean squared gradient (Fisher), by group g

The weighted error of a released update is proportional to C^2 sum_g d_g h_g s_g^2 (d_g
values in a group), and a clip that lets the update through has C^2 = sum_g d_g v_g /
s_g^2. By Cauchy-Schwarz the product is least at s_g^4 = v_g / h_g, where it is (sum d
sqrt(v h))^2; s = 1 gives (sum d v)(sum d h). Nothing is gained where v is proportional
to h, as after a single SGD step.
v and h must be public: from public data or a public checkpoint (`squares`), from an
earlier release (`squares_of_mean`, one round behind, free as post-processing), or
bought (`energy`, a release of its own at multiplier z0). They are never a site's own in
plaintext. A bad estimate costs accuracy and never privacy: dp/hospital_dp.py is valid
for every public s.
All machines compute the same bits: sums are exact (fsum), and only + - * / and square
roots are used, which IEEE 754 rounds correctly.
Source: ours; the idea of Fisher-adaptive noise is that of MM-PFL-ADP, whose clip is not
valid (benchmarks/canary.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ConfigRefused

# A mean square below FLOOR of the largest counts as that, and scales stay within 1 /
# CLAMP to CLAMP: an estimate from few values must not decide alone.
FLOOR = 1e-4
CLAMP = 16.0
MOST_GROUPS = 30


def groups_of(layout: Layout, most: int = MOST_GROUPS) -> tuple[int, ...]:
    """Return a group number, from 0, for every block.

    There are at most `most` groups, each of neighbours of one kind. Blocks with one
    axis (norms, biases) and kernels never share a group, because their updates differ
    in size.
    """
    kinds = [[b for b, shape in enumerate(layout.shapes) if (len(shape) > 1) == kernel] for kernel in (False, True)]
    kinds = [blocks for blocks in kinds if blocks]
    if most < len(kinds) or not layout.names:
        raise _refused(
            f"{len(layout.names)} blocks in {most} groups",
            "at least a block, and a group for each kind",
        )
    shares = _parts([len(blocks) for blocks in kinds], most)
    found, first = [0] * len(layout.names), 0
    for blocks, parts in zip(kinds, shares, strict=True):
        for place, block in enumerate(blocks):
            found[block] = first + place * parts // len(blocks)
        first += parts
    return tuple(found)


def sizes_of(layout: Layout, groups: Sequence[int]) -> tuple[int, ...]:
    """Return how many values each group has."""
    sizes = [0] * (max(groups) + 1)
    for group, size in zip(groups, layout.sizes, strict=True):
        sizes[group] += size
    return tuple(sizes)


def squares(layout: Layout, groups: Sequence[int], a: Arrays) -> tuple[float, ...]:
    """Return the mean square by group, of PUBLIC numbers only.

    Gradients give h, and updates give v.
    """
    flat = [np.asarray(a[name], np.float64).ravel() for name in layout.names]
    sums = [
        math.fsum(
            value for block, g in zip(flat, groups, strict=True) if g == group for value in (block * block).tolist()
        )
        for group in range(max(groups) + 1)
    ]
    return tuple(total / size for total, size in zip(sums, sizes_of(layout, groups), strict=True))


def squares_of_mean(
    layout: Layout,
    groups: Sequence[int],
    mean: Arrays,
    scales: Mapping[str, float],
    deviation: float,
) -> tuple[float, ...]:
    """Return v by group from a released mean U / n.

    It is the mean square less that of the noise, times s^2. It may lag a round behind,
    and it may be averaged over rounds. A group below the standard error of that
    difference counts as much as the error, because it cannot be told from zero.

    deviation: of the noise in the mean, d / sqrt(n), in units of u.
    """
    raw, sizes = squares(layout, groups, mean), sizes_of(layout, groups)
    square = {group: scales[name] ** 2 for name, group in zip(layout.names, groups, strict=True)}
    noise = deviation * deviation
    return tuple(
        square[group] * max(value - noise, noise * math.sqrt(2 / sizes[group])) for group, value in enumerate(raw)
    )


def energy(layout: Layout, groups: Sequence[int], difference: Arrays) -> Array:
    """Return each group's part of the squared norm, float32.

    It is PRIVATE and must be released by `hospital_dp.privatise`. The parts are 0 or
    more and add up to 1, so the L2 norm is at most 1, which is the clip to use. A zero
    update gives zeros.
    """
    each = squares(layout, groups, difference)
    total = [value * size for value, size in zip(each, sizes_of(layout, groups), strict=True)]
    whole = math.fsum(total)
    parts = np.array(total, np.float64) / whole if whole > 0 else np.zeros(len(total))
    return parts.astype(np.float32)


def squares_of_energy(histogram: Array, sizes: Sequence[int], deviation: float) -> tuple[float, ...]:
    """Return v by group, up to a factor, from a released mean histogram.

    It is shrunk towards equal v (James and Stein 1961, positive part): a histogram that
    could be noise alone gives equal v. A part that is negative after that counts as 0.

    deviation: of the noise in the histogram, d / sqrt(n).
    """
    whole, parts = sum(sizes), [float(part) for part in histogram.tolist()]
    equal = [size / whole for size in sizes]
    away = math.fsum((part - same) * (part - same) for part, same in zip(parts, equal, strict=True))
    noise = len(parts) * deviation * deviation
    kept = 1 - noise / away if away > noise else 0.0
    return tuple(
        max(0.0, same + kept * (part - same)) / size for part, same, size in zip(parts, equal, sizes, strict=True)
    )


def scales(v: Sequence[float], h: Sequence[float], sizes: Sequence[int]) -> tuple[float, ...]:
    """Return s by group.

    It is (v / h)^(1/4), scaled so that the mean of s^2 over values is 1, and then
    clamped to 1/CLAMP .. CLAMP. Negative numbers, NaN and inf raise ConfigRefused.

    v, h: by group. A number below FLOOR of the largest one counts as that. If all are
        zero, each counts as 1.
    """
    raw = [math.sqrt(math.sqrt(a / b)) for a, b in zip(_floored(v), _floored(h), strict=True)]
    mean = math.fsum(size * s * s for size, s in zip(sizes, raw, strict=True)) / sum(sizes)
    return tuple(min(CLAMP, max(1 / CLAMP, s / math.sqrt(mean))) for s in raw)


def by_block(layout: Layout, groups: Sequence[int], s: Sequence[float]) -> dict[str, float]:
    """Return the scale of every block, in the form that hospital_dp takes."""
    return {name: s[group] for name, group in zip(layout.names, groups, strict=True)}


def isotropic(layout: Layout) -> dict[str, float]:
    """Return 1 for every block."""
    return dict.fromkeys(layout.names, 1.0)


def _floored(values: Sequence[float]) -> list[float]:
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise _refused("a mean square that is negative, NaN or inf", "finite numbers, 0 or more")
    largest = max(values)
    return [max(value / largest, FLOOR) for value in values] if largest > 0 else [1.0] * len(values)


def _parts(blocks: Sequence[int], most: int) -> list[int]:
    """Return how many groups each kind gets.

    Every block has its own if they fit; otherwise the groups are shared in proportion,
    with at least one for each kind.
    """
    if sum(blocks) <= most:
        return list(blocks)
    if len(blocks) == 1:
        return [most]
    first = min(most - 1, blocks[0], max(1, most * blocks[0] // sum(blocks)))
    return [first, min(blocks[1], most - first)]


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "scales of private noise",
        found=found,
        expected=expected,
        fix="print the job again with the scales that `wardround scales` prints",
    )
