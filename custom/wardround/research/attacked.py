"""What happens to an in-process federation with hostile sites among its own?

What an honest site does is what it does in a job (`algorithms.federation.local_round`).
The aggregation is the value that a job names, driven through its generator as the
server drives it. Hostile sites act after the honest ones of the same round, and know
what those send.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from wardround.aggregation.collect import require_finite
from wardround.algorithms.base import Algorithm, Objective
from wardround.algorithms.federation import FederationResult, SiteSide, run
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import Refusal, RoundRefused
from wardround.core.stages import Aggregate, Aggregation, Replies, Update
from wardround.research.poisoning import Attack, Seen, require_attackers


@final
@dataclass
class Outcome:
    """What an attacked federation came to.

    result: The variables after the last whole round; None if no round ended.
    rounds: The aggregate of each whole round, without the values.
    missing: For each round, also one that was stopped, the sites whose update was
        refused, and why.
    stopped: Why the aggregation stopped the run; None if it ran to its end.
    """

    result: FederationResult | None = None
    rounds: list[Aggregate] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    stopped: str | None = None

    def flags(self) -> dict[str, int]:
        """Return in how many rounds each site was flagged."""
        names = [site for one in self.rounds for site in one.flagged]
        return {site: names.count(site) for site in sorted(set(names))}


def run_attacked(
    sites: Mapping[str, SiteSide],
    algorithm: Algorithm,
    server_optimizer: ServerOptimizer,
    schedule: Schedule,
    model: Arrays,
    aggregation: Aggregation,
    attack: Attack | None = None,
    hostile: Sequence[str] = (),
) -> Outcome:
    """Run all rounds, or until the aggregation stops the run.

    Without a hostile site this is an honest run.
    """
    require_attackers(hostile, list(sites))
    outcome, memory = Outcome(), dict[str, Any]()
    sides = {
        name: poisoned(side, attack.batch) if attack and attack.batch and name in hostile else side
        for name, side in sites.items()
    }

    def keep(round_: int, result: FederationResult) -> None:
        outcome.result = result

    def new_sum(round_: int) -> AttackedRound:
        return AttackedRound(
            tuple(sites),
            aggregation,
            memory,
            outcome,
            attack,
            frozenset(hostile),
        )

    try:
        run(sides, algorithm, server_optimizer, schedule, dict(model), keep, new_sum)
    except RoundRefused as refusal:
        outcome.stopped = str(refusal)
    return outcome


@final
class AttackedRound:
    """The `Sum` of one round, and the context of its aggregation.

    It holds the updates until all are in, lets the hostile sites act, and aggregates.
    All sites of a process answer, so `need` is None; they have been given the model
    already, so `message` is None.
    """

    need = None
    message = None

    def __init__(
        self,
        sites: Sequence[str],
        aggregation: Aggregation,
        memory: dict[str, Any],
        outcome: Outcome,
        attack: Attack | None,
        hostile: frozenset[str],
    ) -> None:
        self.memory = memory
        self._sites = tuple(sites)
        self._aggregation = aggregation
        self._outcome = outcome
        self._forge = attack.forge if attack and hostile else None
        self._hostile = hostile
        self._updates: dict[str, Update] = {}

    @staticmethod
    def read(site: str, reply: Any) -> Update:
        """Return the reply, which in one process is the update itself.

        NaN or inf raises RoundRefused.
        """
        return require_finite(reply)

    def add(self, update: Arrays, weight: float) -> None:
        """Take the update of the next site, in the order of the sites."""
        self._updates[self._sites[len(self._updates)]] = Update(update, weight)

    def mean(self) -> dict[str, Array]:
        """Return the aggregate; what the aggregation refuses raises RoundRefused."""
        sent = self._forged(self._forge) if self._forge else self._updates
        rounds = self._aggregation.round(self)
        ask = next(rounds)
        missing: dict[str, str] = {}
        for site, update in sent.items():
            try:
                ask.take(site, update)
            except Refusal as refusal:
                missing[site] = str(refusal)
        self._outcome.missing.append(missing)
        answered = tuple(site for site in sent if site not in missing)
        try:
            rounds.send(Replies(answered, missing))
        except StopIteration as stop:
            aggregate: Aggregate = stop.value
            self._outcome.rounds.append(replace(aggregate, params={}))
            return dict(aggregate.params)
        rounds.close()
        raise RoundRefused(
            f"{self._aggregation.name} in one process",
            found="a second question to the sites",
            expected="an aggregation of readable updates, which asks once",
            fix="run a secure sum in NVFlare's simulator: `wardround jobs run`",
        )

    def _forged(self, forge: Callable[[Seen], Any]) -> dict[str, Update]:
        layout = Layout.of(next(iter(self._updates.values())).params)
        # The order of the sites is that of `weights`, by which a forger scales its
        # update.
        honest = [name for name in self._sites if name not in self._hostile]
        rows = np.stack([layout.flatten(self._updates[name].params) for name in honest])
        weights = tuple(update.weight for update in self._updates.values())
        sent = dict(self._updates)
        for name in self._sites:
            if name in self._hostile:
                own = self._updates[name]
                vector = layout.flatten(own.params).astype(np.float64)
                forged = forge(Seen(rows, vector, weights, own.weight))
                sent[name] = Update(
                    layout.unflatten(np.asarray(forged, np.float32)),
                    own.weight,
                )
        return sent


def poisoned(side: SiteSide, batch: Callable[[Any], Any]) -> SiteSide:
    """Return a site whose training batches are changed before any gradient."""

    def objective(round_: int) -> Objective:
        return _Poisoned(side.objective(round_), batch)

    return replace(side, objective=objective)


@final
class _Poisoned:
    """An objective that draws poisoned batches and is otherwise the honest one."""

    def __init__(self, objective: Objective, batch: Callable[[Any], Any]) -> None:
        self._objective, self._batch = objective, batch

    def sample(self, count: int) -> tuple[Any, ...]:
        return tuple(self._batch(one) for one in self._objective.sample(count))

    def value_and_grad(self, w: Any, batch: Any) -> Any:
        return self._objective.value_and_grad(w, batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)
