"""Which files of weights does this package bring, and what were they trained on?

Each lies in pretrained/ as NAME.safetensors, beside a NAME.json that says what it is:

    what        a sentence for people
    data        "synthetic", the only kind that is shipped
    command     what made it
    sha256      its content
    network     the settings of the network
    steps, seed, seconds, version, held_out_dice
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core.bounded import read_json
from wardround.core.errors import ConfigRefused

FOLDER = Path(__file__).parent / "pretrained"
SUFFIX = ".safetensors"


def names() -> list[str]:
    """Return the names of all shipped files."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def path_of(name: str) -> Path:
    """Return where a shipped file lies; ConfigRefused is raised for another name."""
    # Compared with the names that exist: a job must not walk out of the folder.
    if name not in names():
        raise ConfigRefused(
            f"shipped weights {name!r}",
            found="no file of this name in the package",
            expected=", ".join(names()) or "no name: this package brings no weights",
            fix="--set model.weights=NAME with one of these, or --set model.weights=none to draw them",
        )
    return FOLDER / f"{name}{SUFFIX}"


def card(name: str) -> Mapping[str, Any]:
    """Return what a shipped file says about itself; path_of's refusals hold."""
    found: Mapping[str, Any] = read_json(path_of(name).with_suffix(".json"))
    return found
