"""Does a JSON value have the shape that it must have?

A shape is readable: it is a dict of shapes, a list of one shape, `Each`, `Maybe`,
`Some`, `OneOf`, `Like` or a `Leaf`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.core.errors import ConfigRefused

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Leaf:
    """A value of one of these Python types.

    A bool does not count as a number. Numbers are finite and lie between `least` and
    `most`.
    """

    name: str
    types: tuple[type, ...]
    least: float = -sys.float_info.max
    most: float = sys.float_info.max

    def holds(self, value: object) -> bool:
        """Return whether the value has the type and lies within the limits."""
        # In Python a bool is an int, so it comes first.
        if isinstance(value, bool):
            return bool in self.types
        if isinstance(value, (int, float)):
            # NaN fits between no two numbers, and an integer that no float can hold is
            # above the largest one.
            return isinstance(value, self.types) and self.least <= value <= self.most
        return isinstance(value, self.types)

    def beyond(self, value: object) -> bool:
        """Return whether only the size of the value is wrong, not its type."""
        return isinstance(value, self.types) and not isinstance(value, bool) and not self.holds(value)


@dataclass(frozen=True)
class OneOf:
    """One of these texts or numbers."""

    values: tuple[str | int, ...]


@dataclass(frozen=True)
class Like:
    """A text that matches the whole regular expression.

    `name` says in words what it is.
    """

    name: str
    pattern: str

    def holds(self, value: object) -> bool:
        """Return whether the value is a text that matches."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class Maybe:
    """Either null or the shape."""

    shape: Any


@dataclass(frozen=True)
class Some:
    """The shape, or a list of it."""

    shape: Any


@dataclass(frozen=True)
class Each:
    """A mapping from any text, or from one of `keys`, to the shape."""

    shape: Any
    keys: tuple[str, ...] = ()


TEXT = Leaf("a text", (str,))
NUMBER = Leaf("a finite number", (int, float))
WHOLE_NUMBER = Leaf("a whole number", (int,))
COUNT = Leaf("a whole number from 0", (int,), least=0)
FLAG = Leaf("true or false", (bool,))
SCALAR = Leaf("a text, number or flag", (str, int, float, bool))


def check(value: Any, shape: Any, path: str = "report") -> None:
    """Raise ConfigRefused, which names the path, unless `value` has the shape.

    In a dict shape, keys that end in "?" may be absent, all others must be there, and
    no further key is allowed. A list shape is a list of its one shape. The value itself
    is never printed, only its type.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            check(value, shape.shape, path)
    elif isinstance(shape, Some):
        check(value, [shape.shape] if isinstance(value, list) else shape.shape, path)
    elif isinstance(shape, Leaf) and shape.beyond(value):
        _require(False, value, shape.name, path, " out of range")
    elif isinstance(shape, (Leaf, Like)):
        _require(shape.holds(value), value, shape.name, path)
    elif isinstance(shape, OneOf):
        _require(
            value in shape.values and not isinstance(value, bool),
            value,
            f"one of {list(shape.values)}",
            path,
        )
    elif isinstance(shape, list):
        _require(isinstance(value, list), value, "a list", path)
        for i, item in enumerate(value):
            check(item, shape[0], f"{path}[{i}]")
    else:
        _require(
            isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
            value,
            "a mapping with text keys",
            path,
        )
        _check_mapping(value, shape, path)


def finite(value: Any) -> Any:
    """Return the JSON value with NaN and inf replaced by None, and tuples by lists.

    It goes through all levels.
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs, for a reader of JSON.

    A repeated key raises ValueError: a reader would otherwise take the last one.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("the same key twice in one object")
    return content


def _check_mapping(value: Json, shape: Any, path: str) -> None:
    if isinstance(shape, Each):
        allowed, missing = set(shape.keys) or set(value), set()
    else:
        allowed = {key.rstrip("?") for key in shape}
        missing = {key for key in shape if not key.endswith("?")} - set(value)
    unknown = set(value) - allowed
    if unknown or missing:
        raise ConfigRefused(
            f"the keys of {path}",
            found=f"unknown {sorted(unknown)}, missing {sorted(missing)}",
            expected=f"keys {sorted(allowed)}" if allowed else "no key",
            fix="write and read it with the same wardround version",
        )
    for key, item in value.items():
        check(
            item,
            shape.shape if isinstance(shape, Each) else shape[key] if key in shape else shape[f"{key}?"],
            f"{path}.{key}",
        )


def _require(holds: bool, value: Any, expected: str, path: str, why: str = "") -> None:
    if not holds:
        infinite = isinstance(value, float) and not math.isfinite(value)
        found = f"a {type(value).__name__}{f' that is {value}' if infinite else why}"
        raise ConfigRefused(
            f"the value of {path}",
            found=found,
            expected=expected,
            fix="write and read it with the same wardround version",
        )
