"""How is torchvision imported where its operators cannot be loaded?

timm imports torchvision, although none of what we build needs it. Where torch is a CPU
build and torchvision is not, torchvision cannot load its compiled operators, and its
import ends at "operator torchvision::nms does not exist": it describes operators that
nobody has declared. Declaring the two it describes (nms, qnms), without an
implementation, is enough for the import (torchvision 0.28, timm 1.0.31). Whoever calls
them still gets torchvision's error that they are not there. On a healthy install
nothing is declared.
"""

from __future__ import annotations

import importlib
import re
import threading

import torch

SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
REASON = re.compile(r"operator torchvision::q?nms does not exist")
_declared: list[torch.library.Library] = []
# Two threads that import at once would declare the operators twice, which torch
# refuses.
_lock = threading.Lock()


def open_torchvision() -> bool:
    """Import torchvision; return whether this process had to declare its operators.

    An import that fails for any other reason, or fails again, raises its own error.
    """
    with _lock:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if _declared or not REASON.search(str(error)):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for schema in SCHEMAS:
                library.define(schema)  # type: ignore[no-untyped-call]
            _declared.append(library)  # a Library that is collected takes its schemas with it
            importlib.import_module("torchvision")
        return bool(_declared)
