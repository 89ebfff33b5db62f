"""What the tests of bundles share: drawn weights, a mask as `predict` writes it, and MONAI where wardround cannot be
imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.export.bundle import CODE
from wardround.models.nets import UNet3d
from wardround.training import prediction

ALONE = f"""
import sys
class NoWardround:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("wardround", "nvflare", "timm"):
            raise ImportError(name)
sys.meta_path.insert(0, NoWardround())
import torch, monai.bundle
torch.set_num_threads(1)
monai.bundle.run(config_file="configs/inference.json", dataset_dir=sys.argv[1], output_dir=sys.argv[2])
print(*sorted(name for name in sys.modules if name.split(".")[0] == "{CODE}"))
"""


def drawn(spec: UNet3d, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return the first weights of a network, each moved at random: its adapters, too, do something."""
    rng = np.random.default_rng(seed)
    return {
        name: block.detach().numpy() + 0.1 * rng.normal(size=block.shape).astype(np.float32)
        for name, block in spec.build(0).named_parameters()
    }


def mask(model: Path, case: Path, out: Path) -> bytes:
    """Return the file that wardround writes for one case: the folder of a bundle or a .npz may be named."""
    weights = prediction.read_weights(model)
    (files,) = prediction.cases_in(case, None)
    prediction.Segmenter(weights, "brats", 4, prediction.ready(weights, "cpu")).predict(files, out)
    return out.read_bytes()


def run_by_monai_alone(bundle: Path, cases: Path, out: Path) -> set[str]:
    """Run a bundle in a process that cannot import wardround; return the modules of its own code that were imported."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(cases), str(out)],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.splitlines()[-1].split())
