import json
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.core.validate import COUNT, FLAG, NUMBER, SCALAR, TEXT, Each, Maybe, OneOf, check, finite, once

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (1, COUNT),
        (0.5, NUMBER),
        (-3, NUMBER),
        (True, FLAG),
        ("a", TEXT),
        (None, Maybe(TEXT)),
        (False, SCALAR),
        ([1, 2], [COUNT]),
        ([], [COUNT]),
        ({"a": 1}, {"a": COUNT, "b?": TEXT}),
        ({"a": 1, "b": "x"}, {"a": COUNT, "b?": TEXT}),
        ({"any": 1}, Each(COUNT)),
        ({"x": 1}, Each(COUNT, ("x", "y"))),
        ("x", OneOf(("x", 1))),
    ],
)
def test_accepted(value: Any, shape: Any) -> None:
    check(value, shape)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (True, COUNT),
        (-1, COUNT),
        (1.0, COUNT),
        (NAN, NUMBER),
        (float("inf"), SCALAR),
        (True, NUMBER),
        (1, FLAG),
        (1, TEXT),
        (None, TEXT),
        ({"a": 1}, SCALAR),
        ("ab", [TEXT]),
        ([1, "x"], [COUNT]),
        ({}, {"a": COUNT}),
        ({"a": 1, "c": 1}, {"a": COUNT}),
        ({"b?": 1}, {"b?": COUNT}),
        ([], {"b?": COUNT}),
        ({1: 1}, Each(COUNT)),
        ({"z": 1}, Each(COUNT, ("x", "y"))),
        (True, OneOf((1,))),
        ("y", OneOf(("x",))),
    ],
)
def test_refused(value: Any, shape: Any) -> None:
    with pytest.raises(ConfigRefused):
        check(value, shape)


def test_the_path_is_named_and_the_value_is_not_printed() -> None:
    with pytest.raises(ConfigRefused) as refused:
        check({"a": [{"b": "patient Smith"}]}, {"a": [{"b": COUNT}]}, "run")
    assert "run.a[0].b" in str(refused.value)
    assert "Smith" not in str(refused.value)


def test_finite_replaces_what_json_cannot_say() -> None:
    value = {"a": (1.5, NAN), "b": {"c": float("-inf")}, "d": "NaN", "e": True}
    assert finite(value) == {"a": [1.5, None], "b": {"c": None}, "d": "NaN", "e": True}


def test_a_repeated_key_of_a_file_is_refused() -> None:
    assert json.loads('{"a": {"b": 1}, "c": 2}', object_pairs_hook=once) == {"a": {"b": 1}, "c": 2}
    with pytest.raises(ValueError, match="same key twice"):
        json.loads('{"a": {"b": 1, "b": 2}}', object_pairs_hook=once)
