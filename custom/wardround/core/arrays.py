"""How are model weights added, scaled, flattened, averaged and compared?

`Arrays` maps the name of a block to a float32 array. A wire name is `variable:block`.
The variable `model` is the model itself, `control` holds SCAFFOLD's control variates,
and any other variable is a baseline that travels in the same message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import RoundRefused

Array = NDArray[np.float32]
Arrays = Mapping[str, Array]


def subtract(a: Arrays, b: Arrays) -> dict[str, Array]:
    """Return a - b, block by block.

    Both must have the same names and shapes; otherwise it raises RoundRefused.
    """
    require_same_blocks(a, b, "a difference of weights")
    return {name: np.subtract(a[name], b[name], dtype=np.float32) for name in a}


def add_scaled(a: Arrays, b: Arrays, factor: float) -> dict[str, Array]:
    """Return a + factor * b for the blocks of b.

    Blocks that only a has are returned unchanged. A block of b that a lacks, or that
    has another shape there, raises RoundRefused.
    """
    require_same_blocks({name: a[name] for name in b if name in a}, b, "a sum of weights")
    step = np.float32(factor)
    return {name: a[name] + step * b[name] if name in b else a[name] for name in a}


def norm(a: Arrays) -> float:
    """Return the Euclidean norm over all blocks, accumulated in float64."""
    return float(np.sqrt(sum(float(np.sum(np.square(block, dtype=np.float64))) for block in a.values())))


def digest(a: Arrays) -> str:
    """Return the SHA-256 over names, shapes and bytes, in hexadecimal digits.

    The order of the names does not change it.
    """
    sha = hashlib.sha256()
    # Shapes are hashed too: the same bytes in another shape are another model.
    for name in sorted(a):
        block = np.ascontiguousarray(a[name], dtype=np.float32)
        sha.update(f"{name}{block.shape}".encode())
        sha.update(block.tobytes())
    return sha.hexdigest()


def size_bytes(a: Arrays) -> int:
    """Return the bytes of all blocks as float32."""
    return sum(4 * int(np.prod(block.shape)) for block in a.values())


def in_variable(variable: str, a: Arrays) -> dict[str, Array]:
    """Return the blocks under their wire names `variable:block`."""
    return {f"{variable}:{name}": block for name, block in a.items()}


def from_variable(variable: str, wire: Arrays) -> dict[str, Array]:
    """Return the blocks of one variable under their own names."""
    prefix = f"{variable}:"
    return {name[len(prefix) :]: block for name, block in wire.items() if name.startswith(prefix)}


def require_same_blocks(a: Arrays, b: Arrays, what: str) -> None:
    """Raise RoundRefused unless a and b have the same block names and shapes."""
    if a.keys() != b.keys():
        raise RoundRefused(
            f"{what}: the blocks differ",
            found=f"{len(a.keys() ^ b.keys())} unmatched block names, first {sorted(a.keys() ^ b.keys())[0]!r}",
            expected="the same block names on both sides",
            fix="run the same job and the same wardround version at every site",
        )
    for name in a:
        if a[name].shape != b[name].shape:
            raise RoundRefused(
                f"{what}: block {name!r} differs in shape",
                found=str(a[name].shape),
                expected=str(b[name].shape),
                fix="run the same model settings at every site",
            )


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the blocks of one flat vector, in order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of values of every block."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    @property
    def total(self) -> int:
        """Return the number of values of all blocks together."""
        return sum(self.sizes)

    @staticmethod
    def of(a: Arrays) -> Layout:
        """Return the layout of these blocks, in their order."""
        return Layout(tuple(a), tuple(tuple(block.shape) for block in a.values()))

    def flatten(self, a: Arrays) -> Array:
        """Return one float32 vector of length `total`.

        `a` must hold exactly the blocks of this layout; otherwise it raises
        RoundRefused.
        """
        require_same_blocks(
            a,
            {n: np.empty(s, np.float32) for n, s in zip(self.names, self.shapes, strict=True)},
            "flatten",
        )
        return np.concatenate([np.asarray(a[name], np.float32).ravel() for name in self.names])

    def unflatten(self, vector: Array) -> dict[str, Array]:
        """Return views into `vector` (length `total`) by block name."""
        blocks: dict[str, Array] = {}
        offset = 0
        for name, shape, size in zip(self.names, self.shapes, self.sizes, strict=True):
            blocks[name] = vector[offset : offset + size].reshape(shape)
            offset += size
        return blocks

    def mask(self, chosen: Iterable[str]) -> NDArray[np.bool_]:
        """Return a boolean vector [total] that is true where a chosen block is."""
        wanted = set(chosen)
        return np.repeat(np.array([name in wanted for name in self.names], bool), self.sizes)


class RunningMean:
    """The weighted mean of updates that are added as they arrive.

    Its memory does not grow with the number of sites. An update is refused with
    RoundRefused, and nothing of it is added, when its weight is not a finite number
    above 0, when one of its values is not finite, or when its names or shapes differ
    from those of the first update.
    """

    def __init__(self) -> None:
        # The sum is kept in float64, so that the order of arrival matters as little as
        # it can.
        self._sum: dict[str, NDArray[np.float64]] = {}
        self._weight = 0.0
        self.count = 0

    def add(self, update: Arrays, weight: float) -> None:
        """Add one update with its weight (for example the number of training patients)."""
        _require_sound(update, weight)
        if self.count:
            require_same_blocks(update, self._sum, "an update")  # type: ignore[arg-type]
        for name, block in update.items():
            part = np.multiply(block, weight, dtype=np.float64)
            self._sum[name] = self._sum[name] + part if name in self._sum else part
        self._weight += float(weight)
        self.count += 1

    def mean(self) -> dict[str, Array]:
        """Return the weighted mean as float32.

        It raises RoundRefused before the first update.
        """
        _require_some(self.count)
        return {name: (total / self._weight).astype(np.float32) for name, total in self._sum.items()}


def _require_sound(update: Arrays, weight: float) -> None:
    if not (np.isfinite(weight) and weight > 0):
        raise RoundRefused(
            "an update's weight",
            found=f"{weight}",
            expected="a finite number above 0",
            fix="check the site",
        )
    for name, block in update.items():
        if not np.isfinite(block).all():
            raise RoundRefused(
                f"an update holds values that are not finite in block {name!r}",
                found="NaN or inf",
                expected="finite numbers",
                fix="lower the learning rate or check the site's images",
            )


def _require_some(count: int) -> None:
    if not count:
        raise RoundRefused(
            "a mean of no updates",
            found="0 updates",
            expected="at least 1",
            fix="see the sites' logs",
        )
