"""The commands that stand in the documentation, found as a reader finds them: indented lines that begin with a program."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENTS = ("README.md", "poc_workspace/README.md", "docs/*.md")
PROGRAMS = ("wardround", "nvflare", "python", "pip", "docker", "tensorboard", "curl", "cp", "openssl")
_LINE = re.compile(r"^    ((?:[A-Z_]+=\S+ )*(?:" + "|".join(PROGRAMS) + r")\b.*)$", re.MULTILINE)


def commands(repository: Path) -> dict[str, list[str]]:
    """Return document -> its commands, without the words that explain them (two spaces or more before)."""
    found = {}
    for pattern in DOCUMENTS:
        for path in sorted(repository.glob(pattern)):
            lines = _LINE.findall(path.read_text(encoding="utf-8"))
            found[path.relative_to(repository).as_posix()] = [re.split(r" {2,}", line.strip())[0] for line in lines]
    return found
