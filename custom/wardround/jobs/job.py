"""One job as a value, and the mark on a part of it that a person typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
OF_MONAI = "monai.networks.nets."
HOSPITAL_DP = "wardround.dp.hospital_dp.HospitalDP"
JOINT_DP = "wardround.dp.joint_dp.JointDP"
JOINT_RELEASE = "wardround.dp.joint_release.JointRelease"


@dataclass(frozen=True)
class Job:
    """One job with nothing left to look up: its fragments are read and its settings are
    applied.
    """

    name: str
    title: str
    algorithm: Json
    sharing: Json
    aggregation: Json
    compression: Json | None
    validation: Json | None
    server_optimizer: Json
    task: Json
    federation: Json
    privacy: Json
    fedavg_baseline: bool

    @property
    def variables(self) -> list[str]:
        """The names of the variables that travel: the algorithm's own, then FedAvg's
        when FedAvg runs beside it.
        """
        return [
            *self.algorithm["variables"],
            *(["fedavg"] if self.fedavg_baseline else []),
        ]

    @property
    def secagg(self) -> Json | None:
        """The settings of secure aggregation, or None where the server reads updates."""
        part = self.privacy.get("secagg")
        return part["args"] if part else None

    @property
    def dp(self) -> Json | None:
        """The settings of differential privacy, or None without it."""
        part: Json | None = self.privacy.get("dp")
        return part

    @property
    def hospital_noise(self) -> Json | None:
        """The parameters of hospital-level noise, or None without it."""
        if self.dp is None:
            return None
        found: Json = self.privacy["mechanism"]["args"].get("promise") or {}
        return found if found.get("path") == HOSPITAL_DP else None

    @property
    def shares_noise(self) -> bool:
        """Whether patients are hidden by one noise of all hospitals (dp/joint_dp.py)."""
        return self.dp is not None and bool(self.privacy["mechanism"]["path"] == JOINT_RELEASE)

    @property
    def trainer(self) -> Json:
        """The settings that the executor of every job has. What leaves is promised in
        `outbound`, not here.
        """
        fedavg_baseline = {"path": "wardround.algorithms.fedavg.FedAvg", "args": {}}
        return {
            "algorithm": self.algorithm["site"],
            "sharing": self.sharing,
            **({"fedavg_baseline": fedavg_baseline} if self.fedavg_baseline else {}),
            "model": self.task["model"],
            "schedule": self.federation["schedule"],
            "sampling": self.task["sampling"],
            "model_selection": self.task["model_selection"],
            "phantoms": self.task["phantoms"],
            "seed": self.task["seed"],
        }

    @property
    def schedule(self) -> Json:
        args: Json = self.federation["schedule"]["args"]
        return args


class Typed(dict[str, Any]):
    """A {"path", "args"} that the person who runs the command typed (`--set
    model.path=...`). Parsed JSON never has this type.
    """


def is_monai_path(path: str) -> bool:
    """Return whether a path names one of MONAI's own networks."""
    return path.startswith(OF_MONAI)
