"""What the server of a hidden sum keeps: rounds done, their history, and the sums that some site has not applied yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core import files
from wardround.errors import RoundRefused
from wardround.flare.sealed import Revealed
from wardround.privacy.statements import Moment

FILE = "secure-round.json"


class SecureState:
    """round r: r rounds are done. The server has no model: it keeps every sum until all sites that are left have it.

    A site that missed rounds is handed the sums of those rounds, as they went to all others, and so comes to the same model.
    """

    def __init__(self, folder: Path, promise: Mapping[str, Any]) -> None:
        self.folder, self.promise = folder, dict(promise)
        self.round = 0
        self.history: list[dict[str, Any]] = []
        self.revealed: list[Revealed] = []

    @staticmethod
    def open(folder: Path, promise: Mapping[str, Any]) -> SecureState:
        """Resume what the folder holds, or start. Another job's folder, or a damaged one: RoundRefused."""
        state, path = SecureState(folder, promise), folder / FILE
        if not path.is_file():
            return state
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            state.round, state.history = said["round"], said["history"]
            for one in said["revealed"]:
                moment, payload = Moment(*one["moment"]), (folder / _payload(one["moment"][1])).read_bytes()
                sites, roster = tuple(one["sites"]), one["roster"]
                last = Revealed(moment, sites, one["configured"], one["val_score"], payload, roster)
                state.revealed.append(last)
            same = said["promise"] == state.promise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _refused(f"{FILE}, not readable ({type(error).__name__})") from error
        if not same:
            raise _refused("the state of another job")
        return state

    def since(self, round_: int) -> tuple[Revealed, ...]:
        """Return the sums that a site needs whose model is that of `round_` rounds."""
        return tuple(one for one in self.revealed if one.moment.round >= round_)

    def done(self, revealed: Revealed, entry: dict[str, Any], oldest: int) -> None:
        """Write one round down: first the sum, then what points to it. oldest: no site needs a sum of a round before it."""
        gone = [one for one in self.revealed if one.moment.round < oldest]
        self.round += 1
        self.revealed = [*self.since(oldest), revealed]
        self.history.append(entry)
        files.write(self.folder / _payload(revealed.moment.round), revealed.payload, private=True, durable=True)
        kept = [
            {
                "moment": list(one.moment.words),
                "sites": list(one.sites),
                "configured": one.configured,
                "val_score": one.val_score,
                "roster": one.roster,
            }
            for one in self.revealed
        ]
        said = {"round": self.round, "history": self.history, "revealed": kept, "promise": self.promise}
        files.write(self.folder / FILE, json.dumps(said), private=True, durable=True)
        for one in gone:
            (self.folder / _payload(one.moment.round)).unlink(missing_ok=True)


def _payload(round_: int) -> str:
    return f"sum-{round_ + 1:05d}.bin"


def _refused(found: str) -> RoundRefused:
    return RoundRefused(
        "the server's state folder",
        found=found,
        expected="the state that this job wrote, unchanged",
        fix="resume with the same job, or use another state folder",
    )
