"""What the parts of overhead.py share: phantom sites, medians, peak memory, a part in a process of its own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHAPE = (40, 40, 40)
PATCH = (32, 32, 32)


def phantom_folder(folder: Path, patients: int, index: int = 0, shape: tuple[int, int, int] = SHAPE) -> Path:
    """Write the phantom patients of hospital `index` and return their folder."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    profile = hospital(index)
    write_cohort(folder / profile.name, profile, 7, shape=shape, patients=patients)
    return folder / profile.name


def phantom_site(data: Path, cache: Path, batch: int, *, augment: bool, patch: tuple[int, int, int] = PATCH) -> Any:
    """Return a SegmentationSite on a folder of phantoms, with the network and the sampling that the jobs have."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.data.splits import split_patients
    from wardround.models.nets import UNet3d
    from wardround.training.segmentation import Sampling, SegmentationSite

    cohort = open_cohort(SiteConfig(data=data), cache)
    sampling = Sampling(patch=patch, batch=batch, tumour_probability=0.67, augment=augment)
    return SegmentationSite("site", cohort, split_patients(cohort.patients), UNet3d(), sampling, 0, "cpu")


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def peak_rss_mb() -> float:
    """Return the highest resident memory of this process.

    Linux keeps it per program (VmHWM); getrusage alone would also count the parent that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def in_own_process(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Return what `function(**arguments)` of a module beside this one returns, computed in a fresh process.

    Its result, a dictionary, comes back as the last line of stdout. | the process fails: RuntimeError with its stderr
    """
    code = f"import json, sys, {module}; print(json.dumps({module}.{function}(**json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module}.{function} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
