"""Signatures with the key of a site's startup kit, and their check against the
project's root certificate.

NVFlare gives every party an RSA key, a certificate in its own name, and the root
certificate. Key agreement is only as good as its signatures: without them the server,
which relays all messages, could put its own keys in the middle. Source: RFC 8017
(RSASSA-PSS with SHA-256). There are no deviations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from wardround.core.errors import ConfigRefused, RoundRefused

CERTIFICATE = "client.crt"
KEY = "client.key"
ROOT = "rootCA.pem"
SITE_CONFIG = "fed_client.json"
_HASH = hashes.SHA256()
_PADDING = padding.PSS(padding.MGF1(_HASH), padding.PSS.DIGEST_LENGTH)


@final
@dataclass(frozen=True)
class Identity:
    """A site's own name, certificate (PEM) and private key."""

    name: str
    certificate: bytes
    key: RSAPrivateKey

    @staticmethod
    def load(startup: Path, name: str) -> Identity:
        """Read client.crt and client.key of a startup kit.

        A file that is missing, that cannot be read, or that belongs to another site is
        a ConfigRefused.
        """
        certificate, pem = _read(startup / CERTIFICATE), _read(startup / KEY)
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError) as error:
            raise _bad_file(startup / KEY, "no readable private key") from error
        parsed = _parse(certificate, startup / CERTIFICATE)
        found = name_in(parsed)
        if not isinstance(key, RSAPrivateKey) or found != name or key.public_key() != parsed.public_key():
            raise _bad_file(startup / CERTIFICATE, f"the name {found!r}, or a key that is not RSA or not its own")
        return Identity(name, certificate, key)

    def sign(self, text: str) -> bytes:
        """Return the RSASSA-PSS signature of a text, in UTF-8."""
        return self.key.sign(text.encode(), _PADDING, _HASH)


@final
@dataclass(frozen=True)
class Authority:
    """The project's root certificate, and the name of its server.

    The server is not a hospital, so it may not sign as one. The name is "" where the
    kit does not state it.
    """

    root: x509.Certificate
    server: str = ""

    @staticmethod
    def load(startup: Path) -> Authority:
        """Read rootCA.pem of a startup kit, and in a site's kit the name of the server.

        A file that is missing or that cannot be read is a ConfigRefused.
        """
        return Authority(_parse(_read(startup / ROOT), startup / ROOT), _server_name(startup / SITE_CONFIG))

    def require(self, site: str, certificate: bytes, text: str, signature: bytes) -> None:
        """Raise RoundRefused unless `site` signed the text with a key of this project.

        The certificate must be issued by the project's root, be within its dates, bear
        the name of the site, and hold an RSA key that the signature fits. The
        certificates of the server and of administrators are refused.
        """
        try:
            found = x509.load_pem_x509_certificate(certificate)
            found.verify_directly_issued_by(self.root)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise _untrusted(site, "a certificate that this project's root did not issue") from error
        # Dates are checked here: verify_directly_issued_by looks at the issuer only.
        now = datetime.now(timezone.utc)
        if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
            raise _untrusted(site, "a certificate outside its dates (check the clock)")
        if name_in(found) != site:
            raise _untrusted(site, f"the certificate of {name_in(found)!r}")
        if site == self.server or role_in(certificate):
            # Such a party would count as one of the hospitals that a sum needs,
            # although it has no update among which the others could hide.
            raise _untrusted(site, "the certificate of the server or an administrator, which is no hospital")
        key = found.public_key()
        try:
            if not isinstance(key, RSAPublicKey):
                raise _untrusted(site, "a key that is not RSA")
            key.verify(signature, text.encode(), _PADDING, _HASH)
        except InvalidSignature as error:
            raise _untrusted(site, "a signature that does not fit") from error


def name_in(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def role_in(certificate: bytes) -> str:
    """Return the role that provisioning wrote into a certificate (PEM).

    Administrators have a role. Sites and servers have none, for which "" is returned.
    """
    parsed = x509.load_pem_x509_certificate(certificate)
    roles = parsed.subject.get_attributes_for_oid(NameOID.UNSTRUCTURED_NAME)
    return str(roles[0].value) if roles else ""


def _server_name(path: Path) -> str:
    """Return the server's name as a site's kit states it.

    A server's kit and a simulated one do not have the file; then "" is returned.
    """
    if not path.is_file():
        return ""
    try:
        return str(json.loads(_read(path))["servers"][0]["identity"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _bad_file(path, "no server's identity in it") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _bad_file(path, "no readable file") from error


def _parse(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise _bad_file(path, "no readable certificate") from error


def _bad_file(path: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the startup kit: {path}",
        found=found,
        expected="the file that provisioning made for this site",
        fix="install this site's own startup kit again",
    )


def _untrusted(site: str, found: str) -> RoundRefused:
    return RoundRefused(
        f"a statement in the name of {site}",
        found=found,
        expected=f"a signature by the key that provisioning gave {site}",
        fix="the message was altered or forged, or a startup kit is from another project",
    )
