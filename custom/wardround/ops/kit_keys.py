"""What do a startup kit's certificate and keys say? They are read, and nothing else is
done with them.

Source: RFC 5280 (certificates, validity), RFC 8017 (PSS). Deviation: the chain has one
  step, as NVFlare's provisioning makes it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from wardround.core.errors import ConfigRefused
from wardround.messages.identity import name_in

SIGNATURES = "signature.json"
# The signature scheme of NVFlare's provisioning: PSS over SHA-256 with the longest
# salt.
_HASH = hashes.SHA256()
_PADDING = padding.PSS(padding.MGF1(_HASH), padding.PSS.MAX_LENGTH)


@final
@dataclass(frozen=True)
class Certificate:
    """One certificate.

    problem: why it is not this kit's (another root, another key, not readable), or ""
      where it is.
    """

    name: str
    not_before: datetime
    not_after: datetime
    problem: str


def read_certificate(certificate: Path, root: Path, key: Path | None) -> Certificate:
    """Return a certificate, checked against the root that signed it and, where one is
    given, against its private key.

    A missing file, or one that is no certificate, is refused with ConfigRefused.
    Another issuer or another key is told in `problem`.
    """
    found, authority = _parsed(certificate), _parsed(root)
    problem = ""
    try:
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        problem = f"not issued by {root.name}"
    if key is not None and not problem:
        problem = _key_problem(key, found)
    return Certificate(
        name_in(found),
        found.not_valid_before_utc,
        found.not_valid_after_utc,
        problem,
    )


def changed_since_signed(folder: Path, root: Path) -> list[str]:
    """Return the files of a folder that its signature.json lists and that are gone or
    changed since the root signed them.

    A missing or unreadable signature.json, and a root certificate that is not RSA, are
    refused with ConfigRefused.
    """
    key = _parsed(root).public_key()
    try:
        signed = {str(name): base64.b64decode(text) for name, text in json.loads(_text(folder / SIGNATURES)).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise _refused(
            folder / SIGNATURES,
            f"no readable signatures ({type(error).__name__})",
        ) from error
    if not isinstance(key, RSAPublicKey):
        raise _refused(root, "a key that is not RSA")
    return [name for name, signature in sorted(signed.items()) if not _as_signed(folder / name, signature, key)]


def _as_signed(file: Path, signature: bytes, key: RSAPublicKey) -> bool:
    try:
        key.verify(signature, file.read_bytes(), _PADDING, _HASH)
    except (InvalidSignature, OSError):
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refused(path, f"not readable ({error.strerror})") from error


def _key_problem(key: Path, certificate: x509.Certificate) -> str:
    try:
        mine = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return f"{key.name} is no readable private key"
    return "" if mine.public_key() == certificate.public_key() else f"{key.name} belongs to another certificate"


def _parsed(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _refused(
            path,
            f"no readable certificate ({type(error).__name__})",
        ) from error


def _refused(path: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the startup kit: {path.parent.name}/{path.name}",
        found=found,
        expected="the file that provisioning made for this party",
        fix="install this party's own startup kit again",
    )
