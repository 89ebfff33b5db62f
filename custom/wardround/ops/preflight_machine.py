"""Checks of the machine: disk, memory, GPU, clock, versions of packages. Each takes
numbers, so that each can be tested.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from importlib import metadata

from packaging.requirements import Requirement

from wardround.core.errors import ConfigRefused
from wardround.ops.findings import Finding, failed, passed, refused, warned

# Four channels of float16 and one byte of the mask.
CACHE_BYTES_PER_VOXEL = 9
# 2 GB hold Python with torch and one small case. Below 6 GB, a common patch and batch
# are tight.
SPARE_BYTES = 2_000_000_000
LEAST_MEMORY = 2_000_000_000
GOOD_MEMORY = 6_000_000_000
# From linux/timex.h: TIME_ERROR as the result of adjtimex(2), and more bytes than its
# structure has.
_UNSYNCHRONISED, _TIMEX_BYTES = 5, 512
# Less than a few minutes may be rounding, or two clocks that are both in order.
_MINUTES = timedelta(minutes=5)


def disk(where: str, free: int, voxels: int, unknown: str = "") -> Finding:
    """Check the space for decoded cases (four channels of float16 and a mask: 9 bytes
    per voxel), and 2 GB to work with.

    where: the folder, in words.
    free: bytes that are free there.
    voxels: the number of voxels in all cases.
    unknown: what could not be counted and why, or "" for nothing.
    """
    need = voxels * CACHE_BYTES_PER_VOXEL + SPARE_BYTES
    words = f"{free / 1e9:.1f} GB free at {where}, {need / 1e9:.1f} GB needed" + (f" ({unknown})" if unknown else "")
    if free < need:
        return failed(
            "disk",
            words,
            'make room, or put "cache" in local/wardround.json on a larger disk',
        )
    return passed("disk", words)


def memory(available: int) -> Finding:
    """Check the memory, in bytes, that is free now. What a job needs depends on its
    patch and batch; the trial round measures it.
    """
    words = f"{available / 1e9:.1f} GB available"
    if available < LEAST_MEMORY:
        return failed(
            "memory",
            words,
            f"free at least {LEAST_MEMORY / 1e9:.0f} GB, or use another machine",
        )
    if available < GOOD_MEMORY:
        return warned(
            "memory",
            words,
            "fine for small patches; a job with large ones may be refused here (memory)",
        )
    return passed("memory", words)


def gpu(
    wish: str,
    pick: Callable[[str], str],
    name_of: Callable[[str], str],
) -> Finding:
    """Check the device that local/wardround.json asks for.

    pick: returns the device for a wish, or raises ConfigRefused.
    """
    try:
        device = pick(wish)
    except ConfigRefused as refusal:
        return refused("gpu", refusal)
    if device == "cpu" and wish != "cpu":
        return warned(
            "gpu",
            "none that torch can use: this site trains on its CPU",
            "expect long rounds, or mend the driver",
        )
    return passed(
        "gpu",
        "not asked for: this site trains on its CPU" if device == "cpu" else name_of(device),
    )


def clock(
    now: datetime,
    made: Mapping[str, datetime],
    synchronised: bool | None,
) -> Finding:
    """Check this machine's clock against moments that must lie in the past, such as the
    beginning of a certificate's validity.

    made: the moments, by what they are.
    synchronised: what the kernel says, or None where it says nothing.

    The server's own clock cannot be asked from here: TLS 1.3 does not tell the time,
    and NVFlare sends none before a job.
    """
    late = {what: when for what, when in made.items() if when > now + _MINUTES}
    if late:
        what, when = max(late.items(), key=lambda item: item[1])
        words = f"it is {now:%Y-%m-%d %H:%M} UTC here, but {what} says {when:%Y-%m-%d %H:%M}: this clock is behind"
        return failed(
            "clock",
            words,
            "set the clock (chrony, systemd-timesyncd), then run this again",
        )
    if synchronised is False:
        return warned(
            "clock",
            "the kernel says that nothing keeps this clock in step",
            "start chrony or systemd-timesyncd",
        )
    known = "kept in step" if synchronised else "not known whether it is kept in step"
    return passed(
        "clock",
        f"{now:%Y-%m-%d %H:%M} UTC, not before anything in the kit; {known}; the server's was not asked",
    )


def kernel_synchronised() -> bool | None:
    """Return whether Linux keeps the clock synchronised (adjtimex(2), read only), or
    None where it does not say.
    """
    if not sys.platform.startswith("linux"):
        return None
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _UNSYNCHRONISED


def utc_now() -> datetime:
    """Return the time of this machine, in UTC."""
    return datetime.now(timezone.utc)


def versions(
    requirements: Iterable[str],
    installed: Callable[[str], str | None],
) -> list[Finding]:
    """Check every package that wardround needs against its range.

    installed: returns the version of a package, or None where it is not installed.
    """
    needed = [one for one in map(Requirement, requirements) if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in needed:
        found = installed(one.name)
        if found is None or not one.specifier.contains(found, prereleases=True):
            words = f"{one.name} {found or 'is not installed'}, needed {one.specifier or 'in any version'}"
            wrong.append(
                failed("versions", words, f"pip install '{one.name}{one.specifier}'"),
            )
    return wrong or [passed("versions", f"{len(needed)} packages within their ranges")]


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements_of(package: str) -> list[str]:
    """Return what an installed package says it needs. For a checkout that is not
    installed nothing is known, and the list is empty.
    """
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
