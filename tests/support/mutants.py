"""Mutants of messages and files with a fixed seed, and the one property that every door has.

A door either refuses with a Refusal, or gives a value that means the same when it is written and read again. Never another
exception, never memory or time without bound.
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from wardround.core.errors import Refusal

MOST_SECONDS, MOST_MEGABYTES = 5.0, 400


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


WEIRD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 2**63,
    lambda: 10**400,
    lambda: 2_000_000_000,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: -1e308,
    lambda: 0.5,
    lambda: "",
    lambda: "x" * 100_000,
    lambda: "\ud800",
    lambda: "two\nlines\0",
    lambda: "../../etc/passwd",
    lambda: "7",
    lambda: b"",
    lambda: b"\x80\x04K*.",
    lambda: bytes(64),
    lambda: [],
    lambda: [[[]]],
    lambda: {},
    lambda: {"a": {"b": {"c": 1}}},
    lambda: {1: 2, None: 3},
    lambda: dict.fromkeys(range(1000), 0),
    lambda: _deep(60),
    lambda: ["site-1"] * 5000,
    lambda: np.zeros(3),
    lambda: np.array([np.nan], np.float32),
    lambda: np.array([object()]),
    lambda: np.float32(1),
    lambda: {"a", "b"},
    lambda: object(),
    lambda: 1j,
]
JSON_WEIRD = [make for make in WEIRD if isinstance(make(), (type(None), bool, int, float, str, list))][:24]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every part of nested dictionaries and lists."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def part_at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutant(rng: np.random.Generator, value: Any, weird: list[Callable[[], Any]] | None = None) -> Any:
    """Return a copy of a nested value with one to three parts changed."""
    made = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        options = list(places(made))
        path = options[int(rng.integers(len(options)))]
        if not path:
            continue
        holder, key = part_at(made, path[:-1]), path[-1]
        if isinstance(holder, tuple):
            continue
        _change(rng, made, holder, key, options, weird or WEIRD)
    return made


def _change(rng: np.random.Generator, made: Any, holder: Any, key: Any, options: Any, weird: Any) -> None:
    kind, old = int(rng.integers(7)), holder[key]
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder["more" if rng.integers(2) else f"{key}?"] = old
    elif kind == 2:
        other = options[int(rng.integers(len(options)))]
        holder[key] = copy.deepcopy(part_at(made, other))
    elif kind == 3 and isinstance(old, (bytes, str)) and len(old):
        holder[key] = flipped(rng, old)
    elif kind == 4 and isinstance(old, (int, float)) and not isinstance(old, bool):
        near = [old * 2, -old, old + 1, 0.5, 1e300, 2**80]
        holder[key] = near[int(rng.integers(6))]
    elif kind == 5 and isinstance(holder, list):
        holder.append(copy.deepcopy(old))
    else:
        holder[key] = weird[int(rng.integers(len(weird)))]()


def flipped(rng: np.random.Generator, data: Any) -> Any:
    """Return bytes or text with a letter changed, cut off, doubled or put elsewhere."""
    place, kind = int(rng.integers(len(data))), int(rng.integers(4))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[place:] * 2
    if kind == 2:
        other = int(rng.integers(len(data)))
        return data[:place] + data[other : other + int(rng.integers(1, 9))] + data[place + 1 :]
    new = bytes([int(rng.integers(256))]) if isinstance(data, bytes) else chr(int(rng.integers(32, 127)))
    return data[:place] + new + data[place + 1 :]


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hold(count: int, seed: int, make: Callable[[np.random.Generator], Any], door: Callable[[Any], Any]) -> int:
    """Push `count` mutants through a door; return how many were read. Whatever breaks the property names its number.

    door: reads, writes what it read, reads that and compares
    """
    begun, read = peak_megabytes(), 0
    for number in range(count):
        given = make(np.random.default_rng([seed, number]))
        started = time.monotonic()
        try:
            door(given)
            read += 1
        except Refusal as refusal:
            if not (refusal.found and refusal.expected and refusal.fix):
                raise AssertionError(f"mutant {number} of seed {seed}: a refusal without its parts") from refusal
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {type(error).__name__}: {error}") from error
        if time.monotonic() - started > MOST_SECONDS:
            raise AssertionError(f"mutant {number} of seed {seed} took {time.monotonic() - started:.1f} s")
    if peak_megabytes() - begun > MOST_MEGABYTES:
        raise AssertionError(f"seed {seed}: {peak_megabytes() - begun:.0f} MB more than before")
    return read
