"""What a site with differential privacy has released in a round is kept, so that a
round that is asked again gets the same answer.

A server that broke off repeats its last round. To train that round again would be a
second release of the same patients, with fresh noise and charged again. The same bytes
sent once more tell nothing new and cost nothing. The outbound filter decides: only what
it has itself released, bit for bit and with the same numbers, passes uncharged.
Anything else is a release of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core import stored
from wardround.core.arrays import digest
from wardround.flare.outbound import Asked
from wardround.flare.plaintext_messages import Update

RELEASED = "released.npz"


def answer(folder: Path, asked: Asked) -> Update | None:
    """Return what this site released when it was asked exactly this before, or None."""
    update, before = _released(folder)
    return update if before == _question(asked) else None


def keep(folder: Path, asked: Asked, update: Update) -> None:
    """Keep what is about to leave as the answer to what was asked."""
    said = {"weight": update.weight, "numbers": dict(update.numbers), "facts": dict(update.facts)}
    stored.save(folder / RELEASED, update.delta, said | {"asked": _question(asked)})


def is_released(folder: Path, asked: Asked, update: Update) -> bool:
    """Tell whether exactly this, with every number of it, was released before as the
    answer to the same question.
    """
    before = answer(folder, asked)
    return before is not None and digest(before.delta) == digest(update.delta) and _meta(before) == _meta(update)


def _question(asked: Asked) -> dict[str, Any]:
    return {"round": asked.round, "model": asked.model}


def _released(folder: Path) -> tuple[Update | None, Mapping[str, Any] | None]:
    """Return (what was released last, what had been asked).

    A file that is missing or that cannot be read counts as never released: None.
    """
    found = stored.load(folder / RELEASED)
    if found is None:
        return None, None
    arrays, said = found
    try:
        return Update(arrays, said["weight"], said["numbers"], said["facts"]), said["asked"]
    except KeyError:
        return None, None


def _meta(update: Update) -> str:
    return json.dumps([update.weight, dict(update.numbers), dict(update.facts)], sort_keys=True)
