"""What the server of a hidden sum keeps: rounds done, their history, and the last sum, as it goes to the sites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.errors import RoundRefused
from wardround.flare.sealed import Revealed
from wardround.privacy import durable
from wardround.privacy.statements import Moment

FILE = "secure-round.json"


class SecureState:
    """round r: r rounds are done. The server has no model: it keeps the sum of the last round until all sites have it."""

    def __init__(self, folder: Path, promise: Mapping[str, Any]) -> None:
        self.folder, self.promise = folder, dict(promise)
        self.round = 0
        self.history: list[dict[str, Any]] = []
        self.revealed: Revealed | None = None

    @staticmethod
    def open(folder: Path, promise: Mapping[str, Any]) -> SecureState:
        """Resume what the folder holds, or start. Another job's folder, or a damaged one: RoundRefused."""
        state, path = SecureState(folder, promise), folder / FILE
        if not path.is_file():
            return state
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            payload = (folder / said["payload"]).read_bytes()
            last = said["revealed"]
            moment = Moment(*last["moment"])
            state.round, state.history = said["round"], said["history"]
            state.revealed = Revealed(moment, tuple(last["sites"]), last["configured"], last["val_score"], payload)
            same = said["promise"] == state.promise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _refused(f"{FILE}, not readable ({type(error).__name__})") from error
        if not same:
            raise _refused("the state of another job")
        return state

    def done(self, revealed: Revealed, entry: dict[str, Any]) -> None:
        """Write one round down: first the sum, then what points to it."""
        self.round, self.revealed = self.round + 1, revealed
        self.history.append(entry)
        payload = f"sum-{self.round:05d}.bin"
        durable.write(self.folder / payload, revealed.payload)
        last = {"moment": list(revealed.moment.words), "sites": list(revealed.sites)}
        last |= {"configured": revealed.configured, "val_score": revealed.val_score}
        said = {"round": self.round, "history": self.history, "revealed": last, "payload": payload}
        durable.write(self.folder / FILE, json.dumps(said | {"promise": self.promise}).encode())
        (self.folder / f"sum-{self.round - 1:05d}.bin").unlink(missing_ok=True)


def _refused(found: str) -> RoundRefused:
    return RoundRefused(
        "the server's state folder",
        found=found,
        expected="the state that this job wrote, unchanged",
        fix="resume with the same job, or use another state folder",
    )
