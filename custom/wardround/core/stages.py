"""What is a round made of? Stages at every site, and one aggregation at the server.

An update leaves a site through `Stage`s (clip, noise, sparsify, quantise, mask,
encrypt), in the order of the job's JSON. The server runs one `Aggregation`, whose round
is a generator: it yields `Ask`s and is sent `Replies`. A whole run of the server
(`ServerRun`) is a generator too. None of them knows NVFlare, files or clocks, so a site
that is silent at any step is one line of a test. What fits together is computed from
traits (core/traits.py).
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
    """What one site contributes to a round.

    params: the differences from the global model, by name.
    weight: the number of the site's training patients.
    metrics: numbers that the message's schema lists, and nothing else.
    """

    params: Arrays
    weight: float
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """What a round made of the updates.

    params: the mean of the differences, by name.
    sites: the sites whose updates are in it.
    flagged: for each site that the aggregation set apart, the reason.
    """

    params: Arrays
    sites: tuple[str, ...]
    flagged: Mapping[str, str] = field(default_factory=dict)


Receipt = dict[str, Any]


class Stage(Protocol):
    """One thing that happens to an update on its way out of a site.

    A stage is a frozen value. What it has to remember lies in `memory`, which the site
    keeps.
    """

    @property
    def name(self) -> str:
        """Return the name in the job, the receipt and the compatibility table."""
        ...

    @property
    def traits(self) -> Traits:
        """Return what the stage needs of an update and what it makes of it."""
        ...

    def outbound(self, update: Update, round_: int, memory: dict[str, Any]) -> tuple[Update, Receipt]:
        """Return the update for the next stage, and the receipt of what was done to it.

        memory: named arrays and numbers of this stage, which it may change.
        """
        ...

    def inbound(self, aggregate: Aggregate, round_: int, memory: dict[str, Any]) -> Aggregate:
        """Return the aggregate in the form in which this stage was given updates.

        A quantiser dequantises and a scaling is undone. Most stages return it
        unchanged.
        """
        ...


TRAINING = "training"
STEP = "step"
"""The two deadlines of a job: TRAINING for a task in which sites train or evaluate, and
STEP for every other task.
"""


@dataclass(frozen=True)
class Ask:
    """One question of the server to some sites.

    message: a plain value. Whoever sends it knows how it is written on the wire.
    take: reads one answer, strictly checked, as a plain value. It folds the answer in
        as it arrives, so memory does not grow with the number of sites. If it raises,
        that site is lost.
    to: the sites that are asked; None means every site that is present.
    need: how many accepted answers start the wait for the others; None means that all
        are awaited.
    deadline: TRAINING or STEP.
    round_: the round in whose name the question is asked; None means the one that is
        going on.
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
    """Which sites answered an Ask with something that `take` accepted.

    missing: for each other site, the reason.
    """

    answered: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


Run = Generator[Ask, Replies, bool]
"""A whole run of the server.

It returns whether every site that was asked evaluated the final model. In that case the
state that was kept of the run is no longer needed, and the same job starts from its
beginning.
"""


class ServerRun(Protocol):
    """The server's side of one run, without network or clock.

    The controller sends every Ask that `run` yields, waits, and sends in the Replies.
    When the run is aborted, the controller closes the generator. What `run` raises
    stops the run with that reason. In every case the log is closed and the report is
    written.
    """

    @property
    def record(self) -> RunLog:
        """Return the log of the run. In a resumed run it holds the earlier rounds."""
        ...

    @property
    def done(self) -> int:
        """Return how many rounds are done.

        A number above 0 before `run` means a resumed run.
        """
        ...

    def run(self, attendance: Attendance) -> Run:
        """Run the remaining rounds, and then the final evaluation.

        attendance: who is there. The run begins rounds on it and takes out sites that
            lied. The controller notes sites that are silent, that refuse, or whose
            answer `take` does not accept.
        """
        ...

    def best(self) -> dict[str, Any] | None:
        """Return the round whose incoming model scored best, with its score.

        It returns None when no model was evaluated.
        """
        ...


Rounds = Generator[Ask, Replies, Aggregate]


class Aggregation(Protocol):
    """How one update is made of those of the sites."""

    @property
    def name(self) -> str:
        """Return the name under which the job and the compatibility table list it."""
        ...

    @property
    def traits(self) -> Traits:
        """Return what the aggregation needs of updates."""
        ...

    def round(self, context: Any) -> Rounds:
        """Run one round: yield Asks and return the Aggregate."""
        ...
