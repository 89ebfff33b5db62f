"""Which file does a job's network start from? A name becomes a promise.

`model.weights` is typed as a shipped name, a path that begins with /, ~ or ./, or none.
In the printed job it is {shipped or file, sha256}: the digest is taken here, once, and
every party compares its own file with it before it trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.core.bounded import TooMuch
from wardround.core.errors import ConfigRefused
from wardround.jobs.job import Json, is_monai_path
from wardround.jobs.nearest import did_you_mean

SETTING = "model.weights"
HERE = "./"
OURS = (
    "wardround.models.nets.UNet3d",
    "wardround.models.nets.SegResNet3d",
    "wardround.models.vit.ViTFusion",
)


def promise(model: Json, settings: Sequence[str]) -> None:
    """Replace the `weights` of a job's network by what a job promises, in place.

    settings: What a person typed behind `--set`. Weights that the recipe names are left
        out where a person has made the network another one and named no weights.

    ConfigRefused is raised for a name that is not shipped, and for a file that cannot
    be read here.
    """
    if not (model["path"] in OURS or is_monai_path(model["path"])) or "weights" not in model["args"]:
        return
    from wardround.models.warm_start import FREE

    typed = [setting.partition("=")[0] for setting in settings]
    another = [name for name in typed if name.startswith("model.") and name.rpartition(".")[2] not in FREE]
    if another and SETTING not in typed:
        model["args"]["weights"] = None
        return
    model["args"]["weights"] = promised(model["args"]["weights"])


def promised(given: Any) -> Mapping[str, str] | None:
    """Return {shipped or file, sha256}, or None, for what was typed.

    A mapping is returned as it is: the network refuses it where it is not sound.
    """
    from wardround.models import shipped
    from wardround.models.weights_file import digest_of

    if given is None or given == "none":
        return None
    if isinstance(given, Mapping):
        return given
    names = shipped.names()
    if not isinstance(given, str):
        raise ConfigRefused(
            f"setting '{SETTING}={given}'",
            found="no name and no path",
            expected=f"none, one of {', '.join(names)}, or a path",
            fix=f"--set {SETTING}=none, or one of these",
        )
    if given in names:
        return {"shipped": given, "sha256": digest_of(shipped.path_of(given))}
    if not given.startswith(("/", "~", HERE)):
        raise ConfigRefused(
            f"setting '{SETTING}={given}'",
            found=f"no weights of the name {given!r} in this package",
            expected=f"{', '.join(names) or 'no name, since none are shipped'}; a file is named by an absolute path, or one "
            f"that begins with {HERE}",
            fix=f"{did_you_mean(given, names)}the file {given}: `--set {SETTING}={HERE}{given}`; neither: "
            f"`--set {SETTING}=none`",
        )
    # Every party looks for the file at this path: one of this folder would say nothing there.
    place = str(Path(given).absolute()) if given.startswith(HERE) else given
    try:
        return {"file": place, "sha256": digest_of(Path(place))}
    except (OSError, RuntimeError, TooMuch) as error:
        raise ConfigRefused(
            f"setting '{SETTING}={given}'",
            found=f"cannot be read ({getattr(error, 'strerror', None) or error})",
            expected="a file of weights on this machine, whose SHA-256 the job then promises",
            fix=f'copy it here, or give the digest that `sha256sum FILE` prints: --set "{SETTING}={{file: {place}, sha256: '
            'DIGEST}"',
        ) from error


def require_fit(network: Any) -> None:
    """Raise ModelRefused where a network cannot start from the file that its job
    promises: the file has another digest, or is of another network.

    A file that cannot be opened on this machine is left to the parties that have it.
    """
    from wardround.models.weights_file import WeightsFile

    given = getattr(network, "weights", None)
    if given is None:
        return
    if os.access(WeightsFile.of(given).file.expanduser(), os.R_OK):
        network.build(0)
