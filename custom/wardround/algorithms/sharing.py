"""What leaves a hospital, and what stays?

Sharing is a value beside the algorithm, so that every algorithm meets every way to
share. An algorithm says how a hospital trains. A sharing says which blocks of the model
travel: all of them (`Everything`), all but those of some roles (`Roles`), or all but
those that the hospital chooses in each round (`klmask.KLMask`). Two places act on it:
`federation.start_of` puts the hospital's own values in the place of the blocks that
stay at home before a round, and `federation.local_round` takes them out of the update
after it.

FedBN is FedAvg with `Roles(("norm",))`, Li et al. 2021, arXiv:2102.07623. FedSim is
FedAvg with most roles at home, Pillutla et al. 2022, arXiv:2204.03809, Algorithm 2.
Deviations: 1. (FedBN) The layers are instance or group norms, since batch norm is
refused here. 2. (FedSim) The parts are the roles of models/roles.py, with one learning
rate for both parts, and every site takes part in every round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, final

from torch import Tensor

from wardround.algorithms.base import (
    BESIDE,
    Algorithm,
    LocalStart,
    Objective,
    Steps,
    traits_of,
)
from wardround.core.errors import ConfigRefused
from wardround.core.traits import Part, Traits, require_fit
from wardround.models.roles import stays_home

# The roles that models/roles.py gives to the blocks of any network, with the words that cards and refusals use.
ROLES: Mapping[str, str] = {
    "head": "the last block of the network (the head)",
    "norm": "the normalisation layers",
    "body": "the body of the network",
    "adapter": "the low-rank adapters",
}


class Sharing(Protocol):
    """Which blocks of a model stay at the hospital: a frozen value.

    `home_roles` never leave. `chosen` may keep further blocks at home, chosen again in
    each round: it returns a boolean mask as `memory["mask"]`. Blocks that a mask keeps
    leave as zeros, so that every update has the same layout.
    """

    @property
    def home_roles(self) -> tuple[str, ...]:
        """The roles of the blocks that never leave the hospital."""

    @property
    def traits(self) -> Traits:
        """What this sharing makes of an update.

        It breaks STEADY if `chosen` may keep other blocks in one round than in another,
        and SAME_BLOCKS if one hospital may keep other blocks than another.
        """

    @property
    def title(self) -> str:
        """The words after the algorithm's name in a title; empty for Everything."""

    @property
    def stays(self) -> str:
        """What stays at the hospital, as a job's card prints it; empty for nothing."""

    def chosen(
        self,
        w: Tensor,
        start: LocalStart,
        objective: Objective,
        steps: Steps,
    ) -> Mapping[str, Tensor]:
        """Return what the site's memory must hold of a choice; usually nothing.

        w: The model after local training.
        """


@final
@dataclass(frozen=True)
class Everything:
    """All blocks leave the hospital in every update."""

    home_roles: ClassVar[tuple[str, ...]] = ()
    traits: ClassVar[Traits] = Traits()
    title: ClassVar[str] = ""
    stays: ClassVar[str] = ""

    def chosen(
        self,
        w: Tensor,
        start: LocalStart,
        objective: Objective,
        steps: Steps,
    ) -> Mapping[str, Tensor]:
        return {}


EVERYTHING = Everything()


@final
@dataclass(frozen=True)
class Roles:
    """All blocks leave but those of the roles in `home`.

    home: One or more of the four in ROLES, but not all of them.
    """

    home: tuple[str, ...]

    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        # A job's JSON holds a list; a frozen value must be hashable and print alike wherever it was made.
        object.__setattr__(self, "home", at_home(self.home))
        if not self.home:
            raise ConfigRefused(
                "sharing by roles",
                found="no role that stays at home",
                expected=f"one or more of {', '.join(ROLES)}",
                fix="--set sharing=everything, or --set sharing.home=[norm]",
            )

    @property
    def home_roles(self) -> tuple[str, ...]:
        return self.home

    @property
    def title(self) -> str:
        return f"{' and '.join(self.home)} at home"

    @property
    def stays(self) -> str:
        return ", ".join(ROLES[role] for role in self.home)

    def chosen(
        self,
        w: Tensor,
        start: LocalStart,
        objective: Objective,
        steps: Steps,
    ) -> Mapping[str, Tensor]:
        return {}


def at_home(home: object) -> tuple[str, ...]:
    """Return the roles of a job's `home` in the order of ROLES.

    ConfigRefused is raised for an unknown role, and for all roles.
    """
    given = home if isinstance(home, (list, tuple)) else (home,)
    unknown = [role for role in given if role not in ROLES]
    if unknown or len(set(given)) == len(ROLES):
        raise ConfigRefused(
            "the roles that stay at home",
            found=f"unknown: {', '.join(map(str, unknown))}" if unknown else "every role, so that nothing is shared",
            expected=f"a list of roles ({', '.join(ROLES)}) that leaves at least one of them out",
            fix="--set sharing.home=[norm], or another list",
        )
    return tuple(role for role in ROLES if role in given)


def require_together(algorithm: Algorithm, sharing: Sharing) -> None:
    """Raise ConfigRefused if an algorithm is not sound with this way to share.

    An algorithm whose class still has `home_roles` means to keep blocks at home.
    Nothing reads that attribute any more, so these blocks would leave. Everything else
    follows from the traits.
    """
    if hasattr(algorithm, "home_roles"):
        raise ConfigRefused(
            f"the algorithm {algorithm.name}",
            found="`home_roles` in its class, which nothing reads: these blocks would leave the hospital",
            expected="what stays at home in the job's `sharing`",
            fix="delete `home_roles` from the class, and name the roles with --set sharing.path="
            "wardround.algorithms.sharing.Roles --set sharing.home=[...]",
        )
    require_fit(parts(algorithm, sharing, beside=False))


def parts(algorithm: Algorithm, sharing: Sharing, beside: bool) -> tuple[Part, ...]:
    """Return what decides which blocks of which models leave a hospital.

    The parts are for `core.stages.require_fit`.
    beside: Whether FedAvg is trained in the same rounds.
    """
    shared = Part(
        sharing.title or "everything shared",
        sharing.traits,
        "--set sharing=everything, or --set sharing=norms_at_home",
    )
    trained = Part(algorithm.name, traits_of(algorithm), "choose a job of another algorithm (`wardround jobs list`)")
    return (shared, trained, *([BESIDE] if beside else []))


def require_shared(start: LocalStart, sharing: Sharing) -> None:
    """Raise ConfigRefused if every block of a network stays at home."""
    if all(stays_home(name, role, sharing.home_roles) for name, role in start.roles.items()):
        raise ConfigRefused(
            "what this job shares",
            found=f"a network whose every block stays at home ({', '.join(sharing.home_roles)})",
            expected="at least one block to share",
            fix="name other roles with --set sharing.home=[...]; adapters need --set model.adapter_rank=4",
        )
