"""Who may speak in whose name: every certificate and key that is not a site's own is refused."""

from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.messages.identity import CERTIFICATE, KEY, ROOT, Authority, Identity, name_in
from wardround.secagg.simulated_kits import ROOT_KEY

TEXT = "what s1 says"


@pytest.fixture
def s1(identity):
    return identity("s1")


@pytest.fixture
def kit(kits, tmp_path):
    """A copy of s1's startup kit, to be spoilt."""
    for name in (CERTIFICATE, KEY, ROOT):
        (tmp_path / name).write_bytes((kits("s1") / name).read_bytes())
    return tmp_path


@pytest.fixture
def issue(kits):
    """issue(name, public key, first day, last day) -> PEM of a certificate by the project's root"""
    folder = kits("s1").parent / "common"
    key = load_pem_private_key((folder / ROOT_KEY).read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((folder / ROOT).read_bytes()).subject

    def make(subject, public, first=-1, last=1):
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(days=first)).not_valid_after(now + timedelta(days=last))
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

    return make


def named(*names):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def refused(authority, site, certificate, text, signature, match):
    with pytest.raises(RoundRefused, match=match):
        authority.require(site, certificate, text, signature)


def test_a_site_signs_for_itself(s1, authority):
    authority.require("s1", s1.certificate, TEXT, s1.sign(TEXT))
    assert s1.name == name_in(x509.load_pem_x509_certificate(s1.certificate)) == "s1"


def test_the_signature_is_pss_with_sha_256(s1):
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    s1.key.public_key().verify(s1.sign(TEXT), TEXT.encode(), scheme, hashes.SHA256())


def test_another_text_or_signature_is_refused(s1, authority):
    signature = s1.sign(TEXT)
    refused(authority, "s1", s1.certificate, TEXT + " ", signature, "does not fit")
    for place in (0, 100, 255):
        spoilt = bytearray(signature)
        spoilt[place] ^= 1
        refused(authority, "s1", s1.certificate, TEXT, bytes(spoilt), "does not fit")
    for short in (b"", signature[:-1], signature + b"\0"):
        refused(authority, "s1", s1.certificate, TEXT, short, "does not fit")


def test_another_sites_key_or_certificate_is_refused(s1, identity, authority):
    s2 = identity("s2")
    refused(authority, "s1", s1.certificate, TEXT, s2.sign(TEXT), "does not fit")
    refused(authority, "s1", s2.certificate, TEXT, s2.sign(TEXT), "certificate of 's2'")
    refused(authority, "s2", s1.certificate, TEXT, s1.sign(TEXT), "certificate of 's1'")


def test_another_projects_certificate_is_refused(impostor, authority):
    refused(authority, "s2", impostor.certificate, TEXT, impostor.sign(TEXT), "did not issue")


def test_a_certificate_that_a_site_issued_is_refused(s1, authority):
    """With the root's name as its issuer, and a good signature by a site's key."""
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(
        authority.root.subject, named("s2"), s1.key.public_key(), 1, now - timedelta(1), now + timedelta(1)
    )
    forged = builder.sign(s1.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    refused(authority, "s2", forged, TEXT, s1.sign(TEXT), "did not issue")


@pytest.mark.parametrize(
    "pem", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_is_refused(s1, authority, pem):
    refused(authority, "s1", pem, TEXT, s1.sign(TEXT), "did not issue")


@pytest.mark.parametrize(("first", "last"), [(-3, -1), (1, 3)])
def test_a_certificate_outside_its_dates_is_refused(s1, authority, issue, first, last):
    old = issue(named("s1"), s1.key.public_key(), first, last)
    refused(authority, "s1", old, TEXT, s1.sign(TEXT), "outside its dates")
    authority.require("s1", issue(named("s1"), s1.key.public_key()), TEXT, s1.sign(TEXT))


def test_a_certificate_without_a_name_is_refused(s1, authority, issue):
    nameless = issue(x509.Name([]), s1.key.public_key())
    refused(authority, "s1", nameless, TEXT, s1.sign(TEXT), "certificate of ''")


def test_a_key_that_is_not_rsa_is_refused(authority, issue, kit):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue(named("s1"), key.public_key())
    refused(authority, "s1", certificate, TEXT, key.sign(TEXT.encode(), ec.ECDSA(hashes.SHA256())), "not RSA")
    (kit / CERTIFICATE).write_bytes(certificate)
    (kit / KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigRefused, match="not RSA"):
        Identity.load(kit, "s1")


# --- loading


def test_a_whole_kit_loads(kit, authority):
    loaded = Identity.load(kit, "s1")
    Authority.load(kit).require("s1", loaded.certificate, TEXT, loaded.sign(TEXT))
    assert Authority.load(kit).root == authority.root


@pytest.mark.parametrize("name", [CERTIFICATE, KEY, ROOT])
@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_a_missing_or_damaged_file_is_refused_by_its_name(kit, name, content):
    (kit / name).unlink()
    if content is not None:
        (kit / name).write_bytes(content)
    with pytest.raises(ConfigRefused, match=name):
        Authority.load(kit) if name == ROOT else Identity.load(kit, "s1")


@pytest.mark.parametrize("name", [CERTIFICATE, KEY])
def test_another_sites_file_is_refused(kit, kits, name):
    (kit / name).write_bytes((kits("s2") / name).read_bytes())
    with pytest.raises(ConfigRefused, match="startup kit"):
        Identity.load(kit, "s1")


def test_another_sites_kit_is_refused(kits):
    with pytest.raises(ConfigRefused, match="the name 's1'"):
        Identity.load(kits("s1"), "s2")


def test_the_server_and_administrators_are_no_hospitals_in_any_job(kit, s1, issue):
    """Either would count as one of the hospitals that a sum needs; the server's name stands in every site's kit."""
    public = s1.key.public_key()
    signature = s1.sign(TEXT)
    (kit / "fed_client.json").write_text('{"servers": [{"name": "project", "identity": "server.hospital.org"}]}')
    authority = Authority.load(kit)
    subject = x509.Name([*named("lead"), x509.NameAttribute(NameOID.UNSTRUCTURED_NAME, "lead")])
    for site, certificate in (
        ("server.hospital.org", issue(named("server.hospital.org"), public)),
        ("lead", issue(subject, public)),
    ):
        refused(authority, site, certificate, TEXT, signature, "no hospital")
    authority.require("s2", issue(named("s2"), public), TEXT, signature)


@pytest.mark.parametrize("spoilt", ["", "{}", '{"servers": []}', '{"servers": [{"name": "project"}]}'])
def test_a_kit_that_does_not_name_its_server_is_refused(kit, spoilt):
    (kit / "fed_client.json").write_text(spoilt)
    with pytest.raises(ConfigRefused, match="server's identity"):
        Authority.load(kit)
