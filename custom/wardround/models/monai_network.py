"""How does a job name any network of MONAI, by its name and arguments?

A job names `monai.networks.nets.NAME`, and nothing else is ever imported. A hospital
that takes no code accepts such a job, because the class on its list is this one, which
is ours, and because what this one loads is restricted to the networks that the
installed MONAI exports, built from numbers and words alone. No argument may name a
file, an address or weights to fetch.

The network is built as MONAI builds it.
Deviations: 1. BatchNorm layers become GroupNorm where `batch_norms` says so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from torch import nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.any_network import BatchNorms
from wardround.models.nets import require_federable, seeded
from wardround.models.norms import without_batch_norms
from wardround.models.warm_start import started
from wardround.models.weights_file import WeightsFile

PREFIX = "monai.networks.nets."
# Keys that NVFlare takes for a component to build wherever they stand in a config.
BUILT = ("path", "class_path", "config_type")
# Parts of an argument's name that say: a file or an address, from which weights would be fetched.
FETCHED = ("pretrained", "url", "repo", "filename", "weights", "dir")


@final
@dataclass(frozen=True)
class MonaiNetwork:
    """A network of MONAI by its name.

    network: "monai.networks.nets.NAME".
    args: The arguments of that class, as JSON holds them.
    batch_norms: What becomes of BatchNorm layers, whose statistics differ between
        hospitals. "refuse" refuses the network; "group" makes each a GroupNorm with as
        many groups as divide the channels (8 at most); "instance" makes one with one
        group per channel.
    weights: A file and its SHA-256 (weights_file.py); None draws from the seed.

    ConfigRefused is raised for another path, and for an argument that the class does
    not take or that fetches something.
    """

    network: str
    args: Mapping[str, Any] = field(default_factory=dict)
    batch_norms: BatchNorms = "refuse"
    weights: Mapping[str, str] | None = None

    # The sides of a patch: require_output tries the network on one, so no multiple is asked for beforehand.
    divisor: ClassVar[int] = 1
    adapter_rank: ClassVar[int] = 0
    ehr_columns: ClassVar[int] = 0
    norm: ClassVar[str] = "as built"

    def __post_init__(self) -> None:
        if not isinstance(self.args, Mapping) or self.batch_norms not in (
            "refuse",
            "group",
            "instance",
        ):
            raise _refused(
                f"args of type {type(self.args).__name__}, batch_norms {self.batch_norms!r}",
                "a mapping of arguments, and refuse, group or instance",
            )
        if self.weights is not None:
            WeightsFile.of(self.weights)
        object.__setattr__(self, "args", dict(self.args))
        signature = inspect.signature(self._kind()).parameters
        if unknown := [name for name in self.args if name not in signature]:
            raise _refused(
                f"{self.network} with {', '.join(map(str, unknown))}",
                f"among {', '.join(signature)}",
            )
        if wrong := [name for name, value in self.args.items() if not _is_plain(value)]:
            raise _refused(
                f"the argument {wrong[0]}",
                "numbers, short words, lists and mappings of them",
            )
        given = {name: one.default for name, one in signature.items()} | dict(self.args)
        fetched = [
            name
            for name, value in given.items()
            if _fetches(name) and value not in (None, False, inspect.Parameter.empty)
        ]
        if fetched:
            raise _refused(
                f"{self.network} with {fetched[0]}: it would fetch weights or read a file",
                f"a network that is built from the job's seed alone (`{fetched[0]}` false, where the class has that)",
            )

    def build(self, seed: int) -> nn.Module:
        """Return the network on the CPU, built from this seed.

        Its `signature` makes network and arguments a part of its fingerprint
        (fingerprint.py), dropout included. ConfigRefused is raised for settings that do
        not fit together. ModelRefused is raised for BatchNorm where it is refused, for
        running statistics, for parameters that are not float32, and for `weights` that
        are missing or do not fit.
        """
        kind = self._kind()
        try:
            made: nn.Module = seeded(lambda: kind(**self.args), seed)
        except (
            TypeError,
            ValueError,
            RuntimeError,
            LookupError,
            ImportError,
            AttributeError,
            ArithmeticError,
        ) as error:
            said = str(error).partition("\n")[0][:200]
            raise _refused(
                f"{self.network} with {self._written}: {said}",
                "arguments that it can be built with",
            ) from error
        made = made if self.batch_norms == "refuse" else without_batch_norms(made, self.batch_norms)
        try:
            require_federable(made)
        except ModelRefused as refusal:
            words = (
                "`--set model.batch_norms=group` puts GroupNorm in the place of BatchNorm; else name another network"
            )
            raise ModelRefused(
                refusal.what,
                found=refusal.found,
                expected=refusal.expected,
                fix=words,
            ) from refusal
        made.signature = f"{self.network} {self.batch_norms} {self._written}"  # type: ignore[assignment]
        return started(made, self)

    @property
    def _written(self) -> str:
        return json.dumps(self.args, sort_keys=True, separators=(",", ":"))

    def _kind(self) -> type[nn.Module]:
        found = network_class(self.network) if isinstance(self.network, str) else None
        if found is None:
            raise _refused(
                repr(self.network)[:100],
                f"the name of a network class, {PREFIX}NAME",
            )
        return found


def is_monai_path(path: object) -> bool:
    """Return whether a path is one name below monai.networks.nets."""
    return isinstance(path, str) and path.startswith(PREFIX) and path[len(PREFIX) :].isidentifier()


def network_class(path: str) -> type[nn.Module] | None:
    """Return the class that MONAI exports under this path.

    None is returned if the path names none that MONAI itself defines.
    """
    if not is_monai_path(path):
        return None
    from monai.networks import nets

    found = getattr(nets, path[len(PREFIX) :], None)
    ours = inspect.isclass(found) and issubclass(found, nn.Module) and found.__module__.startswith("monai.networks.")
    return found if ours else None


def known_networks() -> list[str]:
    """Return the paths of all classes that `network_class` knows."""
    from monai.networks import nets

    return [PREFIX + name for name in vars(nets) if network_class(PREFIX + name) is not None]


def _fetches(name: str) -> bool:
    return any(part in name.lower() for part in FETCHED)


def _is_plain(value: object) -> bool:
    """Return whether an argument is data alone.

    It holds no path, no address, and nothing that a config reader would build.
    """
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and key not in BUILT and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    if isinstance(value, str):
        return len(value) <= 64 and not any(letter in value for letter in "/\\:$@%{}")
    return value is None or isinstance(value, bool | int | float)


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "the job's MONAI network",
        found=found,
        expected=expected,
        fix="set it with `--set model.path=monai.networks.nets.NAME --set model.args.ARGUMENT=VALUE` (docs/extending.md)",
    )
