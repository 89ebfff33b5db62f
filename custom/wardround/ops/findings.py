"""What a check of a party found: PASS, WARN or FAIL, one sentence, and, for the last
two, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from wardround.core.errors import Refusal

PASS = "PASS"  # noqa: S105 - a status, no password
WARN = "WARN"
FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line of a preflight.

    check: the name of the check.
    status: PASS, WARN or FAIL.
    found: one sentence.
    fix: what to do; empty for PASS only.
    """

    check: str
    status: str
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.status not in (PASS, WARN, FAIL) or (self.status == PASS) != (not self.fix):
            raise ValueError(f"a finding with status {self.status!r} and fix {self.fix!r}")


def passed(check: str, found: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(check, PASS, found)


def warned(check: str, found: str, fix: str) -> Finding:
    """Return a finding that works, but that a person should look at."""
    return Finding(check, WARN, found, fix)


def failed(check: str, found: str, fix: str) -> Finding:
    """Return a finding that will stop a job, or that must not be."""
    return Finding(check, FAIL, found, fix)


def refused(check: str, refusal: Refusal) -> Finding:
    """Return a refusal as a finding. The page stays at the party, so it may name files."""
    return failed(
        check,
        f"{refusal.what}: {refusal.found}",
        f"{refusal.fix} (expected: {refusal.expected})",
    )
