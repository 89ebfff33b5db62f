"""A startup kit on disk, of a site or of the server: whom it is for, where the server
is, and which files are secret.

A kit has two folders. startup/ is made and signed at provisioning, and never edited.
local/ is the party's own: a file NAME in it takes precedence over NAME.default, which
is signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.secagg import encryption_key

SITE, SERVER = "site", "server"
CONFIGS = {SITE: "fed_client.json", SERVER: "fed_server.json"}
PAIRS = {SITE: ("client.crt", "client.key"), SERVER: ("server.crt", "server.key")}
SECRETS = {SITE: (PAIRS[SITE][1], encryption_key.SITE_FILE), SERVER: (PAIRS[SERVER][1],)}
ROOT = "rootCA.pem"
Json = dict[str, Any]


@dataclass(frozen=True)
class Kit:
    """One party's workspace.

    root: the folder that holds startup/ and local/.
    role: "site" or "server".
    identity: the server's name, as its certificate has it.
    host: the server's host name.
    port: the server's port.
    """

    root: Path
    role: str
    identity: str
    host: str
    port: int

    @property
    def startup(self) -> Path:
        """Return the folder that provisioning made and signed."""
        return self.root / "startup"

    @property
    def local(self) -> Path:
        """Return the folder of the party's own files."""
        return self.root / "local"

    @property
    def certificate(self) -> Path:
        """Return the path of the party's certificate."""
        return self.startup / PAIRS[self.role][0]

    @property
    def key(self) -> Path:
        """Return the path of the party's private key."""
        return self.startup / PAIRS[self.role][1]

    def secrets(self) -> list[Path]:
        """Return those files of this kit that nobody else may read, if they exist."""
        return [self.startup / name for name in SECRETS[self.role] if (self.startup / name).is_file()]

    def own(self, name: str) -> Path:
        """Return the file in local/ that NVFlare reads under this name: the party's own
        file, or else the default.
        """
        file = self.local / name
        return file if file.is_file() else self.local / f"{name}.default"


def open_kit(folder: Path) -> Kit:
    """Return the kit in a party's workspace.

    The folder startup/ in the workspace may be named too. A folder that is the kit of
    neither a site nor a server is a ConfigRefused.
    """
    root = folder.resolve()
    root = root.parent if root.name == "startup" else root
    roles = [role for role, name in CONFIGS.items() if (root / "startup" / name).is_file()]
    if len(roles) != 1:
        raise _refused(root, f"startup/ with {' and '.join(CONFIGS[role] for role in roles) or 'neither of the two'}")
    role = roles[0]
    config = read_object(root / "startup" / CONFIGS[role])
    try:
        server = config["servers"][0]
        host, _, port = server["service"]["target"].rpartition(":")
        identity = server["identity"] if role == SITE else server["admin_server"]
        return Kit(root, role, str(identity), host, int(port))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _refused(root, f"{CONFIGS[role]} without a server's address ({type(error).__name__}: {error})") from error


def read_object(path: Path) -> Json:
    """Return the JSON object in a file.

    A file that is not there, that cannot be read, or that holds no object is a
    ConfigRefused.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_json(path, f"{type(error).__name__}: {str(error)[:100]}") from error
    if not isinstance(content, dict):
        raise _bad_json(path, f"a JSON {type(content).__name__}")
    return content


def write_changed(path: Path, change: Callable[[Json], Json]) -> bool:
    """Write `path` as `change` of what NVFlare reads under that name now, and return
    whether that changed anything.
    """
    default = path.with_name(f"{path.name}.default")
    text = json.dumps(change(read_object(path if path.is_file() else default)), indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    files.write(path, text)
    return True


def readable_by_others(path: Path) -> bool:
    """Return whether the file's mode lets anyone but its owner read or write it."""
    return bool(path.stat().st_mode & 0o077)


def _refused(root: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the startup kit {root}",
        found=found,
        expected=f"startup/{CONFIGS[SITE]} (a site's kit) or startup/{CONFIGS[SERVER]} (the server's)",
        fix="name the folder that provisioning made for this party, the one with startup/ and local/ in it",
    )


def _bad_json(path: Path, found: str) -> ConfigRefused:
    return ConfigRefused(f"the file {path}", found=found, expected="one JSON object", fix="put the true file back")
