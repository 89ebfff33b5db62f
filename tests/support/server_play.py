"""A run of the server without processes: whoever sends Asks in NVFlare is played here, faults included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wardround.core.attendance import SILENT, Attendance
from wardround.core.errors import Refusal
from wardround.core.stages import Ask, Replies, ServerRun

Answer = Callable[[Ask], Any]


@dataclass
class Refuses:
    """What a site sends that would not, or could not (passing: it is asked again)."""

    code: str
    passing: bool = False


@dataclass
class Played:
    """asked: (task, sites) of every Ask | whole: what the run returned | stopped: the Refusal that ended it

    rejected: why, of every message that was not accepted
    """

    there: Attendance
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    whole: bool | None = None
    stopped: Refusal | None = None
    rejected: list[str] = field(default_factory=list)


def play(
    run: ServerRun,
    answers: Mapping[str, Answer],
    num_rounds: int,
    abort: Callable[[Ask], bool] = lambda ask: False,
    crash: Callable[[Ask], bool] = lambda ask: False,
    there: Attendance | None = None,
) -> Played:
    """Run it to its end; every site answers with `answers[site](ask)`; None: it is silent.

    abort: whether the run is aborted while this Ask is open: the generator is closed
    crash: whether the server dies while it is open: the generator is left where it is
    there: given by a test that looks at it, or changes it, while the run goes on
    An answer that is a list is several messages of one site, as a forger, or a network that repeats one, sends them.
    """
    played = Played(there or Attendance(answers, num_rounds, run.record))
    steps = run.run(played.there)
    replies: Replies | None = None
    while True:
        try:
            ask = steps.send(replies)
        except StopIteration as end:
            played.whole = end.value
            return played
        except Refusal as refusal:
            played.stopped = refusal
            return played
        if crash(ask):
            return played
        replies = _asked(played, ask, answers)
        if abort(ask):
            steps.close()
            return played


def _asked(played: Played, ask: Ask, answers: Mapping[str, Answer]) -> Replies:
    there, answered = played.there, list[str]()
    targets = [site for site in (ask.to or there.present()) if site in there.present()]
    played.asked.append((ask.task, tuple(targets)))
    for site in targets:
        said = answers[site](ask)
        for message in said if isinstance(said, list) else [said]:
            _folded(played, ask, site, message, answered)
    return Replies(tuple(answered), dict(there.missing))


def _folded(played: Played, ask: Ask, site: str, message: Any, answered: list[str]) -> None:
    there = played.there
    if message is None:
        there.miss(site, SILENT, ask.round_)
    elif isinstance(message, Refuses):
        note = there.miss if message.passing else there.lose
        note(site, f"refused: {message.code}", ask.round_)
    else:
        try:
            ask.take(site, message)
        except Refusal as refusal:
            # What a site sent before stays in the round: it is folded in already.
            played.rejected.append(str(refusal))
            there.lose(site, f"rejected: {refusal.code}", ask.round_)
        else:
            if site not in answered:
                answered.append(site)
