"""The classes that a job's configuration names, found in its JSON and built as NVFlare builds them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Named:
    """A class that a job's configuration names, with its arguments as they stand in the JSON."""

    job: str
    path: str
    args: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.job}: {self.path}"

    @property
    def cls(self) -> type:
        module, _, name = self.path.rpartition(".")
        found: type = getattr(importlib.import_module(module), name)
        return found

    def build(self) -> Any:
        """Build it as NVFlare does: nested {"path", "args"} become objects, unless "config_type" says dict."""
        return self.cls(**{key: _built(self.job, value) for key, value in self.args.items()})


def _built(job: str, value: Any) -> Any:
    if isinstance(value, dict) and "path" in value:
        return Named(job, value["path"], value.get("args", {})).build()
    return [_built(job, part) for part in value] if isinstance(value, list) else value


def named_in(job: str, value: Any) -> Iterator[Named]:
    if isinstance(value, list):
        for part in value:
            yield from named_in(job, part)
    elif isinstance(value, dict) and value.get("config_type") != "dict":
        if "path" in value:
            yield Named(job, value["path"], value.get("args", {}))
        for part in value.values():
            yield from named_in(job, part)
