"""Kits as provisioning makes them, each with one thing broken for real; a TLS server in a thread."""

import json
import shutil
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from wardround.flare.kit import open_kit
from wardround.ops import preflight_kit
from wardround.ops.findings import FAIL, PASS, WARN
from wardround.secagg import encryption_key

NOW = datetime.now(timezone.utc)


@pytest.fixture
def kit(provisioned, tmp_path):
    """kit("site-1") -> a copy to break"""
    return lambda party: open_kit(shutil.copytree(provisioned / party, tmp_path / party))


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certify(folder, name, begin, end, *, file="client"):
    """Write a root of our own, and a key with a certificate of these dates, into a startup folder."""
    root, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))

    def issue(subject, of, first, last):
        made = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("root"))
            .public_key(of.public_key())
        )
        made = made.serial_number(1).not_valid_before(first).not_valid_after(last)
        return made.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM)

    (folder / "rootCA.pem").write_bytes(issue("root", root, NOW - timedelta(days=900), NOW + timedelta(days=900)))
    (folder / f"{file}.crt").write_bytes(issue(name, key, begin, end))
    (folder / f"{file}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )


def statuses(findings):
    return [one.status for one in findings]


def test_fresh_certificates_pass(kit):
    for party in ("site-1", "localhost"):
        found = preflight_kit.certificates(preflight_kit.read_certificates(kit(party)), datetime.now(timezone.utc))
        assert statuses(found) == [PASS, PASS]
        assert f"of {party}" in found[0].found


@pytest.mark.parametrize(
    ("begin", "end", "status", "says"),
    [
        (-400, -1, FAIL, "EXPIRED"),
        (2, 400, FAIL, "not valid yet"),
        (-400, 29, WARN, "28 days left"),
        (-400, 31, PASS, "30 days left"),
    ],
)
def test_dates(kit, begin, end, status, says):
    site = kit("site-1")
    certify(site.startup, "site-1", NOW + timedelta(days=begin), NOW + timedelta(days=end))
    own, root = preflight_kit.certificates(preflight_kit.read_certificates(site), NOW)
    assert (own.status, root.status) == (status, PASS)
    assert says in own.found


def test_another_projects_root_and_another_key(kit, provisioned):
    site = kit("site-1")
    shutil.copyfile(provisioned / "site-2" / "startup" / "client.key", site.key)
    assert (
        "belongs to another certificate"
        in preflight_kit.certificates(preflight_kit.read_certificates(site), NOW)[0].found
    )
    site.key.write_text("nothing")
    assert "no readable private key" in preflight_kit.certificates(preflight_kit.read_certificates(site), NOW)[0].found
    certify(site.startup, "site-1", NOW, NOW + timedelta(days=99))
    shutil.copyfile(provisioned / "site-1" / "startup" / "client.crt", site.certificate)
    assert "not issued by rootCA.pem" in preflight_kit.certificates(preflight_kit.read_certificates(site), NOW)[0].found


def test_secret_files_of_a_site(kit):
    site = kit("site-1")
    assert statuses(preflight_kit.keys(site)) == [PASS]
    for name in ("client.key", "wardround_sum_key.key"):
        (site.startup / name).chmod(0o640)
        (found,) = preflight_kit.keys(site)
        assert (found.status, name in found.found, "chmod 600" in found.fix) == (FAIL, True, True)
        (site.startup / name).chmod(0o600)
    key = site.startup / encryption_key.SITE_FILE
    key.write_text(key.read_text().replace('"seed": "', '"seed": "00'))
    assert statuses(preflight_kit.keys(site)) == [FAIL]
    key.unlink()
    assert statuses(preflight_kit.keys(site)) == [WARN]


def test_a_site_s_secret_at_the_server(kit, provisioned):
    server = kit("localhost")
    assert statuses(preflight_kit.keys(server)) == [PASS]
    shutil.copyfile(
        provisioned / "site-1" / "startup" / encryption_key.SITE_FILE, server.startup / encryption_key.SITE_FILE
    )
    (found,) = preflight_kit.keys(server)
    assert found.status == FAIL
    assert "holds the secret" in found.found


@contextmanager
def listening(folder, file="server"):
    """A server with mutual TLS, with the certificate and root of a startup folder; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{file}.crt", folder / f"{file}.key")
    context.load_verify_locations(folder / "rootCA.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        secure.sendall(b"hello")
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def at(kit_, port, identity="localhost", host="127.0.0.1"):
    """Point a kit to an address."""
    file = kit_.startup / ("fed_client.json" if kit_.role == "site" else "fed_server.json")
    config = json.loads(file.read_text())
    config["servers"][0]["service"]["target"] = f"{host}:{port}"
    config["servers"][0]["identity"] = identity
    file.write_text(json.dumps(config))
    return open_kit(kit_.root)


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_server_answers_with_its_name(kit, provisioned):
    with listening(provisioned / "localhost" / "startup") as port:
        found = preflight_kit.server(at(kit("site-1"), port), started=False)
        assert (found.status, "as localhost, mutual TLSv1" in found.found) == (PASS, True)
        assert preflight_kit.server(at(kit("localhost"), port), started=True).status == PASS


def test_another_name_at_that_address(kit, provisioned):
    with listening(provisioned / "localhost" / "startup") as port:
        found = preflight_kit.server(at(kit("site-1"), port, identity="fl.example.org"), started=False)
    assert (found.status, "answers as 'localhost', not 'fl.example.org'" in found.found) == (FAIL, True)


def test_a_closed_port(kit):
    port = closed_port()
    assert "nothing listens" in preflight_kit.server(at(kit("site-1"), port), started=False).found
    server = at(kit("localhost"), port)
    assert preflight_kit.server(server, started=False).status == PASS
    assert preflight_kit.server(server, started=True).status == FAIL


def test_a_name_that_nobody_knows(kit):
    assert (
        "not known here" in preflight_kit.server(at(kit("site-1"), 1, host="no-such-host.invalid"), started=False).found
    )


def test_a_server_of_another_project_and_a_certificate_that_it_rejects(kit, tmp_path):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certify(stranger, "localhost", NOW - timedelta(days=1), NOW + timedelta(days=9), file="server")
    site = kit("site-1")
    with listening(stranger) as port:
        found = preflight_kit.server(at(site, port), started=False)
        assert (found.status, "not as this project's server" in found.found) == (FAIL, True)
        shutil.copyfile(stranger / "rootCA.pem", site.startup / "rootCA.pem")
        found = preflight_kit.server(at(site, port), started=False)
        assert (found.status, "not as this project's server" in found.found) == (FAIL, True), (
            "it trusts the server, not it"
        )
