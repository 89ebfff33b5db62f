"""The server's end of a compression: every message is opened before anything is added.

What the server keeps of a site (for top-k, what it holds of the site's update) lies in
the memory of the run, under names of its own, and is written down together with the
model of the round. It moves only where the message counted, which the site learns from
the next order: then both ends hold the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, final

import numpy as np

from wardround.compression.chosen import Compression
from wardround.compression.payload import Memory, Opened, Payload
from wardround.core.arrays import Array, Layout
from wardround.core.errors import ConfigRefused, RoundRefused

PREFIX = "inbound"


def stage_of(compression: Compression, blocks: Layout, site: str) -> Opened:
    """Return the stage for updates of these blocks, sent by this site.

    A compression whose messages cannot be opened one by one is a ConfigRefused.
    """
    stage: object = compression.stage(blocks, site)
    if not isinstance(stage, Opened):
        raise ConfigRefused(
            f"the compression {compression.name} in a job whose server reads updates",
            found="messages that cannot be opened one by one",
            expected="a stage with `opened` (compression/payload.py, Opened)",
            fix="print the job with --set privacy=secagg_masks, or with --set compression=none",
        )
    return stage


@final
class Opening:
    """Opens the messages of one run.

    blocks: what every update holds.
    memory: that of the run. What is kept of site S has names `inbound:S:...`.
    largest: no value of an update may be larger, whatever its message says.
    """

    def __init__(
        self,
        compression: Compression,
        blocks: Layout,
        memory: dict[str, Any],
        largest: float,
    ) -> None:
        self._compression = compression
        self._blocks = blocks
        self._memory = memory
        self._largest = largest
        # What was opened in this round and is not settled: site -> its stage, and what
        # the reader keeps of it.
        self._open: dict[str, tuple[Opened, Memory]] = {}

    def opened(self, site: str, payload: Payload, round_: int) -> dict[str, Array]:
        """Return the update that a message stands for, float32 by block.

        Another layout, a state that is not held, or a value beyond `largest` raises
        RoundRefused.
        """
        stage = stage_of(self._compression, self._blocks, site)
        kept = self._kept(site)
        found = stage.opened(payload, round_, kept)
        # Noted before the check below: an update that is refused must be settled as one
        # that did not count.
        self._open[site] = (stage, kept)
        for name, block in found.items():
            if np.max(np.abs(block), initial=0.0) > self._largest:
                raise RoundRefused(
                    f"block {name!r} of a compressed update",
                    found="a change that no training makes",
                    expected=f"values within {self._largest:g}",
                    fix="lower `lr`, or run `wardround data check` at the site",
                )
        return found

    def settle(self, counted: Collection[str]) -> None:
        """Keep what the sites whose message counted will continue from.

        Of all other sites, what was held before is kept.
        """
        for site, (stage, kept) in self._open.items():
            stage.settle(kept, site in counted)
            prefix = _prefix(site)
            for name in [name for name in self._memory if name.startswith(prefix)]:
                del self._memory[name]
            self._memory.update({f"{prefix}{name}": value for name, value in kept.items()})
        self._open = {}

    def _kept(self, site: str) -> Memory:
        prefix = _prefix(site)
        return {name.removeprefix(prefix): value for name, value in self._memory.items() if name.startswith(prefix)}


def _prefix(site: str) -> str:
    # A site's name holds no colon (NVFlare's names are those of hosts), so that no name
    # is the start of another's.
    return f"{PREFIX}:{site}:"
