"""What we refuse, and how a refusal speaks.

A refusal tells what was found, what was expected and what to do. It never contains pixel values or table cells.
`code` is the only part that a site may send to the server: the text can name a patient folder and stays at the site.
"""

from __future__ import annotations


class Refusal(Exception):
    """Something was refused on purpose; the text is meant for the person who has to mend it."""

    code = "refused"

    def __init__(self, what: str, *, found: str, expected: str, fix: str) -> None:
        self.what, self.found, self.expected, self.fix = what, found, expected, fix
        super().__init__(f"{what}\n  found:    {found}\n  expected: {expected}\n  to do:    {fix}")


class DataRefused(Refusal):
    """A case, file or split that cannot be trained on."""

    code = "data"


class ConfigRefused(Refusal):
    """A job argument, site file or command line that does not make sense."""

    code = "config"


class ModelRefused(Refusal):
    """Weights that belong to another architecture, or a network that cannot be federated."""

    code = "model"


class ReleaseRefused(Refusal):
    """An outgoing message that the exit does not know, or must not let pass."""

    code = "release"


class RoundRefused(Refusal):
    """A round that cannot be completed: too few sites, or contributions that do not fit."""

    code = "round"


class DiskRefused(Refusal):
    """A write that found no room on the disk. The code is that of a failure that passes: the site is asked again."""

    code = "failure"


class VersionRefused(Refusal):
    """A job that was made with another wardround than the one that runs here."""

    code = "version"
