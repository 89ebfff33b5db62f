"""Kits for the simulator: whole, of one project, made once whoever comes first."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from wardround.messages.identity import CERTIFICATE, KEY, ROOT, Authority, Identity
from wardround.secagg import encryption_key
from wardround.secagg.simulated_kits import ROOT_KEY, server_kit, site_kit


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two sites and the server of one project, all started at once."""
    root = tmp_path_factory.mktemp("project")
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(site_kit, root / "common", site, root / site) for site in ("a", "b")]
        jobs.append(pool.submit(server_kit, root / "common", root / "server"))
        for job in jobs:
            job.result()
    return root


def test_all_trust_all(project):
    for one in ("a", "b"):
        speaker = Identity.load(project / one, one)
        for other in ("a", "b", "server"):
            Authority.load(project / other).require(one, speaker.certificate, "text", speaker.sign("text"))


def test_sites_share_one_sum_key_and_the_server_has_its_id(project):
    seed = encryption_key.read_site(project / "a")
    assert encryption_key.read_site(project / "b") == seed
    assert encryption_key.read_server(project / "server") == encryption_key.key_id(seed)


def test_the_server_gets_no_key(project):
    encryption_key.require_no_key([project / "server"])
    assert sorted(path.name for path in (project / "server").iterdir()) == sorted([ROOT, encryption_key.SERVER_FILE])


def test_keys_are_readable_by_their_owner_only(project):
    for path in (project / "common" / ROOT_KEY, project / "a" / KEY, project / "a" / encryption_key.SITE_FILE):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (project / "common").stat().st_mode & 0o777 == 0o700


def test_asked_again_nothing_changes(project):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    site_kit(project / "common", "a", project / "a")
    server_kit(project / "common", project / "server")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_half_a_kit_is_made_anew(project, tmp_path):
    for name in (CERTIFICATE, ROOT, encryption_key.SITE_FILE):
        (tmp_path / name).write_bytes((project / "b" / name).read_bytes())
    site_kit(project / "common", "b", tmp_path)
    speaker = Identity.load(tmp_path, "b")
    Authority.load(project / "a").require("b", speaker.certificate, "text", speaker.sign("text"))
    assert speaker.certificate != (project / "b" / CERTIFICATE).read_bytes()


def test_a_root_key_that_is_not_rsa_is_no_root(project, tmp_path):
    for path in (project / "common").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / ROOT_KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(TypeError, match="not RSA"):
        site_kit(tmp_path, "c", tmp_path / "c")
