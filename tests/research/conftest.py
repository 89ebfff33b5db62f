from __future__ import annotations

from types import ModuleType

import pytest
from compression_fixtures import blocks, updates  # noqa: F401
from hospital_fixtures import _no_variables, cohorts, site  # noqa: F401


@pytest.fixture(scope="session")
def byzfl() -> ModuleType:
    """The oracle. It imports torchvision, whose operators a CPU build of torch may lack."""
    from wardround.models.torchvision_adapter import open_torchvision

    open_torchvision()
    return pytest.importorskip("byzfl")
