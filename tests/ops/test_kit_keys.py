import json
import shutil

import pytest

from wardround.core.errors import ConfigRefused
from wardround.ops.kit_keys import changed_since_signed, read_certificate


def test_a_kit_is_as_it_was_signed_until_a_byte_changes(provisioned, tmp_path):
    for party, folder in (("site-1", "startup"), ("site-1", "local"), ("localhost", "startup"), ("localhost", "local")):
        copy = shutil.copytree(provisioned / party / folder, tmp_path / party / folder)
        root = provisioned / party / "startup" / "rootCA.pem"
        assert changed_since_signed(copy, root) == []
        signed = sorted(set(json.loads((copy / "signature.json").read_text())))
        first, last = copy / signed[0], copy / signed[-1]
        first.write_bytes(first.read_bytes() + b"\n")
        last.unlink()
        (copy / "more.json").write_text("{}")
        assert changed_since_signed(copy, root) == [first.name, last.name]


def test_signatures_of_nobody(provisioned, tmp_path):
    root = provisioned / "site-1" / "startup" / "rootCA.pem"
    with pytest.raises(ConfigRefused, match=r"signature\.json"):
        changed_since_signed(tmp_path, root)
    (tmp_path / "signature.json").write_text("[1]")
    with pytest.raises(ConfigRefused, match="no readable signatures"):
        changed_since_signed(tmp_path, root)


def test_a_certificate_that_is_none(provisioned, tmp_path):
    root = provisioned / "site-1" / "startup" / "rootCA.pem"
    (tmp_path / "client.crt").write_text("nothing")
    for file in (tmp_path / "client.crt", tmp_path / "absent.crt"):
        with pytest.raises(ConfigRefused, match="no readable certificate"):
            read_certificate(file, root, None)
    assert read_certificate(root, root, None).problem == ""
