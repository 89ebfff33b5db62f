"""A simulator with fewer threads than sites starts a process for every task, so what a site imports is paid in every round."""

import subprocess
import sys

HEAVY = ("monai", "scipy", "matplotlib", "nibabel", "timm", "torchvision", "dp_accounting", "opacus", "pandas")


def test_a_site_that_trains_a_plain_job_imports_nothing_heavy_but_torch() -> None:
    code = (
        "import sys\n"
        "import wardround.flare.executor, wardround.flare.outbound_filter\n"
        "from wardround.models.nets import UNet3d\n"
        "UNet3d((4, 8)).build(0)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
