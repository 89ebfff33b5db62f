"""Any MONAI network in a federation of two hospitals, and what is done with its weights afterwards."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.export.bundle import CODE, write_bundle
from wardround.export.bundle_text import Title
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import first_weights
from wardround.models.monai_network import MonaiNetwork
from wardround.models.specs import describe
from wardround.research.in_process import InProcessFederation
from wardround.training import prediction
from wardround.training.segmentation import Sampling, SegmentationSite

TWO = Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "constant")
SAMPLING = Sampling((8, 8, 8), 2, 0.5, True)
CHANNELS = {"spatial_dims": 3, "in_channels": 8, "out_channels": 3}
DYNUNET = MonaiNetwork(
    "monai.networks.nets.DynUNet",
    {**CHANNELS, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]},
)
SEGRESNET = MonaiNetwork(
    "monai.networks.nets.SegResNet", {**CHANNELS, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
)
NORMED = {"channels": [4, 8], "strides": [2]}
ATTENTION = MonaiNetwork("monai.networks.nets.AttentionUnet", {**CHANNELS, **NORMED}, "group")


@pytest.fixture
def opened(cohorts: dict[int, Path]) -> Any:
    """opened(spec) -> two hospitals with this network, one of them without T2"""

    def make(spec: MonaiNetwork) -> dict[str, SegmentationSite]:
        found = {}
        for index, folder in cohorts.items():
            cohort = open_cohort(SiteConfig(data=folder), folder.parent / f"cache-{index}")
            split = split_patients(cohort.patients)
            found[f"site-{index}"] = SAMPLING.open(f"site-{index}", cohort, split, spec, 0, "cpu")
        return found

    return make


@pytest.mark.parametrize("spec", [DYNUNET, SEGRESNET, ATTENTION], ids=lambda spec: spec.network)
def test_two_rounds_then_predict_and_a_bundle(opened: Any, cohorts: dict[int, Path], tmp_path: Path, spec: Any) -> None:
    sites, initial = opened(spec), first_weights(spec, 0)
    together = InProcessFederation(sites, FedAvg(), Mean(1.0), TWO)
    w = next(iter(together.models(together.run(initial)).values()))
    assert torch.isfinite(w).all()
    assert not torch.equal(w, initial)
    site = next(iter(sites.values()))
    assert 0 <= site.score(w, site.split.val) <= 1

    file = tmp_path / "deploy_model.npz"
    meta = {"model": json.loads(json.dumps(describe(spec))), **site.about_model()}
    checkpoint.save(file, site.layout.unflatten(w.numpy()), fingerprint(spec), meta)
    weights = prediction.read_weights(file)
    assert weights.spec == spec
    case, *_ = prediction.cases_in(cohorts[0], None)
    model = prediction.ready(weights, "cpu")
    found = prediction.Segmenter(weights, "brats", 4, model).predict(case, tmp_path / "mask.nii.gz")
    assert found.mask.is_file()

    bundle = write_bundle(tmp_path / "bundle", weights, Title("t", "T", "a", "c"))
    assert prediction.read_weights(bundle).spec == spec
    sys.path.insert(0, str(bundle))
    try:
        ready = importlib.import_module(f"{CODE}.export.monai_case").ready
        config = json.loads((bundle / "configs" / "inference.json").read_text())
        network = ConfigParser({"net": config["network_def"]}).get_parsed_content("net")
        made = ready(network, config["network"]["norm"], str(bundle / "models" / "model.pt"), "cpu")
    finally:
        sys.path.remove(str(bundle))
        for name in [name for name in sys.modules if name.partition(".")[0] == CODE]:
            del sys.modules[name]
    x = torch.randn(1, 8, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(made(x), model.module.eval()(x))


def test_a_hospital_refuses_when_it_loads_what_is_refused_when_printed(opened: Any) -> None:
    with pytest.raises(ModelRefused, match="BatchNorm3d"):
        opened(dataclasses.replace(ATTENTION, batch_norms="refuse"))
    with pytest.raises(ConfigRefused, match="deep supervision off"):
        opened(dataclasses.replace(DYNUNET, args=DYNUNET.args | {"deep_supervision": True}))
    with pytest.raises(ConfigRefused, match="8 input and 3 output channels"):
        opened(dataclasses.replace(DYNUNET, args=DYNUNET.args | {"out_channels": 2}))
