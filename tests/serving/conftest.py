"""A small model, one case, and a running service."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from service_process import Server, start

from wardround.serving.limits import Limits

MIB = 2**20


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one case with four sequences and a mask, 20 x 20 x 20 voxels."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    return write_cohort(tmp_path_factory.mktemp("cases"), hospital(0), 0, (20, 20, 20), 3)[0]


@pytest.fixture(scope="session")
def images(case: Path) -> dict[str, bytes]:
    return {name: (case / f"{case.name}_{name}.nii.gz").read_bytes() for name in ("t1", "t1ce", "t2", "flair")}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from wardround.models import checkpoint
    from wardround.models.fingerprint import fingerprint
    from wardround.models.nets import UNet3d
    from wardround.models.specs import describe

    spec, path, rng = UNet3d((4, 8)), tmp_path_factory.mktemp("model") / "deploy_model.npz", np.random.default_rng(0)
    arrays = {
        name: p.detach().numpy() + 0.1 * rng.normal(size=p.shape).astype(np.float32)
        for name, p in spec.build(0).named_parameters()
    }
    meta = {"model": describe(spec), "candidate": "local", "k": 0, "patch": [16, 16, 16], "label_kind": "brats"}
    checkpoint.save(path, arrays, fingerprint(spec), meta)
    return path


@pytest.fixture
def limits() -> Limits:
    return Limits(upload=MIB, unpacked=MIB, voxels=10**5, waiting=1, upload_s=5, work_s=60)


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One request waits at most, 1 MiB per request, 8 MiB unpacked, 4 seconds to send it."""
    small = ("--waiting", "1", "--upload-mib", "1", "--unpacked-mib", "8", "--upload-s", "4")
    found = start(model, tmp_path_factory.mktemp("server"), *small)
    yield found
    found.process.send_signal(signal.SIGKILL)
    found.process.wait(10)
