"""`--set model.path=monai.networks.nets.NAME`: what is printed, and what is refused before anything is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.jobs import allow_list, folder, recipes
from wardround.jobs.building import require_buildable
from wardround.jobs.card import card

DYNUNET = [
    "model.path=monai.networks.nets.DynUNet",
    "model.args.kernel_size=[3,3,3]",
    "model.args.strides=[1,2,2]",
    "model.args.upsample_kernel_size=[2,2]",
    "model.filters=[4,8,8]",
]
OURS = "wardround.models.monai_network.MonaiNetwork"


def test_the_job_says_which_network_and_a_hardened_hospital_knows_its_class() -> None:
    job = recipes.job("brats_fedavg", DYNUNET)
    require_buildable(job)
    site = folder.client_config(job)["executors"][0]["executor"]
    server = folder.server_config(job)["workflows"][0]["args"]["mode"]
    for config in (site, server):
        part = config["args"]["model"]
        assert part["path"] == OURS
        assert part["args"]["network"] == "monai.networks.nets.DynUNet"
        channels = {"spatial_dims": 3, "in_channels": 8, "out_channels": 3}
        sizes = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]}
        assert part["args"]["args"] == channels | sizes
    listed, named = allow_list.allow_list(), allow_list.allow_list([job])
    assert set(named["site"]) <= set(listed["site"])
    assert set(named["server"]) <= set(listed["server"])
    assert OURS in named["site"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.path=monai.networks.nets.VNet"], "BatchNorm3d"),
        (["model.path=monai.networks.nets.NoSuchNet"], "NAME"),
        (["model.path=monai.networks.nets.DenseNet121", "model.pretrained=true"], "fetch weights"),
        ([*DYNUNET, "model.args.deep_supervision=true"], "deep supervision off"),
        ([*DYNUNET, "model.out_channels=2"], "8 input and 3 output channels"),
        ([*DYNUNET, "model.args.wings=2"], "wings"),
        ([*DYNUNET, "sampling.patch=[33,33,33]"], "sampling.patch"),
    ],
)
def test_what_a_hospital_would_refuse_is_not_printed(settings: list[str], words: str) -> None:
    with pytest.raises((ConfigRefused, ModelRefused), match=words):
        require_buildable(recipes.job("brats_fedavg", settings))


def test_patient_level_privacy_tries_the_gradients_before_the_job_is_printed() -> None:
    with pytest.raises(ModelRefused, match="cannot be told apart"):
        require_buildable(recipes.job("brats_dp_patient", [*DYNUNET, "sampling.patch=[16,16,16]"]))
    act = "model.act_name=[leakyrelu, {negative_slope: 0.01}]"
    require_buildable(recipes.job("brats_dp_patient", [*DYNUNET, act, "sampling.patch=[16,16,16]"]))


def test_a_fragment_may_name_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from wardround.jobs import fragments

    args = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]}
    real = fragments.fragment

    def with_dynunet(kind: str, name: str) -> dict[str, object]:
        page = real(kind, name)
        if kind == "task":
            page["model"] = {"path": "monai.networks.nets.DynUNet", "args": args}
        return page

    monkeypatch.setattr(fragments, "fragment", with_dynunet)
    assert recipes.job("brats_fedavg").task["model"] == recipes.job("brats_fedavg", DYNUNET).task["model"]


OWN = """
from torch import nn


class Replicating(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv3d(in_channels, 4, 3, padding=1, padding_mode="replicate"), nn.Conv3d(4, out_channels, 1))
"""


def test_the_card_says_why_gradients_of_single_patients_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["model.path=own_networks.Replicating", "model.in_channels=8", "model.out_channels=3"]
    own += ["sampling.patch=[16,16,16]"]
    made = recipes.job("brats_dp_patient", own)
    require_buildable(made)
    said = " ".join(card(made).split())
    assert "computed by Opacus, because wardround has no formula for Conv3d at '0' (weight)" in said
    assert "Opacus, because" not in card(recipes.job("brats_dp_patient"))
    assert "Opacus, because" not in card(recipes.job("brats_fedavg", own))


def test_the_card_prints_what_the_second_accountant_says() -> None:
    said = " ".join(card(recipes.job("brats_dp_patient")).split())
    assert "A second accountant (Opacus PRV) says epsilon 8.01, an upper bound like ours." in said
    assert "second accountant" not in card(recipes.job("brats_dp_adaptive"))
