"""What the service refuses, how much it accepts, and the secret that its users show."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.core.errors import ConfigRefused, Refusal

VARIABLE = "WARDROUND_TOKEN"
# Characters of a token: 24 of base64 hold 144 bits.
SHORTEST = 24
MIB = 2**20


class UploadRefused(Refusal):
    """A request that is not served. `status` is that of HTTP."""

    code = "upload"

    def __init__(
        self,
        status: int,
        what: str,
        *,
        found: str,
        expected: str,
        fix: str,
    ) -> None:
        super().__init__(what, found=found, expected=expected, fix=fix)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    upload: bytes of a request as it is sent.
    unpacked: bytes of its images when they are decompressed.
    voxels: voxels of one image.
    waiting: requests that may wait for the one that is served.
    upload_s: seconds for receiving a request.
    work_s: seconds from then until the answer.
    """

    upload: int
    unpacked: int
    voxels: int
    waiting: int
    upload_s: float
    work_s: float

    def __post_init__(self) -> None:
        if min(self.upload, self.unpacked, self.voxels, self.upload_s, self.work_s) <= 0 or self.waiting < 0:
            raise ConfigRefused(
                "the limits of the service",
                found=f"{self}",
                expected="numbers above 0, and 0 or more requests that wait",
                fix="correct the options",
            )


@dataclass(frozen=True)
class Token:
    """A secret, kept as its SHA-256."""

    digest: bytes

    def opens(self, header: str) -> bool:
        """Return whether an Authorization header shows the token. The time it takes
        does not depend on what was wrong.
        """
        scheme, _, shown = header.partition(" ")
        same = hmac.compare_digest(
            hashlib.sha256(shown.strip().encode("utf-8", "surrogateescape")).digest(),
            self.digest,
        )
        return same and scheme.lower() == "bearer"


def read_token(file: Path | None, environ: Mapping[str, str]) -> Token:
    """Return the token in a file, or else in the variable WARDROUND_TOKEN. White space
    around it is dropped.

    No token, one shorter than 24 characters, one with white space in it, and a file of
    another user or that group or others may touch are refused with ConfigRefused.
    """
    if file is None and VARIABLE not in environ:
        raise _refused("none", f"--token-file FILE, or the variable {VARIABLE}")
    text = environ[VARIABLE] if file is None else _content(file)
    token = text.strip()
    if len(token) < SHORTEST or not token.isascii() or any(not 33 <= ord(one) <= 126 for one in token):
        raise _refused(
            f"{len(token)} characters",
            f"{SHORTEST} or more printable ASCII characters without spaces",
        )
    return Token(hashlib.sha256(token.encode()).digest())


def _content(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
                found = f"{file}: mode {stat.S_IMODE(about.st_mode):o}, user {about.st_uid}"
                raise _refused(
                    found,
                    f"a file of user {os.geteuid()} that nobody else may touch (chmod 600)",
                )
            return stream.read(4096).decode("ascii", "replace")
    except OSError as error:
        raise _refused(
            f"{file}: {error.strerror or type(error).__name__}",
            "a file that can be read",
        ) from error


def _refused(found: str, expected: str) -> ConfigRefused:
    fix = "umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token, then --token-file token"
    return ConfigRefused("the service's token", found=found, expected=expected, fix=fix)
