"""The rows of benchmarks/methods.py: what the jobs of the same name train, and settings written behind a name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused
from wardround.jobs import recipes
from wardround.jobs.building import build

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
JOBS = {
    **{name: [] for name in ("fedavg", "fedprox", "scaffold", "fedopt", "fedbn", "fedrep", "ditto", "klmask")},
    **{name: [] for name in ("fedavgm", "fedyogi", "mrmtl")},
    "perfedavg_fo": ["algorithm.hessian=FO"],
    "perfedavg_hf": ["algorithm.hessian=HF"],
    "klmask_random": ["sharing.choose=random"],
    "klmask_norms": ["sharing.choose=norms"],
    "klmask_head": ["sharing.choose=head"],
}


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import methods

    return methods


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    sys.modules.pop("methods", None)


def parts(job):
    """Return a job's algorithm, sharing and server optimizer as they are built."""
    given = (job.algorithm["site"], job.sharing, job.server_optimizer)
    return tuple(build(part, "part") for part in given)


def test_every_row_is_a_job_of_its_name(rows):
    """A table of the benchmarks is about what `wardround jobs run` trains."""
    assert JOBS.keys() == rows.methods().keys()
    for name, settings in JOBS.items():
        job = recipes.job(f"brats_{name.split('_')[0]}", settings)
        assert rows.methods()[name] == parts(job), name


@pytest.mark.parametrize(
    ("label", "job", "settings"),
    [
        ("perfedavg_fo alpha=0.03", "brats_perfedavg", ["algorithm.alpha=0.03"]),
        ("perfedavg_hf alpha=0.003 delta=0.01", "brats_perfedavg", ["algorithm.hessian=HF", "algorithm.alpha=0.003"]),
        ("klmask enter=2.0 most=0.5", "brats_klmask", ["sharing.enter=2.0", "sharing.most=0.5"]),
        ("fedavgm momentum=0.9", "brats_fedavgm", ["server_optimizer.momentum=0.9"]),
        ("mrmtl lam=1.0", "brats_mrmtl", ["algorithm.lam=1.0"]),
    ],
)
def test_settings_behind_a_name_are_those_of_the_command_line(label, job, settings, rows):
    more = ["algorithm.delta=0.01"] if "delta" in label else []
    assert rows.method(label) == parts(recipes.job(job, [*settings, *more]))


@pytest.mark.parametrize("label", ["perfedavgg", "perfedavg_fo beta=1", "perfedavg_fo alpha", "ditto lam=-1"])
def test_a_label_that_is_none_is_refused(label, rows):
    with pytest.raises(ConfigRefused):
        rows.method(label)
