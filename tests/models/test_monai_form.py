import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from wardround.core.errors import ModelRefused
from wardround.models.fingerprint import fingerprint
from wardround.models.monai_form import monai_config, without_adapters
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.norms import with_group_norms

SPECS = [
    UNet3d((4, 8)),
    UNet3d((4, 8, 12), residual_units=2, norm="group", dropout=0.1),
    UNet3d((4, 8), residual_units=0),
    SegResNet3d(filters=8),
    SegResNet3d(filters=8, norm="instance"),
    SegResNet3d(filters=12),
]


def weights(spec):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=p.shape).astype(np.float32) for name, p in spec.build(0).named_parameters()}


def loaded(net, arrays):
    net.load_state_dict({name: torch.from_numpy(block) for name, block in arrays.items()}, strict=False)
    return net.eval()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_monai_builds_the_same_network(spec) -> None:
    """Through JSON, as the bundle has it: architecture, names of the weights, and output, bit by bit."""
    config = json.loads(json.dumps(monai_config(spec, "wardround")))
    made = with_group_norms(ConfigParser({"net": config}).get_parsed_content("net"), spec.norm)
    assert fingerprint(made) == fingerprint(spec)
    arrays, x = weights(spec), torch.randn(2, 8, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded(made, arrays)(x), loaded(spec.build(3), arrays)(x))


@pytest.mark.parametrize(("number", "plain"), [(0, True), (1, False), (3, True), (4, True), (5, False)])
def test_monai_alone_is_enough_where_it_can_say_the_norm(number: int, plain: bool) -> None:
    """Then `monai.bundle.load` needs nothing of ours, and its network is the right function."""
    spec = SPECS[number]
    assert (monai_config(spec, "wardround")["_target_"] in ("UNet", "SegResNet")) == plain
    if plain:
        made = ConfigParser({"net": monai_config(spec, "nowhere")}).get_parsed_content("net")
        arrays, x = weights(spec), torch.randn(2, 8, 16, 16, 16, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            found, ours = loaded(made, arrays)(x), loaded(spec.build(3), arrays)(x)
        torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


def test_adapters_are_added_into_the_kernels_bit_by_bit() -> None:
    spec = UNet3d((4, 8), adapter_rank=2)
    arrays, x = weights(spec), torch.randn(2, 8, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    bare, folded = without_adapters(spec, arrays)
    assert bare == UNet3d((4, 8))
    assert set(folded) == {name for name, _ in bare.build(0).named_parameters()}
    with torch.inference_mode():
        assert torch.equal(loaded(bare.build(1), folded)(x), loaded(spec.build(0), arrays)(x))
        assert not torch.equal(loaded(bare.build(1), arrays)(x), loaded(spec.build(0), arrays)(x))


def test_without_adapters_nothing_changes() -> None:
    arrays = weights(SPECS[0])
    assert without_adapters(SPECS[0], arrays) == (SPECS[0], arrays)


def test_a_network_that_reads_a_record_is_refused() -> None:
    with pytest.raises(ModelRefused, match="3 columns"):
        monai_config(UNet3d((4, 8), ehr_columns=3), "wardround")
