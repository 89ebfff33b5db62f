"""Where is the key of the encrypted sum? In one file per role, made at provisioning.

    site     startup/wardround_sum_key.key       the 64-byte seed of the BFV key, its id
    server   startup/wardround_sum_public.json   the id alone: the server adds and never
                                                 reads

All sites share one key: whoever has it AND the ciphertexts (a site that helps the
server) reads single updates. Masks inside the ciphertext close that;
docs/threat-model.md says who learns what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.core.rng import secret
from wardround.secagg.bfv import SEED_BYTES

# NVFlare's console shows files that end in .json, .txt, .log, .csv, .sh, .config or
# .py; a key has none of these endings.
SITE_FILE = "wardround_sum_key.key"
SERVER_FILE = "wardround_sum_public.json"
# The name in kits of the first release, which the console could show.
FIRST_FILE = "wardround_sum_key.json"
FORMAT = "wardround sum key 1"


def new_seed() -> bytes:
    """Return a fresh key: 64 bytes of operating-system entropy."""
    return secret(SEED_BYTES)


def key_id(seed: bytes) -> str:
    """Return 32 hexadecimal digits that tell keys apart and reveal nothing about them."""
    return hashlib.sha256(b"wardround sum key id" + seed).hexdigest()[:32]


def write_site(folder: Path, seed: bytes) -> Path:
    """Write a site's file, readable by its owner only, and return it."""
    return _write(
        folder / SITE_FILE,
        {"format": FORMAT, "key_id": key_id(seed), "seed": seed.hex()},
    )


def write_server(folder: Path, seed: bytes) -> Path:
    """Write the server's file, without the key, and return it."""
    return _write(folder / SERVER_FILE, {"format": FORMAT, "key_id": key_id(seed)})


def read_site(folder: Path) -> bytes:
    """Return the seed in a site's file.

    A file that is missing, damaged or not a site's raises ConfigRefused with its name.
    """
    path = folder / SITE_FILE
    if not path.exists() and (folder / FIRST_FILE).exists():
        raise ConfigRefused(
            f"the key file {folder.name}/{FIRST_FILE}",
            found="the first release's name, under which NVFlare's console could show the key to whoever administers",
            expected=f"{SITE_FILE}",
            fix="provision again, which makes a new key, install the new kits at every site, and delete the old file",
        )
    content = _read(path, "site")
    try:
        seed = bytes.fromhex(content.get("seed", ""))
    except ValueError as error:
        raise _refused(path, "a seed that is not hexadecimal", "site") from error
    if len(seed) != SEED_BYTES or content.get("key_id") != key_id(seed):
        raise _refused(path, "a seed that does not fit its own id", "site")
    return seed


def read_server(folder: Path) -> str:
    """Return the key's id in the server's file.

    A file that is missing or damaged, or that has a key in it, raises ConfigRefused.
    """
    path = folder / SERVER_FILE
    content = _read(path, "server")
    if set(content) != {"format", "key_id"}:
        raise _refused(path, f"entries {sorted(content)}", "server")
    return content["key_id"]


def require_no_key(folders: Iterable[Path]) -> None:
    """Raise ConfigRefused when a server's folder holds a site's key file.

    Such a server could read every update.
    """
    for folder in folders:
        for name in (SITE_FILE, FIRST_FILE):
            if (folder / name).exists():
                raise ConfigRefused(
                    f"the server's folder {folder.name}",
                    found=f"{name}, which holds the secret key",
                    expected=f"{SERVER_FILE} alone: the server must not be able to read updates",
                    fix=f"remove {name} there, provision a new key, and ask how the old one got there",
                )


def _write(path: Path, content: dict[str, str]) -> Path:
    return files.write(path, json.dumps(content, indent=1) + "\n", private=True)


def _read(path: Path, role: str) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _refused(path, "no such file", role) from error
    except (OSError, ValueError) as error:
        raise _refused(path, f"not readable ({type(error).__name__})", role) from error
    texts = isinstance(content, dict) and all(isinstance(value, str) for value in content.values())
    if not texts or content.get("format") != FORMAT:
        raise _refused(path, "another format", role)
    return dict(content)


def _refused(path: Path, found: str, role: str) -> ConfigRefused:
    return ConfigRefused(
        f"the key file {path.parent.name}/{path.name}",
        found=found,
        expected=f"the file that provisioning made for a {role} ({FORMAT!r})",
        fix="put wardround.flare.provision.SumKeyBuilder into the project's builders, provision, and install the kit again",
    )
