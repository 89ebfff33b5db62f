"""The key files: a site's with the seed, the server's without; anything else is refused by the name of its file."""

import json

import pytest

from wardround.core.errors import ConfigRefused
from wardround.secagg import encryption_key
from wardround.secagg.encryption_key import FORMAT, SERVER_FILE, SITE_FILE, key_id, new_seed

SEED = bytes(range(64))


def changed(folder, name, **entries):
    content = json.loads((folder / name).read_text()) | entries
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_a_site_reads_its_seed_and_the_server_the_id(tmp_path):
    site = encryption_key.write_site(tmp_path / "startup", SEED)
    server = encryption_key.write_server(tmp_path / "server", SEED)
    assert (site.name, server.name) == (SITE_FILE, SERVER_FILE)
    assert encryption_key.read_site(site.parent) == SEED
    assert encryption_key.read_server(server.parent) == key_id(SEED)


def test_only_the_owner_reads_a_sites_file(tmp_path):
    assert encryption_key.write_site(tmp_path, SEED).stat().st_mode & 0o777 == 0o600
    (tmp_path / SITE_FILE).chmod(0o644)
    assert encryption_key.write_site(tmp_path, SEED).stat().st_mode & 0o777 == 0o600


def test_the_servers_file_tells_nothing_of_the_seed(tmp_path):
    text = encryption_key.write_server(tmp_path, SEED).read_text()
    assert json.loads(text) == {"format": FORMAT, "key_id": key_id(SEED)}
    assert all(SEED.hex()[i : i + 8] not in text for i in range(0, 128, 2))


def test_ids_tell_keys_apart():
    assert len({key_id(bytes([i]) + bytes(63)) for i in range(50)}) == 50
    assert key_id(SEED) == key_id(SEED)
    assert len(key_id(SEED)) == 32


def test_seeds_are_fresh():
    assert len({new_seed() for _ in range(5)}) == 5
    assert len(new_seed()) == 64


@pytest.mark.parametrize("content", [None, "", "no json", "[]", '"text"', "null", "\udcff"])
@pytest.mark.parametrize(
    ("read", "name"), [(encryption_key.read_site, SITE_FILE), (encryption_key.read_server, SERVER_FILE)]
)
def test_missing_and_unreadable_files_are_refused(tmp_path, read, name, content):
    if content is not None:
        (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(ConfigRefused, match=name):
        read(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {"format": "another"},
        {"format": ...},
        {"seed": ...},
        {"seed": "no hex"},
        {"seed": SEED.hex()[:-2]},
        {"seed": SEED.hex() + "00"},
        {"seed": "ff" + SEED.hex()[2:]},
        {"seed": 5},
        {"key_id": ...},
        {"key_id": key_id(bytes(64))},
    ],
)
def test_a_damaged_site_file_is_refused(tmp_path, entries):
    encryption_key.write_site(tmp_path, SEED)
    changed(tmp_path, SITE_FILE, **entries)
    with pytest.raises(ConfigRefused, match=SITE_FILE):
        encryption_key.read_site(tmp_path)


@pytest.mark.parametrize("entries", [{"format": "another"}, {"key_id": ...}, {"key_id": 7}, {"seed": SEED.hex()}])
def test_a_damaged_server_file_or_one_with_a_key_is_refused(tmp_path, entries):
    encryption_key.write_server(tmp_path, SEED)
    changed(tmp_path, SERVER_FILE, **entries)
    with pytest.raises(ConfigRefused, match=SERVER_FILE):
        encryption_key.read_server(tmp_path)


def test_roles_do_not_mix(tmp_path):
    encryption_key.write_site(tmp_path, SEED).rename(tmp_path / SERVER_FILE)
    with pytest.raises(ConfigRefused, match="seed"):
        encryption_key.read_server(tmp_path)
    encryption_key.write_server(tmp_path, SEED).rename(tmp_path / SITE_FILE)
    with pytest.raises(ConfigRefused, match="its own id"):
        encryption_key.read_site(tmp_path)


def test_a_refusal_does_not_print_the_seed(tmp_path):
    encryption_key.write_site(tmp_path, SEED)
    changed(tmp_path, SITE_FILE, key_id="0" * 32)
    with pytest.raises(ConfigRefused) as refusal:
        encryption_key.read_site(tmp_path)
    assert SEED.hex()[:16] not in str(refusal.value)


def test_a_server_with_a_key_is_refused(tmp_path):
    one, two = tmp_path / "startup", tmp_path / "local"
    encryption_key.write_server(one, SEED)
    encryption_key.require_no_key([one, two, tmp_path / "absent"])
    encryption_key.write_site(two, SEED)
    with pytest.raises(ConfigRefused, match="local"):
        encryption_key.require_no_key([one, two])
