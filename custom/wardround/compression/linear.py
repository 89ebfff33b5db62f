"""A linear compression in front of a sum that nobody opens one by one.

The vector that enters the sum is the compressed one, in a layout that everyone knows
before the round. The sum of compressed updates is the compressed sum, so every site
opens the revealed mean in the same way, and whoever adds learns nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround.compression.chosen import Compression
from wardround.compression.payload import Linear, layout_of
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ConfigRefused
from wardround.core.stages import Aggregate, Update

ANYBODY = ""
"""Messages of a sum are alike at every site, so a stage has no site."""


def stage_of(compression: Compression, blocks: Layout) -> Linear:
    """Return the stage for updates of these blocks.

    A compression whose messages have to be opened one by one is a ConfigRefused, also
    where its traits say otherwise.
    """
    stage: object = compression.stage(blocks, ANYBODY)
    if not isinstance(stage, Linear):
        raise ConfigRefused(
            f"the compression {compression.name} in a secure sum",
            found="messages that have to be opened one by one",
            expected="a stage with `layout`, `cycle` and `put_back` (compression/payload.py, Linear)",
            fix="print the job with --set compression=rand_k, or with --set compression=none",
        )
    return stage


def layouts(compression: Compression, blocks: Layout) -> list[Layout]:
    """Return the layouts of the messages of a run, which come back in this order."""
    stage = stage_of(compression, blocks)
    return [layout_of(stage.layout(round_)) for round_ in range(stage.cycle)]


def cycle_of(compression: Compression) -> int:
    """Return after how many rounds the layout of a message comes back."""
    return stage_of(compression, Layout((), ())).cycle


def first(compression: Compression, initial: Arrays, round_: int, public: Mapping[str, Any]) -> dict[str, Array]:
    """Return the job's first weights as a message of this round, from which the first
    grid of its blocks follows.

    public: what the stage has kept of the means that were revealed before the round.
    """
    stage = stage_of(compression, Layout.of(initial))
    return dict(stage.outbound(Update(initial, 1.0), round_, dict(public))[0].params)


def opened(
    compression: Compression, blocks: Layout, mean: Arrays, round_: int, public: dict[str, Any]
) -> dict[str, Array]:
    """Return a revealed mean in the blocks of the model.

    public: what the stage keeps of revealed means; it is written on.
    """
    stage = stage_of(compression, blocks)
    return dict(stage.inbound(Aggregate(mean, ()), round_, public).params)
