"""Which classes a config names, in the way in which NVFlare names them, and which of
them may be built only to look at a kit.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent

from wardround.core.errors import ConfigRefused

# NVFlare reads a class from either key. It refuses a component that has only a "name"
# (ComponentPathAuthorizer).
KEYS = ("path", "class_path")
_FULL_NAME = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)


def classes(config: Any, but: type | None = None) -> Iterator[str]:
    """Yield every class path in a config, nested ones too, as often as it is named and
    whatever its `config_type` says.

    but: dictionaries of this type are left out, but not what stands inside them.
    """
    if isinstance(config, list | tuple):
        for part in config:
            yield from classes(part, but)
    elif isinstance(config, dict):
        if but is None or not isinstance(config, but):
            yield from (str(config[key]) for key in KEYS if key in config)
        for part in config.values():
            yield from classes(part, but)


def require_known_filters(file: Path, also: Collection[str]) -> None:
    """Raise ConfigRefused where a site's privacy.json names a class that preflight must
    not build in order to look at it.

    Known are the classes that a module of wardround defines, the components of NVFlare,
    and `also`, the kit's own list. A kit comes from somebody else, and this file can be
    part of it: a class that it names is not imported before it is known.
    """
    try:
        named = sorted(set(classes(json.loads(file.read_text(encoding="utf-8")))))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(f"no readable JSON ({type(error).__name__})") from error
    if strangers := [path for path in named if path not in also and not _is_known(path)]:
        raise _refused(f"{', '.join(strangers[:3])}, which was not built")


def _is_known(path: str) -> bool:
    top, (module, _, name) = path.partition(".")[0], path.rpartition(".")
    if not _FULL_NAME.fullmatch(path) or top not in ("wardround", "nvflare"):
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    # A module also holds what it imports: only a class that it defines itself counts.
    if not inspect.isclass(found) or found.__module__ != module:
        return False
    return top == "wardround" or issubclass(found, FLComponent)


def _refused(found: str) -> ConfigRefused:
    return ConfigRefused(
        "local/privacy.json",
        found=found,
        expected="filters and components of wardround or NVFlare, or classes that this kit lists in class_allow_list",
        fix="copy poc_workspace/privacy.json (or privacy_hospital.json, "
        "privacy_patient.json) to local/privacy.json again, or list your own class",
    )
