"""The phantom hospitals of a job, with its network, sampling and number of patients, opened without NVFlare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wardround.data.site_config import SiteConfig
from wardround.jobs.building import build
from wardround.jobs.recipes import Job
from wardround.synthetic.hospitals import hospital
from wardround.training.opening import site_index
from wardround.training.splitting import split_of


def job_sites(job: Job, seed: int, folder: Path) -> dict[str, Any]:
    """Return site name -> site. seed: split, first weights and batches; the phantoms are those of the job."""
    spec, sampling, phantoms = (build(job.task[part], part) for part in ("model", "sampling", "phantoms"))
    sites = {}
    for name in job.federation["sites"]:
        profile = hospital(site_index(name))
        phantoms.write(folder / profile.name, profile, job.task["seed"])
        config = SiteConfig(data=folder / profile.name)
        cohort = sampling.cohort(config, folder / "cache" / profile.name, lambda words: None)
        sites[name] = sampling.open(name, cohort, split_of(cohort, seed), spec, seed, "cpu")
    return sites
