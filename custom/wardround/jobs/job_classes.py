"""Which classes does a job name, and which of them does wardround ship?

A path in a folder is text that somebody else wrote. Building what it names runs that
person's choice of code here, so only classes on a list are built: those that
app_configs/ names, and those that a hospital lists in its own kit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from wardround.flare import class_paths
from wardround.jobs import fragments
from wardround.jobs.job import HOSPITAL_DP, JOINT_DP, Typed

# Shipped classes that a setting or a recipe names, and no file in app_configs/.
ALSO_SHIPPED = (HOSPITAL_DP, JOINT_DP, "wardround.dp.patient_dp.PatientDP")
# Networks that `--set model.path` names, whatever the recipe. A hospital that takes no
# code accepts them from the start: the second one loads the networks that MONAI
# exports, and nothing else.
NETWORKS = (
    "wardround.models.nets.SegResNet3d",
    "wardround.models.monai_network.MonaiNetwork",
)
# Phantoms that a task of one's own may name; a site needs them in the simulator alone.
PHANTOMS = ("wardround.training.opening.OrganPhantoms",)


def classes(config: Any) -> Iterator[str]:
    """Yield every class path in a config, nested ones included, except those of parts
    that a person typed.
    """
    return class_paths.classes(config, but=Typed)


@lru_cache
def shipped() -> frozenset[str]:
    """Return the classes that jobs are made of: all that app_configs/ names, and the
    few that only code names.
    """
    return frozenset(path for page in fragments.pages() for path in classes(page)).union(
        ALSO_SHIPPED, NETWORKS, PHANTOMS
    )
