import hashlib
import inspect
import subprocess
import sys

import numpy as np
import pytest

from wardround.core import rng


def test_the_seed_is_the_documented_hash():
    """First 8 bytes of SHA-256 of seed and words, joined by the unit separator, without the lowest bit."""
    text = "7\x1ftrain\x1f3"
    expected = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) // 2
    assert rng.derive(7, "train", 3) == expected


def test_seeds_are_the_same_in_another_process():
    """Python's own hash() of a text is not: it changes with PYTHONHASHSEED."""
    code = "from wardround.core import rng; print(rng.derive(1, 'a', 2))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == rng.derive(1, "a", 2)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0, "a"), (1, "a")),
        ((0, "a"), (0, "b")),
        ((0, "a", "b"), (0, "ab")),
        ((0, "a", "b"), (0, "b", "a")),
        ((1, "1"), (11,)),
        ((0,), (0, "")),
    ],
)
def test_another_purpose_is_another_stream(a, b):
    assert rng.derive(*a) != rng.derive(*b)
    assert not np.array_equal(rng.stream(*a).random(8), rng.stream(*b).random(8))


def test_the_same_purpose_is_the_same_stream():
    np.testing.assert_array_equal(rng.stream(3, "x", 1).random(8), rng.stream(3, "x", 1).random(8))


def test_seeds_fit_every_generator():
    seeds = [rng.derive(seed, "purpose") for seed in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 200


def test_secrets_take_no_seed():
    assert list(inspect.signature(rng.secret).parameters) == ["size"]
    assert [len(rng.secret(size)) for size in (0, 1, 32)] == [0, 1, 32]
    np.random.seed(0)
    first = rng.secret(32)
    np.random.seed(0)
    assert rng.secret(32) != first
