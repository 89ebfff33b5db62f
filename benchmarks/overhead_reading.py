"""Reading: what the first opening of a site's data costs, and that nothing is decoded a second time; peak memory of a site."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from overhead_data import SHAPE, peak_rss_mb, phantom_folder, phantom_site

STEPS = 10
_opened: list[str] = []
_hooked: list[bool] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and str(args[0]).endswith((".nii", ".nii.gz")):
        _opened.append(str(args[0]))


def measure(patients: int, batch: int = 2, shape: tuple[int, int, int] = SHAPE) -> dict[str, float]:
    """Return seconds and NIfTI files opened by Python in this process: first opening, second opening, two epochs.

    The files are written, and nibabel is imported, before the clock starts. An audit hook counts, whatever library reads.
    """
    if not _hooked:
        sys.addaudithook(_note)
        _hooked.append(True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = phantom_folder(folder, patients, shape=tuple(shape))  # type: ignore[arg-type]
        first_s, decoded = _open(data, folder / "cache")
        second_s, reopened = _open(data, folder / "cache")
        site = phantom_site(data, folder / "cache", batch, augment=True)
        objective, before, begun = site.objective("reading"), len(_opened), time.perf_counter()
        draws = -(-len(site.split.train) // batch)
        objective.sample(draws)
        first_epoch, first_epoch_s, begun = len(_opened), time.perf_counter() - begun, time.perf_counter()
        objective.sample(draws)
        return {
            "first_open_s": first_s,
            "first_open_decodes": decoded,
            "second_open_s": second_s,
            "second_open_decodes": reopened,
            "first_epoch_decodes": first_epoch - before,
            "first_epoch_s": first_epoch_s,
            "second_epoch_decodes": len(_opened) - first_epoch,
            "second_epoch_s": time.perf_counter() - begun,
        }


def _open(data: Path, cache: Path) -> tuple[float, int]:
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig

    before, begun = len(_opened), time.perf_counter()
    open_cohort(SiteConfig(data=data), cache)
    return time.perf_counter() - begun, len(_opened) - before


def train(data: str, batch: int, steps: int = STEPS) -> dict[str, float]:
    """Open a site on a folder of cases, nothing cached, train `steps` steps, score one patient; return the peak memory."""
    from wardround.algorithms.base import Steps, descend, plain

    with tempfile.TemporaryDirectory() as cache:
        site = phantom_site(Path(data), Path(cache), batch, augment=True)
        opened = peak_rss_mb()
        w, _ = descend(
            site.model.vector, plain(site.objective("memory")), steps, Steps(work=steps, lr=0.01, momentum=0.9)
        )
        trained = peak_rss_mb()
        site.score(w, site.split.val[:1])
        return {"after_opening_mb": opened, "after_training_mb": trained, "site_peak_rss_mb": peak_rss_mb()}
