"""What does the server of a secure sum keep on disk? Finished rounds and their sums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from wardround.core import files
from wardround.core.errors import RoundRefused
from wardround.messages.secagg import Revealed
from wardround.messages.statements import Moment

FILE = "secagg-round.json"


@final
class SecAggState:
    """The state after `round` rounds. The server has no model: it keeps sums.

    A sum is kept until all remaining sites have applied it. A site that missed rounds
    is handed the sums of those rounds, as they went to all others, and so comes to the
    same model.

    promise: the job's settings; a folder that another job wrote is refused.
    """

    def __init__(self, folder: Path, promise: Mapping[str, Any]) -> None:
        self.folder = folder
        self.promise = dict(promise)
        self.round = 0
        self.history: list[dict[str, Any]] = []
        self.revealed: list[Revealed] = []

    @staticmethod
    def open(folder: Path, promise: Mapping[str, Any]) -> SecAggState:
        """Resume what the folder holds, or start.

        A folder of another job, or a damaged one, raises RoundRefused.
        """
        state = SecAggState(folder, promise)
        path = folder / FILE
        if not path.is_file():
            return state
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            state.round = kept["round"]
            state.history = kept["history"]
            state.revealed = [_read(folder, one) for one in kept["revealed"]]
            same = kept["promise"] == state.promise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _refused(f"{FILE}, not readable ({type(error).__name__})") from error
        if not same:
            raise _refused("the state of another job")
        return state

    def since(self, round_: int) -> tuple[Revealed, ...]:
        """Return the sums that a site needs whose model is that of `round_` rounds."""
        return tuple(one for one in self.revealed if one.moment.round >= round_)

    def add(self, revealed: Revealed, entry: dict[str, Any], oldest: int) -> None:
        """Write one round down.

        entry: what the log says about it.
        oldest: no site needs a sum of a round before this one.
        """
        gone = [one for one in self.revealed if one.moment.round < oldest]
        self.round += 1
        self.revealed = [*self.since(oldest), revealed]
        self.history.append(entry)
        # First the sum, then what points to it, last what nobody points to any more: a
        # server that is killed in between runs the round again, with the integers that
        # the sites have kept.
        files.write(self._payload(revealed), revealed.payload, private=True, durable=True)
        kept = {
            "round": self.round,
            "history": self.history,
            "revealed": [_written(one) for one in self.revealed],
            "promise": self.promise,
        }
        files.write(self.folder / FILE, json.dumps(kept), private=True, durable=True)
        for one in gone:
            self._payload(one).unlink(missing_ok=True)

    def _payload(self, revealed: Revealed) -> Path:
        return self.folder / _payload_name(revealed.moment.round)


def _written(revealed: Revealed) -> dict[str, Any]:
    return {
        "moment": list(revealed.moment.words),
        "sites": list(revealed.sites),
        "configured": revealed.configured,
        "val_score": revealed.val_score,
        "roster": revealed.roster,
    }


def _read(folder: Path, kept: Mapping[str, Any]) -> Revealed:
    moment = Moment(*kept["moment"])
    payload = (folder / _payload_name(moment.round)).read_bytes()
    sites = tuple(kept["sites"])
    configured, val_score = kept["configured"], kept["val_score"]
    return Revealed(moment, sites, configured, val_score, payload, kept["roster"])


def _payload_name(round_: int) -> str:
    return f"sum-{round_ + 1:05d}.bin"


def _refused(found: str) -> RoundRefused:
    return RoundRefused(
        "the server's state folder",
        found=found,
        expected="the state that this job wrote, unchanged",
        fix="resume with the same job, or use another state folder",
    )
