"""One job as a value, and what marks a part of it that a person typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
OF_MONAI = "monai.networks.nets."
HOSPITAL_DP = "wardround.privacy.hospital_dp.HospitalDP"


@dataclass(frozen=True)
class Job:
    """One job with nothing left to look up: fragments as read, settings applied."""

    name: str
    title: str
    algorithm: Json
    sharing: Json
    aggregation: Json
    compression: Json | None
    rule: Json
    task: Json
    federation: Json
    privacy: Json
    rival: bool

    @property
    def banks(self) -> list[str]:
        """The banks that travel: the algorithm's own, then FedAvg's when it runs beside it."""
        return [*self.algorithm["banks"], *(["fedavg"] if self.rival else [])]

    @property
    def protection(self) -> Json | None:
        """The settings of the hidden sum; None where the server reads updates."""
        part = self.privacy.get("protection")
        return part["args"] if part else None

    @property
    def dp(self) -> Json | None:
        """The settings of differential privacy; None without."""
        part: Json | None = self.privacy.get("dp")
        return part

    @property
    def hospital_noise(self) -> Json | None:
        """The promise of hospital-level noise; None without."""
        if self.dp is None:
            return None
        found: Json = self.privacy["mechanism"]["args"].get("promise") or {}
        return found if found.get("path") == HOSPITAL_DP else None

    @property
    def trainer(self) -> Json:
        """The settings that the executor of every job has; what leaves is promised in `outbound`, not here."""
        rival = {"path": "wardround.algorithms.fedavg.FedAvg", "args": {}}
        return {
            "algorithm": self.algorithm["site"],
            "sharing": self.sharing,
            **({"rival": rival} if self.rival else {}),
            "model": self.task["model"],
            "schedule": self.federation["schedule"],
            "sampling": self.task["sampling"],
            "judging": self.task["judging"],
            "phantoms": self.task["phantoms"],
            "seed": self.task["seed"],
        }

    @property
    def schedule(self) -> Json:
        args: Json = self.federation["schedule"]["args"]
        return args


class Typed(dict[str, Any]):
    """A {"path", "args"} that the person who runs the command typed (`--set model.path=...`). JSON never becomes one."""


def is_monai_path(path: str) -> bool:
    """Return whether a recipe names a network of MONAI, by its own path."""
    return path.startswith(OF_MONAI)
