"""What is the brain tumour task?

It is to find enhancing tumour (ET), tumour core (TC) and whole tumour (WT) in four MRI
sequences.

Source: Menze et al. 2015, doi:10.1109/TMI.2014.2377694 (BraTS); enhancing tumour is 3
as in BraTS 2023. A `whole_tumour` site has labels 0 and 1 only, and 1 means WT: its ET
and TC are unknown, not empty.
"""

from __future__ import annotations

from typing import Any

from wardround.tasks.task import task_from_json

# As app_configs/task/brats.yaml has it; a test compares.
DESCRIPTION: dict[str, Any] = {
    "inputs": {"t1": [], "t1ce": [], "t2": [], "flair": []},
    "outputs": {
        "brats": {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]},
        "whole_tumour": {"WT": [1]},
    },
    "masks": "brats",
    "normalisation": "head_z_scores",
    "augmentation": {},
    "metrics": ["dice", "hd95_mm", "surface_mm", "missed", "invented"],
    "missed_mm": 374.0,
    "mirrored": 1,
}
BRAIN_TUMOURS = task_from_json(DESCRIPTION, "brain_tumours.py")
SEQUENCES = BRAIN_TUMOURS.inputs.names
REGIONS = BRAIN_TUMOURS.outputs
