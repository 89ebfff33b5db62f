"""The weights that the package brings: whole, labelled, of synthetic patients, and inside a built wheel."""

from __future__ import annotations

import pytest

from wardround.core.errors import ConfigRefused
from wardround.models import shipped
from wardround.models.flat import first_weights
from wardround.models.nets import UNet3d
from wardround.models.warm_start import TAKEN, mapping
from wardround.models.weights_file import digest_of

NAME = "randomised_phantoms"


def test_every_shipped_file_is_what_its_label_says() -> None:
    assert NAME in shipped.names()
    for name in shipped.names():
        label = shipped.card(name)
        assert label["sha256"] == digest_of(shipped.path_of(name))
        assert label["data"] == "synthetic"
        assert "synthetic patients only" in label["what"]
        assert label["command"].startswith("wardround pretrain --steps ")
        assert 0 < label["held_out_dice"]["dice_mean"] < 1
        assert label["held_out_seed"] != label["seed"]


def test_the_network_of_the_recipe_starts_from_it_whole() -> None:
    spec = UNet3d(weights={"shipped": NAME, "sha256": shipped.card(NAME)["sha256"]})
    assert {row.start for row in mapping(spec, 0)} == {TAKEN}
    assert not first_weights(spec, 0).equal(first_weights(UNet3d(), 0))
    assert shipped.path_of(NAME).stat().st_size < 350_000


@pytest.mark.parametrize("name", ["gone", "../nets", "", "randomised_phantoms.json"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigRefused, match=NAME):
        shipped.path_of(name)
