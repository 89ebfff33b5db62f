"""What stands for startup kits in NVFlare's simulator, which has none?

A root, a certificate for each site, and one sum key. The simulator's parties are
processes of one machine and one user, so this protects nobody; it lets the same code
and the same checks run there as at real hospitals. It is made once for a run, under a
lock, by the process that comes first.
"""

from __future__ import annotations

import fcntl
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from wardround.messages.identity import CERTIFICATE, KEY, ROOT
from wardround.secagg import encryption_key

ROOT_KEY = "rootCA.key"
ROOT_NAME = "wardround simulator"
DAYS = 30


def site_kit(common: Path, site: str, startup: Path) -> None:
    """Give a simulated site what a real one gets.

    That is certificate, key, root certificate and the sum key's file.
    """
    root, authority, seed = _common(common)
    if not all((startup / name).is_file() for name in (CERTIFICATE, KEY, ROOT, encryption_key.SITE_FILE)):
        key = rsa.generate_private_key(65537, 2048)
        startup.mkdir(parents=True, exist_ok=True)
        (startup / ROOT).write_bytes(root.public_bytes(Encoding.PEM))
        (startup / CERTIFICATE).write_bytes(_issue(site, key, authority, root.subject).public_bytes(Encoding.PEM))
        _write_key(startup / KEY, key)
        encryption_key.write_site(startup, seed)


def server_kit(common: Path, startup: Path) -> None:
    """Give the simulated server the root certificate and the id of the sum key."""
    root, _, seed = _common(common)
    startup.mkdir(parents=True, exist_ok=True)
    (startup / ROOT).write_bytes(root.public_bytes(Encoding.PEM))
    encryption_key.write_server(startup, seed)


def _common(folder: Path) -> tuple[x509.Certificate, rsa.RSAPrivateKey, bytes]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        # All parties start at once: the first one makes the root, and the others wait
        # for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ROOT).is_file():
            key = rsa.generate_private_key(65537, 2048)
            _write_key(folder / ROOT_KEY, key)
            encryption_key.write_site(folder, encryption_key.new_seed())
            root = _issue(ROOT_NAME, key, key, _named(ROOT_NAME))
            (folder / ROOT).write_bytes(root.public_bytes(Encoding.PEM))
    root = x509.load_pem_x509_certificate((folder / ROOT).read_bytes())
    key_ = load_pem_private_key((folder / ROOT_KEY).read_bytes(), None)
    if not isinstance(key_, rsa.RSAPrivateKey):
        raise TypeError("the simulator's root key is not RSA")
    return root, key_, encryption_key.read_site(folder)


def _issue(name: str, key: rsa.RSAPrivateKey, authority: rsa.RSAPrivateKey, issuer: x509.Name) -> x509.Certificate:
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(_named(name)).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=DAYS))
    return builder.sign(authority, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write_key(path: Path, key: rsa.RSAPrivateKey) -> None:
    # The mode is set while the file is still empty.
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
