"""What a site with differential privacy has released in a round, kept: a round that is asked again is answered with the same.

A server that broke off repeats its last round. Training it anew would be a second release of the same patients, with fresh noise
and charged again; the same bytes once more tell nothing new and cost nothing. The exit decides: only what it has itself released,
bit for bit, with the same numbers, passes uncharged; anything else is a release of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.arrays import Arrays, digest
from wardround.core import files
from wardround.errors import ModelRefused
from wardround.flare.wire import Update
from wardround.models import checkpoint

ASKED, RELEASED = "asked.json", "released.npz"


def expect(folder: Path, round_: int, weights: Arrays) -> Update | None:
    """Note what is asked of this site; return what it released when it was asked exactly that before, else None."""
    asked = {"round": round_, "model": digest(weights)}
    files.write(folder / ASKED, json.dumps(asked), private=True)
    update, before = _released(folder)
    return update if before == asked else None


def keep(folder: Path, update: Update) -> None:
    """Keep what is about to leave as the answer to what was asked."""
    said = {"weight": update.weight, "numbers": dict(update.numbers), "facts": dict(update.facts)}
    said |= {"asked": _asked(folder)}
    checkpoint.save(folder / RELEASED, update.delta, str(update.facts.get("fingerprint")), said)


def is_released(folder: Path, update: Update) -> bool:
    """Tell whether exactly this, every number of it, was released before as the answer to the same question."""
    before, asked = _released(folder)
    if before is None or asked is None or asked != _asked(folder):
        return False
    return digest(before.delta) == digest(update.delta) and _meta(before) == _meta(update)


def _asked(folder: Path) -> Any:
    path = folder / ASKED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _released(folder: Path) -> tuple[Update | None, Mapping[str, Any] | None]:
    """Return (what was released last, what had been asked); nothing readable: None, so that it counts as never released."""
    try:
        delta, said = checkpoint.load(folder / RELEASED)
        return Update(delta, said["weight"], said["numbers"], said["facts"]), said["asked"]
    except (OSError, KeyError, ModelRefused):
        return None, None


def _meta(update: Update) -> str:
    return json.dumps([update.weight, dict(update.numbers), dict(update.facts)], sort_keys=True)
