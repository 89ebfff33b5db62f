"""What is refused, and how does a refusal speak?

A refusal says what was found, what was expected and what to do. It never contains pixel
values or table cells. Its `code` is the only part that a site may send to the server:
the text can name a patient folder, so it stays at the site.
"""

from __future__ import annotations


class Refusal(Exception):
    """Something was refused on purpose. The text is for the person who has to mend it."""

    code = "refused"

    def __init__(self, what: str, *, found: str, expected: str, fix: str) -> None:
        self.what = what
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(f"{what}\n  found:    {found}\n  expected: {expected}\n  to do:    {fix}")


class DataRefused(Refusal):
    """A case, file or split that cannot be trained on."""

    code = "data"


class ConfigRefused(Refusal):
    """A job argument, site file or command line that does not make sense."""

    code = "config"


class ModelRefused(Refusal):
    """Weights of another architecture, or a network that cannot be federated."""

    code = "model"


class ReleaseRefused(Refusal):
    """An outgoing message that the outbound filter does not know or must not let pass."""

    code = "release"


class RoundRefused(Refusal):
    """A round with too few sites, or with contributions that do not fit."""

    code = "round"


class DiskRefused(Refusal):
    """A write for which the disk had no room.

    Its code is that of a failure that passes, so the site is asked again.
    """

    code = "failure"


class VersionRefused(Refusal):
    """A job that was made with another version of wardround than this one."""

    code = "version"
