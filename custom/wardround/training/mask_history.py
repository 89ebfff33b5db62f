"""Which blocks went personal at this hospital, and when: one JSON file in its state, so that a restart loses nothing."""

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


def note(folder: Path, round_: int, memory: Mapping[str, Tensor], layout: Layout, blocks: Mapping[str, str]) -> None:
    """Write down the mask after a round (a round that is repeated replaces its line); no mask: nothing."""
    if MASK not in memory:
        return
    mask, attention = (read(layout, blocks, memory.get(key)) for key in (MASK, ATTENTION))
    personal = [block for block, value in (mask or {}).items() if value > 0]
    shares = {block: round(value, 6) for block, value in (attention or {}).items()}
    history = {key: row for key, row in history_of(folder).items() if key < round_}
    history[round_] = {"personal": personal, "attention": shares}
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / FILE, json.dumps(history, indent=1) + "\n")


def history_of(folder: Path) -> History:
    """Return round (from 0) -> personal blocks and attention; no file: {}."""
    path = folder / FILE
    if not path.is_file():
        return {}
    return {int(key): row for key, row in json.loads(path.read_text(encoding="utf-8")).items()}


def since(history: History) -> dict[str, int] | None:
    """Return block -> the round (from 0) since which it has been personal without a break; no mask ever: None."""
    if not history:
        return None
    found: dict[str, int] = {}
    for round_ in sorted(history):
        personal = history[round_]["personal"]
        found = {block: found.get(block, round_) for block in personal}
    return found
