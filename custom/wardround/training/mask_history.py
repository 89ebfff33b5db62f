"""Which blocks became personal at this hospital, and in which round?

The history is one JSON file in the site's state, so that a restart loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wardround.algorithms.base import MASK
from wardround.algorithms.klmask import ATTENTION, read
from wardround.core import files
from wardround.core.arrays import Layout

FILE = "mask_history.json"
History = dict[int, dict[str, Any]]


def note(
    folder: Path,
    round_: int,
    memory: Mapping[str, Tensor],
    layout: Layout,
    blocks: Mapping[str, str],
) -> None:
    """Write down the mask after a round; without a mask nothing is written.

    A repeated round replaces its own line.
    """
    if MASK not in memory:
        return
    mask, attention = (read(layout, blocks, memory.get(key)) for key in (MASK, ATTENTION))
    personal = [block for block, value in (mask or {}).items() if value > 0]
    # Six digits are enough for the page that shows them.
    shares = {block: round(value, 6) for block, value in (attention or {}).items()}
    # A round that is repeated may follow a longer run: later lines belong to the run
    # that was abandoned.
    history = {key: row for key, row in history_of(folder).items() if key < round_}
    history[round_] = {"personal": personal, "attention": shares}
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / FILE, json.dumps(history, indent=1) + "\n")


def history_of(folder: Path) -> History:
    """Return the personal blocks and the attention of each round, counted from 0.

    Without a file the history is empty.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    return {int(key): row for key, row in json.loads(path.read_text(encoding="utf-8")).items()}


def since(history: History) -> dict[str, int] | None:
    """Return the round since which each block has been personal without a break.

    Rounds are counted from 0. None is returned if there never was a mask.
    """
    if not history:
        return None
    found: dict[str, int] = {}
    for round_ in sorted(history):
        personal = history[round_]["personal"]
        found = {block: found.get(block, round_) for block in personal}
    return found
