"""How does a job name any network by its class and make it fit for federation?

The network may be one of MONAI's, or your own `nn.Module`. The class stands in a LIST
of one {"path", "args"}. NVFlare checks a class that stands there against a hospital's
own list of classes like any other, and leaves building it to us: it has to be built
from the job's seed, so that all sites start alike.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from torch import nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.nets import require_federable, seeded
from wardround.models.norms import without_batch_norms

BatchNorms = Literal["refuse", "group", "instance"]


@final
@dataclass(frozen=True)
class AnyNetwork:
    """A network by its class.

    network: [{"path": an nn.Module class, "args": its settings}].
    batch_norms: What becomes of BatchNorm layers, whose statistics differ between
        hospitals. "refuse" refuses the network; "group" makes each a GroupNorm with as
        many groups as divide the channels (8 at most); "instance" makes one with one
        group per channel.

    ConfigRefused is raised for another structure, and for a class that does not exist
    or is no nn.Module.
    """

    network: Sequence[Mapping[str, Any]]
    batch_norms: BatchNorms = "refuse"

    def __post_init__(self) -> None:
        part = self.network[0] if isinstance(self.network, list | tuple) and len(self.network) == 1 else None
        # Exactly these two keys: with a third, `config_type`, NVFlare would not check the class against a hospital's list.
        sound = (
            isinstance(part, Mapping)
            and set(part) == {"path", "args"}
            and isinstance(part["path"], str)
            and isinstance(part["args"], Mapping)
        )
        if not sound or self.batch_norms not in ("refuse", "group", "instance"):
            raise _refused(
                f"network {type(self.network).__name__}, batch_norms {self.batch_norms!r}",
                '[{"path": class, "args": {settings}}], and refuse, group or instance',
            )

    def build(self, seed: int) -> nn.Module:
        """Return the network on the CPU, built from this seed.

        ConfigRefused is raised for settings that it does not take. ModelRefused is
        raised for BatchNorm where it is refused, for running statistics, and for
        parameters that are not float32.
        """
        part = self.network[0]
        kind = self._kind()
        try:
            made: nn.Module = seeded(lambda: kind(**part["args"]), seed)
        except (
            TypeError,
            ValueError,
            RuntimeError,
            LookupError,
            ImportError,
            AttributeError,
        ) as error:
            raise _refused(
                f"{part['path']} with {dict(part['args'])}: {error}",
                "settings that it takes",
            ) from error
        made = made if self.batch_norms == "refuse" else without_batch_norms(made, self.batch_norms)
        try:
            require_federable(made)
        # The refusal names a layer; its fix is extended by the setting that replaces
        # it.
        except ModelRefused as refusal:
            words = f"{refusal.fix} (`--set model.batch_norms=group` puts GroupNorm there)"
            raise ModelRefused(
                refusal.what,
                found=refusal.found,
                expected=refusal.expected,
                fix=words,
            ) from refusal
        return made

    def _kind(self) -> type[nn.Module]:
        path = str(self.network[0]["path"])
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except (ImportError, ValueError) as error:
            raise _refused(
                f"{path} ({error})",
                "a class that this Python can import",
            ) from error
        if not inspect.isclass(found) or not issubclass(found, nn.Module):
            raise _refused(path, "an nn.Module class")
        return found


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "the job's network",
        found=found,
        expected=expected,
        fix="set it with --set model.path=... and model.* (docs/extending.md)",
    )
