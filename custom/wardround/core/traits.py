"""Which parts fit together in one job? It is computed from traits.

A trait says what a part needs of an update and what it makes of it. The parts of a job
meet an update in one order: which blocks are shared, the algorithm, a model beside it,
differential privacy, compression, the secure sum, the aggregation. A property holds
until a part breaks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from wardround.core.errors import ConfigRefused

READABLE = "readable"
"""The server can read the update of a single site."""
ADDITIVE = "additive"
"""The sum of what the sites send, read back, is the sum of their updates."""
BOUNDED = "bounded"
"""The norm of every update is at most a public number."""
INTEGER = "integer"
"""Every value is an integer of a range that the job states, so that sums are exact."""
FIXED_LAYOUT = "fixed_layout"
"""Every site sends the same entries, known before the round begins."""
WHOLE = "whole"
"""Every block travels with all of its values, in the model's shape."""
COUNTED = "counted"
"""The number of the hospital's training patients goes with the update."""
PUBLIC_COUNT = "public_count"
"""The server may know the number of each hospital's training patients."""
ALONE = "alone"
"""No second model of the hospital leaves in the same round."""
SAME_BLOCKS = "same_blocks"
"""Every hospital shares the same blocks of the model."""
STEADY = "steady"
"""A block that is shared in one round is shared in all of them."""
ANCHORED = "anchored"
"""Every update is a change from the shared model, so that what one round gets wrong the next one corrects."""
SELF_CONTAINED = "self_contained"
"""A message can be read by itself, without the mean that the round before revealed."""
DEFERRABLE = "deferrable"
"""What a stage leaves out of an update may leave with a later one."""
SUFFICIENT = "sufficient"
"""An update keeps its promise when it is opened alone: it does not rest on the noise of others."""
UNPROMISED = "unpromised"
"""No promise of differential privacy counts what the site does: it may depend on its patients."""
PLAIN = frozenset(
    {
        READABLE,
        ADDITIVE,
        FIXED_LAYOUT,
        WHOLE,
        COUNTED,
        PUBLIC_COUNT,
        ALONE,
        SAME_BLOCKS,
        STEADY,
        ANCHORED,
        SELF_CONTAINED,
        DEFERRABLE,
        SUFFICIENT,
        UNPROMISED,
    }
)
"""What an update is before any part of the job has touched it."""
WORDS = {
    READABLE: (
        "updates that the server reads one by one",
        "updates that nobody opens one by one",
    ),
    ADDITIVE: (
        "messages whose sum is the sum of the updates",
        "messages whose sum is not the sum of the updates",
    ),
    BOUNDED: (
        "updates whose norm has a public bound",
        "updates whose norm has no public bound",
    ),
    INTEGER: (
        "integers of a stated range",
        "values that are not integers of a stated range",
    ),
    FIXED_LAYOUT: (
        "the same entries from every site",
        "messages whose entries differ from site to site",
    ),
    WHOLE: ("whole blocks", "blocks of which only a part travels, or not as they are"),
    COUNTED: (
        "a number of patients with every update",
        "updates that come without a number of patients",
    ),
    PUBLIC_COUNT: (
        "numbers of patients that the server may know",
        "numbers of patients that the server must not learn",
    ),
    ALONE: ("one model", "a second model that leaves in the same round"),
    SAME_BLOCKS: (
        "the same blocks at every hospital",
        "blocks that each hospital chooses for itself",
    ),
    STEADY: (
        "the same shared blocks in every round",
        "blocks that are shared in one round and stay at home in another",
    ),
    ANCHORED: (
        "changes from the shared model",
        "changes of each hospital's own model, after which an error in the shared one stays",
    ),
    SELF_CONTAINED: (
        "messages that can be read by themselves",
        "messages that are read with what the mean of the round before revealed",
    ),
    DEFERRABLE: (
        "updates of which a part may leave later",
        "updates whose noise counts in the sum of their own round only",
    ),
    SUFFICIENT: (
        "updates that keep their promise when they are opened alone",
        "updates that keep their promise in a sum alone",
    ),
    UNPROMISED: ("no promise of differential privacy", "a promise of differential privacy"),
}
"""For each property: what a refusal expects, and what it finds."""


@dataclass(frozen=True)
class Traits:
    """What a part of the chain needs of an update, and what it makes of it.

    needs: the properties that must hold before it.
    needs_one_of: properties of which one must hold before it; if empty, none is needed.
    gives: the properties that hold after it.
    breaks: the properties that no longer hold after it.
    why: for a property, why it is needed, as a refusal prints it.
    """

    needs: frozenset[str] = frozenset()
    needs_one_of: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    breaks: frozenset[str] = frozenset()
    why: Mapping[str, str] = field(default_factory=dict, hash=False)


class Fitting(Protocol):
    """What has to fit into a job: a name and the traits."""

    @property
    def name(self) -> str:
        """Return the name under which a refusal and the compatibility table list it."""
        ...

    @property
    def traits(self) -> Traits:
        """Return what it needs of an update and what it makes of it."""
        ...


@dataclass(frozen=True)
class Part:
    """A part of a job of which only the traits count.

    without: the command or act that leaves it out.
    lacking: for a property that it needs, the command or act where that one is lacking;
        `without` is it for all others.
    """

    name: str
    traits: Traits
    without: str = ""
    lacking: Mapping[str, str] = field(default_factory=dict, hash=False)


PLAINTEXT = Part(
    "a server that reads every update",
    Traits(
        needs=frozenset({READABLE, COUNTED, SELF_CONTAINED}),
        why={
            COUNTED: "a number of patients, which a plaintext update always brings along; or a secure sum",
            SELF_CONTAINED: "messages that can be read by themselves, since here sites are sent weights and never hear "
            "the mean; or a secure sum",
        },
    ),
    "hide the sum (--set privacy=secagg_masks)",
    # Hospital-level noise alone takes the number of patients away; its sum is hidden by its own fragment.
    {COUNTED: "hide the sum (--set privacy=dp_adaptive)"},
)
"""What every job without a secure sum has in its place."""


def leaving(dp: Fitting | None, compression: Fitting | None, secagg: Fitting | None) -> list[Part]:
    """Return the parts between training and aggregation, in an update's order.

    dp: differential privacy, or None.
    compression: the compression, or None.
    secagg: the secure sum, or None; a plaintext server then takes its place.
    """
    found = []
    if dp is not None:
        found.append(Part(dp.name, dp.traits, "leave out differential privacy (--set privacy=secagg_masks)"))
    if compression is not None:
        found.append(Part(compression.name, compression.traits, "--set compression=none"))
    if secagg is None:
        return [*found, PLAINTEXT]
    return [*found, Part(secagg.name, secagg.traits, "--set privacy=plaintext")]


@dataclass(frozen=True)
class Misfit:
    """A part that does not find what it needs.

    lacking: one property, or several of which one would do.
    culprits: the parts that broke them.
    """

    part: Fitting
    lacking: tuple[str, ...]
    culprits: tuple[Fitting, ...]

    @property
    def found(self) -> str:
        """Return what the part finds instead."""
        return ", and ".join(WORDS[one][1] for one in self.lacking)

    @property
    def expected(self) -> str:
        """Return what the part needs, with the reason where the part states one."""
        why = [self.part.traits.why[one] for one in self.lacking if one in self.part.traits.why]
        return why[0] if why else " or ".join(WORDS[one][0] for one in self.lacking)

    def refusal(self) -> ConfigRefused:
        """Return the refusal of the job."""
        names = [one.name for one in self.culprits]
        since = f" (since {' and '.join(names)})" if names else ""
        mended = getattr(self.part, "lacking", {}).get(self.lacking[0]) or without(self.part)
        ways = dict.fromkeys([*map(without, self.culprits), mended])
        return ConfigRefused(
            " with ".join([self.part.name, *names]),
            found=f"{self.found}{since}",
            expected=self.expected,
            fix=f"{', or '.join(ways)}; `wardround jobs compat` prints what goes together",
        )


def without(part: Fitting) -> str:
    """Return the words that leave a part out of a job."""
    return getattr(part, "without", "") or f"leave out {part.name}"


def misfit(stages: Iterable[Fitting], aggregation: Fitting | None = None) -> Misfit | None:
    """Return the first part that does not find what it needs, or None where all do.

    aggregation: None where this end of the job does not know it, as at a site.
    """
    properties = set(PLAIN)
    broken_by: dict[str, Fitting] = {}
    for part in (*stages, *([] if aggregation is None else [aggregation])):
        traits = part.traits
        # A property comes first if the part says why it needs it: that reason explains
        # most.
        lacking = sorted(traits.needs - properties, key=lambda one: (one not in part.traits.why, one))[:1]
        if not lacking and traits.needs_one_of and not traits.needs_one_of & properties:
            lacking = sorted(traits.needs_one_of)
        if lacking:
            culprits: list[Fitting] = []
            for one in lacking:
                if one in broken_by and broken_by[one] not in culprits:
                    culprits.append(broken_by[one])
            return Misfit(part, tuple(lacking), tuple(culprits))
        broken_by |= dict.fromkeys(traits.breaks, part)
        properties = (properties - traits.breaks) | traits.gives
    return None


def require_fit(stages: Iterable[Fitting], aggregation: Fitting | None = None) -> None:
    """Raise ConfigRefused unless every part finds the properties that it needs.

    The aggregation comes last.
    """
    found = misfit(stages, aggregation)
    if found is not None:
        raise found.refusal()
