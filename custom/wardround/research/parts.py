"""How are many independent measurements run: here, in processes, or on a cluster?

A part is one call of a plain function with one key. Parts do not know each other, so
they may run in any order and anywhere; joblib does that, with its backends for this
machine ("sequential", "loky") and for a Dask cluster ("dask"). A part is kept by the
process that called, as soon as it is finished, so a run that was broken off goes on
where it stopped. A part that fails is reported, and the others go on.

On a cluster every worker must import what the function needs, and must see the files
that the key names: install the same version there, and use a folder that all machines
share (docs/operations.md, "Larger experiments").
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

from wardround.core.errors import ConfigRefused, Refusal

Key = TypeVar("Key")
Say = Callable[[str], None]
BACKENDS = ("sequential", "loky", "dask")
# Seconds to wait for a scheduler that does not answer.
CONNECT_S = 20
# What data, settings, numbers and machines can do wrong. A mistake in the program is
# none of these: it would meet every other part too, so it ends the run with its
# traceback.
FAILURES = (Refusal, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, ValueError)


@final
@dataclass(frozen=True)
class Engine:
    """Where parts run.

    backend: "sequential" is this process, one part after the other; "loky" are
        `workers` processes of this machine; "dask" is the cluster of `scheduler`, which
        has workers of its own.
    scheduler: The address of a Dask scheduler, for example tcp://10.0.0.5:8786.

    ConfigRefused is raised for another backend, for fewer than one worker, for several
    workers in one process, and for a scheduler without "dask" or the reverse.
    """

    backend: str = "sequential"
    workers: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        whole = self.backend in BACKENDS and self.workers >= 1
        fits = self.workers == 1 or self.backend == "loky"
        if not (whole and fits and (self.backend == "dask") == (self.scheduler is not None)):
            raise ConfigRefused(
                "where the parts run",
                found=f"backend {self.backend!r}, workers {self.workers}, scheduler {self.scheduler}",
                expected="sequential; loky with 1 worker or more; dask with a scheduler alone",
                fix="`--backend loky --workers 2`, or `--backend dask --scheduler tcp://HOST:8786`",
            )


@final
@dataclass(frozen=True)
class Failure:
    """A part that was not finished: its name, and what was wrong."""

    part: str
    words: str


@final
@dataclass(frozen=True)
class _Ended(Generic[Key]):
    """A part that has ended: its seconds, and either a result or what was wrong."""

    key: Key
    seconds: float
    result: Any
    words: str | None


def run_parts(
    function: Callable[[Key], Any],
    keys: Sequence[Key],
    done: Callable[[Key], bool],
    keep: Callable[[Key, float, Any], None],
    engine: Engine,
    say: Say,
    name: Callable[[Key], str] = str,
) -> list[Failure]:
    """Call `function` with every key that is not done; return the parts that failed.

    function: Is pickled for other processes, with what it is bound to.
    done: Asked once for each key, before anything runs.
    keep: Called here with (key, seconds, result) as each part is finished, in the order
        in which they finish.
    say: Is given one line for each part, and the reason of each failure.

    What `keep` raises, and a mistake in the program, end the run.
    """
    todo = [key for key in keys if not done(key)]
    say(f"{len(keys)} parts, {len(keys) - len(todo)} are finished already")
    failures = []
    with _ended(function, todo, engine) as ended:
        for number, part in enumerate(ended, 1):
            told = f"{name(part.key)} ({number} of {len(todo)}, {part.seconds:.0f} s)"
            if part.words is not None:
                failures.append(Failure(name(part.key), part.words))
                say(f"{told} FAILED: {part.words}")
                continue
            keep(part.key, part.seconds, part.result)
            say(told)
    for failure in failures:
        say(f"not finished: {failure.part}")
    return failures


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare --backend, --workers and --scheduler."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="sequential",
        help="sequential: one after the other here; loky: in processes; dask: on a cluster",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes of --backend loky; default 1",
    )
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="of --backend dask")


def engine_of(args: argparse.Namespace) -> Engine:
    """Return the engine that these options name, or refuse them with ConfigRefused."""
    return Engine(args.backend, args.workers, args.scheduler)


def _attempt(function: Callable[[Key], Any], key: Key) -> _Ended[Key]:
    begun = time.monotonic()
    try:
        result, words = function(key), None
    except FAILURES as error:
        # As words: a refusal cannot be pickled on its way back from another process.
        result, words = None, f"{type(error).__name__}: {error}"
    return _Ended(key, round(time.monotonic() - begun, 1), result, words)


@contextmanager
def _ended(
    function: Callable[[Key], Any],
    keys: Sequence[Key],
    engine: Engine,
) -> Iterator[Iterator[_Ended[Key]]]:
    """Give the parts as they end."""
    from joblib import Parallel, delayed, parallel_config

    calls = [delayed(_attempt)(function, key) for key in keys]
    if engine.backend != "dask":
        with parallel_config(engine.backend):
            # Batches of one: joblib would otherwise hold back finished parts.
            yield Parallel(engine.workers, return_as="generator_unordered", batch_size=1)(calls)
        return
    with _client(engine), parallel_config("dask"):
        yield Parallel(-1, return_as="generator_unordered", batch_size=1)(calls)


def _client(engine: Engine) -> Any:
    """Return the client of a cluster; joblib's backend takes the one that is open."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigRefused(
            "the backend dask",
            found="no package `distributed` in this environment",
            expected="dask's distributed scheduler, here and at every worker",
            fix="pip install '.[cluster]' in the checkout of wardround",
        ) from error
    try:
        return Client(engine.scheduler, timeout=CONNECT_S, set_as_default=True)
    except (OSError, ValueError) as error:
        raise ConfigRefused(
            f"the scheduler {engine.scheduler}",
            found=f"no answer ({type(error).__name__})",
            expected="a Dask scheduler that this machine can reach",
            fix="start one with `dask scheduler`, and workers with `dask worker tcp://HOST:8786`",
        ) from error
