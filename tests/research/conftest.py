from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def byzfl() -> ModuleType:
    """The oracle. It imports torchvision, whose operators a CPU build of torch may lack."""
    from wardround.models.torchvision_door import open_torchvision

    open_torchvision()
    return pytest.importorskip("byzfl")
