"""A round as a chain of stages at every site and one aggregation at the server.

An update leaves a site through `Stage`s (clip, noise, sparsify, quantise, mask, encrypt), in the
order of the job's JSON. The server runs one `Aggregation`, whose round is a generator: it yields
`Ask`s and is sent `Replies`. So is a whole run of the server (`ServerRun`). None of them knows
NVFlare, files or clocks, so that a silent site at any step is one line of a test. What goes with what is
computed from traits (core/traits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wardround.core.arrays import Arrays
from wardround.core.attendance import Attendance
from wardround.core.run_log import RunLog
from wardround.core.traits import Traits


@dataclass(frozen=True)
class Update:
    """What one site has to say about a round. `weight` is the number of its training patients.

    params: differences, by name
    metrics: numbers that the message's schema lists, and nothing else
    """

    params: Arrays
    weight: float
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """What a round made of the updates: a mean of differences, who is in it, and who was set apart by the rule and why."""

    params: Arrays
    sites: tuple[str, ...]
    flagged: Mapping[str, str] = field(default_factory=dict)


Receipt = dict[str, Any]


class Stage(Protocol):
    """One thing that happens to an update on its way out of a site.

    A stage is a frozen value. What it has to remember lies in `memory`, which the site keeps.
    """

    @property
    def name(self) -> str:
        """Return the name under which the job, the receipt and the compatibility table list it."""
        ...

    @property
    def traits(self) -> Traits:
        """Return what it needs and what it makes of an update."""
        ...

    def outbound(self, update: Update, round_: int, memory: dict[str, Any]) -> tuple[Update, Receipt]:
        """Return the update as it goes on, and the receipt of what was done to it.

        memory: may be written; it holds named arrays and numbers
        """
        ...

    def inbound(self, aggregate: Aggregate, round_: int, memory: dict[str, Any]) -> Aggregate:
        """Return the aggregate in the form in which this stage was given updates.

        A quantiser dequantises, a scaling is undone; most stages return it as it is.
        """
        ...


TRAINING, STEP = "training", "step"
"""The two deadlines of a job: that of a task in which sites train or judge, and that of all else."""


@dataclass(frozen=True)
class Ask:
    """One question of the server to some sites.

    message: a plain value; whoever sends it knows how it is written on the wire
    take: reads one answer and folds it in as it arrives, so that memory is flat in the number of
    sites; what it raises loses that site. It is handed the answer as a plain value, strictly read
    to: None for every site that is present
    need: how many accepted answers start the wait for the others; None: all are waited for
    deadline: TRAINING or STEP
    round_: the round in whose name it is asked; None: the one that is going on
    """

    task: str
    message: Any
    take: Callable[[str, Any], None]
    to: tuple[str, ...] | None = None
    need: int | None = None
    deadline: str = TRAINING
    round_: int | None = None


@dataclass(frozen=True)
class Replies:
    """Who answered an Ask with something that `take` accepted, and who did not and why."""

    answered: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


Run = Generator[Ask, Replies, bool]
"""A whole run of the server. It returns whether every site that was asked judged the final model:
then the state that was kept of the run is over, and the same job begins anew."""


class ServerRun(Protocol):
    """What the controller drives: the server's side of one run, with neither network nor clock.

    The controller sends every Ask that `run` yields, waits, and sends in the Replies. When the run
    is aborted it closes the generator. What `run` raises stops the run with that reason. Whatever
    happens, the record is closed and the report written.
    """

    @property
    def record(self) -> RunLog:
        """Return the log of the run; it holds the earlier rounds of a run that is resumed."""
        ...

    @property
    def done(self) -> int:
        """Return how many rounds are done: above 0 before `run`, the run is resumed."""
        ...

    def run(self, attendance: Attendance) -> Run:
        """Run the rounds that are left, and then the final evaluation.

        attendance: who is there. The run begins rounds on it and takes out who lied; who is silent,
        refuses, or sends what `take` does not accept, is noted by the controller
        """
        ...

    def best(self) -> dict[str, Any] | None:
        """Return the round whose incoming model was judged best, with its score; None: none was."""
        ...


Rounds = Generator[Ask, Replies, Aggregate]


class Aggregation(Protocol):
    """How one update is made out of those of the sites."""

    @property
    def name(self) -> str:
        """Return the name under which the job and the compatibility table list it."""
        ...

    @property
    def traits(self) -> Traits:
        """Return what it needs of updates."""
        ...

    def round(self, context: Any) -> Rounds:
        """Run one round: yield Asks, return the Aggregate."""
        ...
