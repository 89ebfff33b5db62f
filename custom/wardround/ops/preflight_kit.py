"""Checks of a startup kit: its certificate, its secret files, and whether the server
can be reached with it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from wardround.core.errors import Refusal
from wardround.flare.kit import ROOT, SERVER, SITE, Kit, readable_by_others
from wardround.ops.findings import Finding, failed, passed, refused, warned
from wardround.ops.kit_keys import Certificate, read_certificate
from wardround.secagg import encryption_key

SOON, PATIENCE_S = timedelta(days=30), 5.0
AGAIN = "let the lead provision again, and install the new startup kit"


def read_certificates(kit: Kit) -> dict[str, Certificate]:
    """Return the party's own certificate and the project's root. One that cannot be
    read is refused with ConfigRefused.
    """
    root = kit.startup / ROOT
    own = read_certificate(kit.certificate, root, kit.key)
    return {kit.certificate.name: own, ROOT: read_certificate(root, root, None)}


def certificates(found: dict[str, Certificate], now: datetime) -> list[Finding]:
    """Check dates and signatures. A date in the future is for the check of the clock,
    and only mentioned here.
    """
    return [_certificate(file, one, now) for file, one in found.items()]


def _certificate(file: str, one: Certificate, now: datetime) -> Finding:
    dates = f"{file} of {one.name}: {one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}"
    if one.problem:
        return failed(
            "certificates",
            f"{file}: {one.problem}",
            "install this party's own startup kit again",
        )
    if now > one.not_after:
        return failed("certificates", f"{dates}: EXPIRED", AGAIN)
    if now < one.not_before:
        return failed(
            "certificates",
            f"{dates}: not valid yet",
            "set the clock; if it is right, " + AGAIN,
        )
    left = (one.not_after - now).days
    if one.not_after - now < SOON:
        return warned(
            "certificates",
            f"{dates}: {left} days left",
            AGAIN + " before that day",
        )
    return passed("certificates", f"{dates}: {left} days left")


def keys(kit: Kit) -> list[Finding]:
    """Check the secret files: they must exist, be readable by their owner only, and a
    server must not have a site's.
    """
    wrong = [
        failed(
            "keys",
            f"startup/{path.name} can be read by others (mode {path.stat().st_mode & 0o777:o})",
            f"chmod 600 {path}, or `wardround sites harden {kit.root}`",
        )
        for path in kit.secrets()
        if readable_by_others(path)
    ]
    try:
        wrong += _sum_key(kit)
    except Refusal as refusal:
        wrong.append(refused("keys", refusal))
    return wrong or [
        passed("keys", ", ".join(path.name for path in kit.secrets()) + ": owner only"),
    ]


def _sum_key(kit: Kit) -> list[Finding]:
    if kit.role == SERVER:
        encryption_key.require_no_key([kit.startup, kit.local])
    name = encryption_key.SITE_FILE if kit.role == SITE else encryption_key.SERVER_FILE
    if not (kit.startup / name).is_file():
        return [
            warned(
                "keys",
                f"no startup/{name}: jobs with an encrypted sum (*_he, *_ring) cannot run",
                "if they should, provision with wardround.flare.provision.SumKeyBuilder (poc_workspace/project.yml)",
            ),
        ]
    if kit.role == SITE:
        encryption_key.read_site(kit.startup)
    else:
        encryption_key.read_server(kit.startup)
    return []


def server(kit: Kit, *, started: bool) -> Finding:
    """Check that the server answers at its address, with mutual TLS and this kit's
    certificates.

    started: whether the server must answer. For a server's own kit that is not started,
      free ports are a PASS. A site may be set up before the server runs, so there a
      port on which nothing listens is only a warning.
    """
    where = f"{kit.host}:{kit.port}"
    try:
        version, name = handshake(kit)
    except ConnectionRefusedError:
        if kit.role == SERVER and not started:
            return passed("server", f"not started; port {kit.port} is free")
        if started or kit.role == SERVER:
            return failed(
                "server",
                f"{where} refuses: nothing listens there",
                "start the server; read its log.txt",
            )
        mend = "ask the lead whether the server runs; if it does, the firewall or the port in the kit is wrong"
        return warned("server", f"{where} refuses: nothing listens there (yet)", mend)
    except socket.gaierror:
        return failed(
            "server",
            f"the name {kit.host} is not known here",
            f"add {kit.host} to DNS or /etc/hosts",
        )
    except TimeoutError:
        return failed(
            "server",
            f"{where} does not answer in {PATIENCE_S:.0f} s",
            "open this port outwards in the firewall",
        )
    except ssl.SSLError as error:
        words = f"{where} answers, but not as this project's server ({error.reason or error})"
        return failed(
            "server",
            words,
            "look for a proxy that opens TLS, and whether both kits are of one project",
        )
    except OSError as error:
        return failed(
            "server",
            f"{where}: {error.strerror or error}",
            "mend the network, or correct the address",
        )
    if name != kit.identity:
        return failed(
            "server",
            f"{where} answers as {name!r}, not {kit.identity!r}",
            "ask the lead which kit is right",
        )
    return passed("server", f"{where} answers as {name}, mutual {version}")


def handshake(kit: Kit) -> tuple[str, str]:
    """Return (TLS version, name in the server's certificate) of one connection with
    this kit's own certificate.

    A server that this project's root did not certify, or that rejects this certificate,
    raises ssl.SSLError; no server raises OSError.
    """
    context = ssl.create_default_context(cafile=str(kit.startup / ROOT))
    # The host's name is not checked here: the caller compares the party's name in the
    # certificate with the kit's.
    context.check_hostname = False
    context.load_cert_chain(kit.certificate, kit.key)
    # A gRPC server closes a connection that does not offer HTTP/2.
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((kit.host, kit.port), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=kit.host) as secure,
    ):
        # A rejection arrives at once; a server that accepts the certificate says
        # nothing and waits.
        secure.settimeout(1.0)
        _hear(secure)
        return str(secure.version()), _common_name(secure.getpeercert() or {})


def _common_name(peer: Mapping[str, Any]) -> str:
    names = dict(pair for part in peer.get("subject", ()) for pair in part)
    return str(names.get("commonName", ""))


def _hear(secure: ssl.SSLSocket) -> None:
    """Read the server's first bytes: in TLS 1.3 a client's certificate is rejected only
    after the handshake.
    """
    try:
        secure.recv(1)
    except TimeoutError:
        return
