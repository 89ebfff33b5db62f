"""How does the folder of a bundle appear complete or not at all?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.core.arrays import Arrays
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models import bundle_files

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


@dataclass(frozen=True)
class Content:
    """What a bundle's folder holds.

    arrays: The weights.
    entry: What bundle_files.about says.
    more: The rest of metadata.json.
    inference: The content of inference.json.
    readme: The text of docs/README.md.
    code: Further files by path.
    """

    arrays: Arrays
    entry: Mapping[str, Any]
    more: Mapping[str, Any]
    inference: Mapping[str, Any]
    readme: str
    code: Mapping[str, str] = field(default_factory=dict)


def write_folder(out: Path, content: Content) -> Path:
    """Write the folder `out` and return it.

    ConfigRefused is raised if it holds something already or cannot be written.
    ModelRefused is raised for a file of weights whose description holds what MONAI
    would run.
    """
    # MONAI evaluates every `$` text of a bundle: a forged description would run as
    # code.
    if not _is_inert(content.entry):
        raise ModelRefused(
            "the description in the file of weights",
            found="an expression, a reference or a class to build",
            expected="words and numbers: MONAI evaluates such entries of a bundle",
            fix="use a file that wardround wrote, from its source",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigRefused(
            f"the folder {out}",
            found="something in it",
            expected="a new or empty folder",
            fix="choose another --out",
        )
    texts = {
        bundle_files.METADATA.as_posix(): _json(_metadata(content)),
        "configs/inference.json": _json(content.inference),
        "docs/README.md": content.readme,
        "LICENSE": _licence(),
        **content.code,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # The folder is made beside `out`, on the same file system, so that it can be
        # renamed.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            made = Path(scratch) / out.name
            bundle_files.write_weights(made, content.arrays)
            for name, text in texts.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_text(text, encoding="utf-8")
            if out.exists():
                out.rmdir()
            made.replace(out)
    except OSError as error:
        raise ConfigRefused(
            f"the bundle {out}",
            found=f"cannot be written: {error.strerror or type(error).__name__}",
            expected="a folder that this process may write to",
            fix="choose another --out",
        ) from error
    return out


def _metadata(content: Content) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by wardround {__version__}"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        **content.more,
        bundle_files.ENTRY: dict(content.entry),
    }


def _is_inert(value: Any) -> bool:
    """Return whether MONAI takes a value as it is.

    No text begins with `$`, `@` or `%`, and nothing asks to be built.
    """
    if isinstance(value, Mapping):
        return "_target_" not in value and all(_is_inert(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_inert(part) for part in value)
    return not (isinstance(value, str) and value.lstrip().startswith(("$", "@", "%")))


def _licence() -> str:
    """Return the licence of the code, from the package or else from the checkout."""
    try:
        held = metadata.distribution("wardround")
        text = held.read_text("licenses/LICENSE") or held.read_text("LICENSE")
    except metadata.PackageNotFoundError:
        text = None
    return text or Path(__file__).parents[3].joinpath("LICENSE").read_text(encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=4) + "\n"
