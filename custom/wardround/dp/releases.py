"""What does one release cost? Values that the accountant adds and the ledger keeps.

Neighbours differ by ONE unit, added or removed: an image, a patient or a hospital. A
noise multiplier is the standard deviation of the noise over the L2 sensitivity to that,
which is the clipping bound C.
A hospital holds its patients, and a patient holds their images, so a release that hides
a unit also hides the smaller ones. But with one patient fewer a hospital's update is
not removed, it is REPLACED: from u to u', both within C, up to 2 C apart. For smaller
units the noise multiplier therefore counts half (mu counts double), and the chance to
take part is not counted in their favour. In the other direction there is no finite
promise: it would depend on how many images a patient has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from wardround.core.errors import ConfigRefused

Unit = Literal["image", "patient", "hospital"]
UNITS: tuple[Unit, ...] = ("image", "patient", "hospital")
# A replaced update moves by twice the clip.
REPLACED = 2.0


@final
@dataclass(frozen=True)
class GaussianRelease:
    """`count` releases of a sum in which every unit takes part.

    A value out of range raises ConfigRefused.

    in_shares: whether the noise is the sum of rounded shares of several hospitals, for
        whose rounding a part of delta is set aside (dp/noise_shares.py). What a
        hospital releases as a whole is always counted so.
    """

    unit: Unit
    noise_multiplier: float
    count: int
    in_shares: bool = False

    def __post_init__(self) -> None:
        _check(self.unit, self.noise_multiplier, "count", self.count)
        if not isinstance(self.in_shares, bool):
            raise _refused(f"in_shares {self.in_shares!r}", "true or false")


@final
@dataclass(frozen=True)
class SampledGaussianRelease:
    """`steps` releases in each of which every unit takes part by a chance of its own.

    This is the Poisson sampling of DP-SGD. A batch of fixed size, or a shuffled one, is
    NOT this. A value out of range raises ConfigRefused.

    sample_rate: above 0, at most 1.
    """

    unit: Unit
    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        _check(self.unit, self.noise_multiplier, "steps", self.steps)
        if not _number(self.sample_rate) or not 0 < self.sample_rate <= 1:
            raise _refused(f"sample_rate {self.sample_rate!r}", "above 0 and at most 1")


@final
@dataclass(frozen=True)
class UnknownRelease:
    """Something left the hospital, and nobody knows what it cost.

    Its epsilon is infinite for every unit.
    """

    what: str


Release = GaussianRelease | SampledGaussianRelease | UnknownRelease
_KINDS: dict[str, type[GaussianRelease] | type[SampledGaussianRelease] | type[UnknownRelease]] = {
    "gaussian": GaussianRelease,
    "sampled_gaussian": SampledGaussianRelease,
    "unknown": UnknownRelease,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_json(release: Release) -> dict[str, Any]:
    """Return the release as a ledger keeps it.

    `in_shares` is written where it is true: all others read as they always did.
    """
    fields = {key: value for key, value in asdict(release).items() if (key, value) != ("in_shares", False)}
    return {"kind": _NAMES[type(release)], **fields}


def from_json(value: Any) -> Release:
    """Return the release that a ledger holds.

    An unknown kind, a missing or unknown key, or a value out of range gives
    UnknownRelease, which costs everything. It never gives less.
    """
    kind = _KINDS.get(value["kind"]) if isinstance(value, dict) and isinstance(value.get("kind"), str) else None
    if kind is None:
        return UnknownRelease(f"no kind of release that this version knows: {value!r:.80}")
    content = {key: part for key, part in value.items() if key != "kind"}
    try:
        found = kind(**content)
    except TypeError:
        return UnknownRelease(f"a {value['kind']} release with the keys {sorted(map(str, content))!s:.80}")
    except ConfigRefused as refusal:
        return UnknownRelease(f"a {value['kind']} release with {refusal.found:.80}")
    if isinstance(found, UnknownRelease):
        return UnknownRelease(str(found.what))
    return found


def covers(release: Release, unit: Unit) -> bool:
    """Return whether a release hides a unit: its own unit, and the smaller ones."""
    return not isinstance(release, UnknownRelease) and UNITS.index(release.unit) >= UNITS.index(unit)


def seen_by(release: Release, unit: Unit) -> Release:
    """Return what a release is for a unit that it covers.

    It is the release itself or, for a smaller unit, full replacement at half the noise.
    """
    if isinstance(release, UnknownRelease) or release.unit == unit:
        return release
    return GaussianRelease(unit, release.noise_multiplier / REPLACED, times(release))


def times(release: Release) -> int:
    """Return how often a release is made, or 1 if that is unknown."""
    if isinstance(release, GaussianRelease):
        return release.count
    return release.steps if isinstance(release, SampledGaussianRelease) else 1


def repeated(release: Release, number: int) -> Release:
    """Return the same release made `number` times (1 or more)."""
    if isinstance(release, GaussianRelease):
        return replace(release, count=number)
    return replace(release, steps=number) if isinstance(release, SampledGaussianRelease) else release


def merged(releases: Iterable[Release]) -> list[Release]:
    """Return the releases with equal ones counted together.

    They stand in the order of their first appearance.
    """
    counts: dict[Release, int] = {}
    for release in releases:
        one = repeated(release, 1)
        counts[one] = counts.get(one, 0) + times(release)
    return [repeated(one, count) for one, count in counts.items()]


def rest(planned: Iterable[Release], done: Iterable[Release]) -> list[Release]:
    """Return what of a plan is still to come.

    A release that was made with other settings than planned frees nothing.
    """
    counts = {repeated(release, 1): times(release) for release in merged(done)}
    left = [(release, times(release) - counts.get(repeated(release, 1), 0)) for release in merged(planned)]
    return [repeated(release, count) for release, count in left if count > 0]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(unit: Any, noise_multiplier: Any, name: str, count: Any) -> None:
    if unit not in UNITS:
        raise _refused(f"unit {unit!r}", " or ".join(UNITS))
    if not _number(noise_multiplier) or noise_multiplier <= 0:
        raise _refused(
            f"noise_multiplier {noise_multiplier!r}",
            "above 0 and finite: without noise there is no epsilon",
        )
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise _refused(f"{name} {count!r}", "a whole number, 1 or more")


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "a private release",
        found=found,
        expected=expected,
        fix="print the job again with other values, such as `--set dp.noise_multiplier=NUMBER`",
    )
