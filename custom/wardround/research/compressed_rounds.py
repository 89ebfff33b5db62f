"""What do rounds with a compression cost and give, in one process?

These are the sums into which `algorithms.federation.run` adds the updates of a round.
Both directions are compressed, and every byte is counted by the arrays that would
travel. The server sends no weights but the mean of the round; every site and the server
apply the same decoded mean with the same server optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from wardround.compression.payload import Linear, Memory, Opened, Payload
from wardround.core.arrays import Array, Arrays, RunningMean
from wardround.core.stages import Aggregate, Update

# The server compresses the way down, so it has a stage and a memory like a site.
SERVER = "server"


@final
class OpenedSum:
    """The sum of messages that the server opens one by one.

    The mean goes back through the same compression.
    stage_at: Returns the stage of a site by its name; `server` is the way down.
    sites: The sites in the order in which they are added.
    up, down: The bytes of every round, summed over the sites.
    """

    def __init__(self, stage_at: Callable[[str], Opened], sites: Sequence[str]) -> None:
        self.stages = {name: stage_at(name) for name in (*sites, SERVER)}
        self._sites = tuple(sites)
        self.senders: dict[str, Memory] = {name: {} for name in self.stages}
        self._reader: dict[str, Memory] = {name: {} for name in self.stages}
        self.up: list[int] = []
        self.down: list[int] = []

    def __call__(self, round_: int) -> OpenedSum:
        """Begin a round."""
        self._round, self._mean = round_, RunningMean()
        self.up.append(0)
        return self

    def add(self, update: Arrays, weight: float) -> None:
        """Add the next site's update, as the server reads it from the message."""
        read, size = self._through(self._sites[self._mean.count], update, weight)
        self.up[-1] += size
        self._mean.add(read, weight)

    def mean(self) -> dict[str, Array]:
        """Return the mean as every site reads it from the server's message.

        All messages of the round are counted with this.
        """
        read, size = self._through(SERVER, self._mean.mean(), 1.0)
        self.down.append(size * len(self._sites))
        for name, stage in self.stages.items():
            stage.inbound(
                Aggregate({}, (*self._sites, SERVER)),
                self._round,
                self.senders[name],
            )
            stage.settle(self._reader[name], True)
        return read

    def _through(
        self,
        name: str,
        update: Arrays,
        weight: float,
    ) -> tuple[dict[str, Array], int]:
        stage = self.stages[name]
        sent, _ = stage.outbound(Update(update, weight), self._round, self.senders[name])
        return stage.opened(sent.params, self._round, self._reader[name]), size_of(sent.params)


class LinearSum:
    """The sum of messages that are added as they are.

    The sum itself goes down, and everyone reads it alike.
    stage: The same value at every site and at the server.
    """

    def __init__(self, stage: Linear, sites: Sequence[str]) -> None:
        self.stage = stage
        self.sites = tuple(sites)
        self.memories: dict[str, Memory] = {name: {} for name in (*sites, SERVER)}
        self.up: list[int] = []
        self.down: list[int] = []

    def __call__(self, round_: int) -> LinearSum:
        """Begin a round."""
        self.round, self._mean = round_, RunningMean()
        self.up.append(0)
        return self

    def add(self, update: Arrays, weight: float) -> None:
        """Add the next site's message."""
        site = self.sites[self._mean.count]
        sent, _ = self.stage.outbound(Update(update, weight), self.round, self.memories[site])
        self.up[-1] += size_of(sent.params)
        self._mean.add(sent.params, weight)

    def mean(self) -> dict[str, Array]:
        """Return the mean as everyone reads it from the mean of the messages."""
        mean = self._mean.mean()
        self.down.append(size_of(mean) * len(self.sites))
        return self.read(mean)

    def read(self, mean: Arrays) -> dict[str, Array]:
        """Let the server and every site read the mean of the messages.

        Returned is what the server makes of it.
        """
        heard = Aggregate(mean, self.sites)
        for site in self.sites:
            self.stage.inbound(heard, self.round, self.memories[site])
        return dict(self.stage.inbound(heard, self.round, self.memories[SERVER]).params)


def size_of(message: Payload) -> int:
    """Return the bytes of the arrays of a message."""
    return sum(array.nbytes for array in message.values())
