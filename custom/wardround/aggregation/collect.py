"""What do rules share that read single updates? One Ask, a matrix, and flags.

A rule is a frozen value. `combine` is its pure core, on a matrix of n sites x d values,
and `collect` is the round around it. The number f of hostile sites that the rule
tolerates is stated in the job.

A site is FLAGGED when its update lies more than `far` times as far from the aggregate
as the median site's. With n > 2f and at most f liars, that median lies between the
smallest and the largest distance of an honest site. Liars can therefore neither hide an
outlier by moving the scale up nor have an honest site flagged, unless its distance is
`far` times that of another honest site. A flag is a remark, not a proof: an honest
hospital with unusual patients can earn one, and an attacker that stays among the honest
updates (ALIE) earns none. More than f flags contradict what the job assumes, so the
round stops. Fewer than half of the sites can be flagged, so with 2f + 1 or 2f + 2 sites
no round stops for that.

Blocks that stay at home are absent from every update alike, and the rules run on the
others. A site that sends other blocks than the first one is refused: a distance between
updates of different blocks says nothing. Personal values that are sent as zeros (KL
masks) count as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from wardround.aggregation.refusals import require_clients, require_few, require_sites
from wardround.aggregation.rows import Floats, Rows, distances, norms
from wardround.core.arrays import Array, Layout
from wardround.core.errors import RoundRefused
from wardround.core.stages import Aggregate, Aggregation, Ask, Rounds, Update
from wardround.core.traits import ANCHORED, FIXED_LAYOUT, READABLE, Traits

TRAIN = "train"
NEEDS = Traits(
    needs=frozenset({READABLE, FIXED_LAYOUT, ANCHORED}),
    why={READABLE: "updates that the server reads one by one, to compare them"},
)
# The honest hospital least like the others was measured at up to 3.6 median distances.
FAR = 4.0
# Float32 updates that are equal on paper differ by about this share of their norm.
ROUNDING = 1e-6


class Context(Protocol):
    """What the controller gives to a round. A rule knows nothing else of it."""

    @property
    def message(self) -> Any:
        """Return the order that is sent to every site."""
        ...

    @property
    def need(self) -> int | None:
        """Return how many accepted updates the round needs (min_clients).

        None means that all sites are needed.
        """
        ...

    @property
    def read(self) -> Callable[[str, Any], Update]:
        """Return the strict reader (site, reply) -> Update.

        It raises a Refusal unless the update holds exactly the blocks that travel, with
        finite values.
        """
        ...

    @property
    def memory(self) -> dict[str, Any]:
        """Return what the server keeps between rounds and across restarts."""
        ...


@dataclass(frozen=True)
class Combined:
    """What a rule made of a matrix.

    vector: float64 [d].
    used: the rows that entered it.
    flagged: for each flagged row, the reason.
    """

    vector: Floats
    used: tuple[int, ...]
    flagged: Mapping[int, str] = field(default_factory=dict)


class Rule(Aggregation, Protocol):
    """An Aggregation whose core is a function on a matrix."""

    @property
    def f(self) -> int:
        """Return how many hostile sites the rule tolerates."""
        ...

    @property
    def least_sites(self) -> int:
        """Return the fewest updates with which that holds."""
        ...

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Combine finite rows [n, d] with their numbers of patients [n].

        n is at least `least_sites`. Neither array is changed.
        """
        ...


class Collected:
    """The updates of one round, in the order in which they came.

    `take` is given to the Ask.
    """

    def __init__(self, read: Callable[[str, Any], Update]) -> None:
        self._read = read
        self._layout: Layout | None = None
        self._vectors: dict[str, Array] = {}
        self._weights: dict[str, float] = {}

    def take(self, site: str, reply: Any) -> None:
        """Add one site's update.

        A second update of the same site, or one of other blocks, raises RoundRefused.
        """
        update = read_once(self._read, self._vectors, site, reply)
        layout = self._layout or Layout.of(update.params)
        vector = layout.flatten(update.params)
        self._layout = layout
        self._vectors[site] = vector
        self._weights[site] = float(update.weight)

    def sites(self) -> tuple[str, ...]:
        """Return the sites by name, so that the order of arrival changes nothing."""
        return tuple(sorted(self._vectors))

    def rows(self) -> tuple[Rows, Floats]:
        """Return (float32 [n, d], weights [n]) in the order of `sites`."""
        rows = np.stack([self._vectors[site] for site in self.sites()])
        return rows, np.array([self._weights[site] for site in self.sites()])

    def named(self, vector: Floats) -> dict[str, Array]:
        """Return a vector [d] as named float32 arrays.

        A vector that is not finite raises RoundRefused.
        """
        if self._layout is None or not np.isfinite(vector).all():
            raise RoundRefused(
                "the aggregate of this round",
                found="a value that is not finite, or no update at all",
                expected="finite numbers",
                fix="run the job with a lower `lr`: the sites' updates are near the end of float32",
            )
        return self._layout.unflatten(vector.astype(np.float32))


class Majority:
    """What rules share that need an honest majority: n > 2f.

    They ask once and run `combine` on what came. A rule that needs more sites, or that
    folds updates as they come, says so itself.
    """

    @property
    def traits(self) -> Traits:
        """Return what such a rule needs: updates that are readable, of one layout."""
        return NEEDS

    @property
    def least_sites(self: Rule) -> int:
        """Return the fewest updates with an honest majority."""
        return 2 * self.f + 1

    def round(self: Rule, context: Context) -> Rounds:
        """Ask every site once, and return what the rule makes of what came."""
        return collect(self, context)


def collect(rule: Rule, context: Context) -> Rounds:
    """Run one round of a rule: one Ask to all sites, then `combine` on what came."""
    require_clients(rule, context.need)
    held = Collected(context.read)
    yield Ask(TRAIN, context.message, held.take, need=context.need)
    return closed(rule, held)


def closed(rule: Rule, held: Collected) -> Aggregate:
    """Return what a rule makes of a round's updates.

    Too few updates, or more than f flagged ones, raise RoundRefused.
    """
    sites = held.sites()
    require_sites(rule, len(sites))
    combined = rule.combine(*held.rows())
    flagged = {sites[row]: why for row, why in combined.flagged.items()}
    require_few(rule, flagged)
    used = tuple(sites[row] for row in combined.used)
    return Aggregate(held.named(combined.vector), used, flagged)


def read_once(
    read: Callable[[str, Any], Update],
    seen: Mapping[str, object],
    site: str,
    reply: Any,
) -> Update:
    """Return the update in a reply.

    It must be the site's first of this round, with a weight above 0; otherwise
    RoundRefused is raised. Whether its values are finite is the task of `read`, which
    alone looks at them.
    """
    if site in seen:
        raise RoundRefused(
            "an update",
            found="a second one of the same site in this round",
            expected="one for each site and round",
            fix="look for two clients that run with the same startup kit, and stop one",
        )
    update = read(site, reply)
    if not (np.isfinite(update.weight) and update.weight > 0):
        raise RoundRefused(
            "an update",
            found=f"the weight {update.weight}",
            expected="a finite weight above 0",
            fix="look in the site's log for how many patients it trains on",
        )
    return update


def require_finite(update: Update) -> Update:
    """Return the update; NaN or inf among its values raises RoundRefused.

    It is for readers whose updates do not come over the network.
    """
    if not all(np.isfinite(block).all() for block in update.params.values()):
        raise RoundRefused(
            "an update",
            found="NaN or inf among its values",
            expected="finite numbers",
            fix="lower `lr`, or run `wardround data check` at the site",
        )
    return update


def far_rows(rows: Rows, vector: Floats, far: float) -> dict[int, str]:
    """Return the reason for each row that is far away from `vector`.

    Far is more than `far` times the median distance.
    """
    away = distances(rows, vector)
    # The floor: without it rounding alone would flag a site where all updates agree.
    scale = max(float(np.median(away)), ROUNDING * float(norms(vector[None])[0]))
    if scale == 0:
        why = "its update is not zero, and those of most sites are"
        return {int(row): why for row in np.flatnonzero(away)}
    return {
        int(row): f"its update lies {away[row] / scale:.3g} times as far from the aggregate as "
        f"the median site's (flagged above {far:g})"
        for row in np.flatnonzero(away > far * scale)
    }


def capped(weights: Floats, most: float) -> Floats:
    """Return the weights, none of them above `most` times their median.

    A site itself states how many patients it has: without the cap a liar states a
    million.
    """
    return np.minimum(weights, most * np.median(weights))


def require_tolerates(aggregation: Aggregation, min_clients: int) -> None:
    """Raise ConfigRefused where a round may close with too few updates.

    The f of the job's aggregation says how many are enough.
    """
    if isinstance(aggregation, Majority):
        require_clients(cast(Rule, aggregation), min_clients)
