"""Parts run anywhere and in any order: finished once, kept at once, and one that fails does not stop the others."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import derive
from wardround.research.parts import Engine, Failure, add_options, engine_of, run_parts

KEYS = list(range(6))


def run(kept: dict[int, Any], engine: Engine, function: Any = None, said: list[str] | None = None) -> list[Failure]:
    def keep(key: int, seconds: float, result: Any) -> None:
        assert seconds >= 0
        assert key not in kept
        kept[key] = result

    tell = (said if said is not None else []).append
    return run_parts(function or derive, KEYS, kept.__contains__, keep, engine, tell)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_every_backend_finds_the_same(scheduler: str) -> None:
    expected = {key: derive(key) for key in KEYS}
    for engine in (Engine(), Engine("loky", 2), Engine("dask", scheduler=scheduler)):
        kept: dict[int, Any] = {}
        assert run(kept, engine) == []
        assert kept == expected, engine


def test_a_run_that_was_broken_off_ends_as_an_unbroken_one() -> None:
    broken: dict[int, Any] = {}

    def stopped(key: int) -> int:
        if len(broken) == 2:
            raise KeyboardInterrupt
        return derive(key)

    with pytest.raises(KeyboardInterrupt):
        run(broken, Engine(), stopped)
    assert len(broken) == 2
    said: list[str] = []
    assert run(broken, Engine(), said=said) == []
    whole: dict[int, Any] = {}
    run(whole, Engine())
    assert broken == whole
    assert said[0] == "6 parts, 2 are finished already"


def test_the_order_of_the_keys_changes_nothing() -> None:
    kept: dict[int, Any] = {}
    run_parts(
        derive,
        KEYS[::-1],
        kept.__contains__,
        lambda key, s, found: kept.update({key: found}),
        Engine(),
        str,
    )
    assert kept == {key: derive(key) for key in KEYS}


@pytest.mark.parametrize("backend", ["sequential", "loky", "dask"])
def test_a_part_that_fails_is_reported_and_the_others_go_on(backend: str, scheduler: str) -> None:
    engine = Engine(backend, scheduler=scheduler if backend == "dask" else None)
    kept: dict[int, Any] = {}
    said: list[str] = []
    failures = run_parts(
        math.sqrt,
        [4, -1, 9],
        kept.__contains__,
        lambda key, s, found: kept.update({key: found}),
        engine,
        said.append,
    )
    assert kept == {4: 2, 9: 3}
    [failure] = failures
    assert failure.part == "-1"
    assert failure.words.startswith("ValueError: ")
    assert said[-1] == "not finished: -1"


def test_a_refusal_is_reported_with_what_to_do() -> None:
    def refused(key: int) -> int:
        raise DataRefused("a thing", found="one", expected="two", fix="add one")

    failures = run_parts(refused, [1], lambda key: False, lambda *found: None, Engine(), str)
    assert "to do:    add one" in failures[0].words


def test_a_mistake_in_the_program_ends_the_run() -> None:
    with pytest.raises(AttributeError):
        run_parts(lambda key: key.nothing, [1, 2], lambda key: False, lambda *found: None, Engine(), str)


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "threads"},
        {"workers": 0},
        {"workers": 2},
        {"backend": "dask"},
        {"scheduler": "tcp://127.0.0.1:1"},
        {"backend": "dask", "scheduler": "tcp://127.0.0.1:1", "workers": 2},
    ],
)
def test_engines_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused, match="--backend loky --workers 2"):
        Engine(**wrong)


def test_a_scheduler_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.research.parts.CONNECT_S", 0.2)
    with pytest.raises(ConfigRefused, match="dask scheduler"):
        run({}, Engine("dask", scheduler="tcp://127.0.0.1:1"))


def test_the_flags_name_an_engine() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert engine_of(parser.parse_args([])) == Engine()
    assert engine_of(parser.parse_args(["--backend", "loky", "--workers", "3"])) == Engine("loky", 3)
