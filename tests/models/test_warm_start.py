"""Networks that start from a file: what is taken, what is drawn, what is refused, and that all parties start alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import first_weights
from wardround.models.monai_network import MonaiNetwork
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.specs import describe, rebuild
from wardround.models.warm_start import AVERAGED, DRAWN, TAKEN, mapping, started, told, words_about
from wardround.training.global_model import initial_arrays

UNET = UNet3d(channels=(4, 8))
MONAI = MonaiNetwork(
    "monai.networks.nets.AttentionUnet",
    {"spatial_dims": 3, "in_channels": 8, "out_channels": 3, "channels": [4, 8], "strides": [2]},
    "group",
)
SPECS = [UNET, SegResNet3d(filters=4, norm="instance"), MONAI]


def stored(folder: Path, spec: Any, *, words: bool = True, change: Any = lambda blocks: None) -> dict[str, str]:
    """Return `weights` for a file of the spec's own weights, drawn with seed 1, as a job names them."""
    blocks: dict[str, Tensor] = {name: p.detach().clone() for name, p in spec.build(1).named_parameters()}
    change(blocks)
    content = save(blocks, metadata=words_about(spec) if words else None)
    file = folder / "w.safetensors"
    file.write_bytes(content)
    return {"file": str(file), "sha256": hashlib.sha256(content).hexdigest()}


def starts(spec: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in mapping(spec, 0):
        found.setdefault(row.start, set()).add(row.block)
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_every_party_starts_from_the_file_whatever_the_seed(spec: Any, tmp_path: Path) -> None:
    warm = replace(spec, weights=stored(tmp_path, spec))
    theirs = first_weights(spec, 1)
    assert torch.equal(first_weights(warm, 0), theirs)
    assert torch.equal(first_weights(warm, 7), theirs)
    # The server's model, and that of a site of a secure sum, is this one, bit for bit.
    assert digest(initial_arrays(warm, 0)) == digest(initial_arrays(spec, 1)) != digest(initial_arrays(spec, 0))
    # Weights are no part of an architecture.
    assert fingerprint(warm) == fingerprint(spec)
    assert set(starts(warm)) == {TAKEN}
    assert "w.safetensors (SHA-256 " in told(warm, 0)


def test_without_weights_nothing_changes(tmp_path: Path) -> None:
    assert set(starts(UNET)) == {DRAWN}
    assert "drawn from the job's seed" in told(UNET, 0)
    module = UNET.build(0)
    assert started(module, UNET) is module


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_head_of_another_number_of_outputs_is_drawn(spec: Any, tmp_path: Path) -> None:
    weights = stored(tmp_path, spec)
    if isinstance(spec, MonaiNetwork):
        other: Any = replace(spec, args={**spec.args, "out_channels": 1}, weights=weights)
    else:
        other = replace(spec, out_channels=1, weights=weights)
    found = starts(other)
    assert set(found) == {TAKEN, DRAWN}
    own, theirs, drawn = (
        dict(one.build(seed).named_parameters())
        for one, seed in ((other, 0), (spec, 1), (replace(other, weights=None), 0))
    )
    same = {name for name in own if own[name].shape == theirs[name].shape and torch.equal(own[name], theirs[name])}
    fresh = {name for name in own if torch.equal(own[name], drawn[name])}
    assert same | fresh == set(own)
    assert all(block in told(other, 0) for block in found[DRAWN])
    assert len(found[TAKEN]) > len(found[DRAWN])


def test_fewer_images_take_the_mean_of_the_files(tmp_path: Path) -> None:
    warm = replace(UNET, in_channels=2, weights=stored(tmp_path, UNET))
    found = starts(warm)
    assert set(found) == {TAKEN, AVERAGED}
    one, four = warm.build(0).eval(), UNET.build(1).eval()
    # The same image four times, every flag set, is the same to both.
    image, flag = torch.randn(2, 1, 8, 8, 8), torch.ones(2, 1, 8, 8, 8)
    with torch.no_grad():
        few = one(torch.cat([image, flag], 1))
        many = four(torch.cat([image.expand(-1, 4, -1, -1, -1), flag.expand(-1, 4, -1, -1, -1)], 1))
    assert torch.allclose(few, many, atol=1e-5)
    assert "mean over images in" in told(warm, 0)


def test_extras_stay_as_drawn_and_change_nothing(tmp_path: Path) -> None:
    """Adapters and the branch that reads a record start as nothing: the network computes what the file's does."""
    weights = stored(tmp_path, UNET)
    images = torch.randn(2, 8, 8, 8, 8)
    for extra, more in (({"adapter_rank": 2}, 0), ({"ehr_columns": 3}, 6)):
        warm = replace(UNET, weights=weights, **extra)
        assert set(starts(warm)) == {TAKEN, DRAWN}
        given = torch.cat([images, torch.ones(2, more, 8, 8, 8)], 1)
        with torch.no_grad():
            assert torch.allclose(warm.build(0).eval()(given), UNET.build(1).eval()(images), atol=1e-6)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    def halve(blocks: dict[str, Tensor]) -> None:
        blocks.update({name: block.half() for name, block in blocks.items()})

    warm = replace(UNET, weights=stored(tmp_path, UNET, change=halve))
    assert torch.equal(first_weights(warm, 0), first_weights(UNET, 1).half().float())


def rename(blocks: dict[str, Tensor]) -> None:
    blocks["other"] = blocks.pop(next(iter(blocks)))


def reshape(blocks: dict[str, Tensor]) -> None:
    name = next(name for name, block in blocks.items() if block.dim() == 5)
    blocks[name] = blocks[name][:, :, :2].contiguous()


@pytest.mark.parametrize(
    ("change", "words"), [(rename, r"is missing; other is too much"), (reshape, r"has shape .*, 2, 3, 3\), not")]
)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_file_that_does_not_fit_is_refused_by_what_did_not(
    spec: Any, change: Any, words: str, tmp_path: Path
) -> None:
    warm = replace(spec, weights=stored(tmp_path, spec, change=change))
    with pytest.raises(ModelRefused, match=rf"(?s){words}.*model\.weights=none"):
        warm.build(0)


@pytest.mark.parametrize(
    "other", [UNet3d(channels=(4, 16)), UNet3d(channels=(4, 8, 16)), UNet3d(channels=(4, 8), residual_units=2)], ids=str
)
@pytest.mark.parametrize("words", [True, False])
def test_another_network_is_refused_whether_or_not_the_file_names_its_own(
    other: UNet3d, words: bool, tmp_path: Path
) -> None:
    warm = replace(other, weights=stored(tmp_path, UNET, words=words))
    with pytest.raises(ModelRefused, match=r"(?s)found.*expected"):
        warm.build(0)


def test_a_setting_that_no_shape_shows_is_refused_by_the_file_s_own_words(tmp_path: Path) -> None:
    warm = replace(UNET, norm="group", weights=stored(tmp_path, UNET))
    with pytest.raises(ModelRefused, match=r'(?s)"norm": "instance".*"norm": "group"'):
        warm.build(0)


def test_another_content_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    weights = stored(tmp_path, UNET)
    for spec in SPECS:
        warm = replace(spec, weights={**weights, "sha256": "0" * 64})
        with pytest.raises(ModelRefused, match=rf"(?s)another SHA-256.*{'0' * 64}.*print the job again"):
            warm.build(0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize(
    "given", ["randomised_phantoms", {"file": "/w"}, {"shipped": "../nets", "sha256": "0" * 64}], ids=str
)
def test_weights_without_a_promise_are_refused(spec: Any, given: Any) -> None:
    with pytest.raises(ConfigRefused, match=r"sha256sum|no file of this name"):
        replace(spec, weights=given)


def test_a_trained_model_s_file_brings_its_own_weights(tmp_path: Path) -> None:
    """Whoever reads it needs neither the file that it began from nor its digest."""
    warm = replace(UNET, weights=stored(tmp_path, UNET))
    (tmp_path / "w.safetensors").unlink()
    said = describe(warm)
    assert said["args"]["weights"]["sha256"] == warm.weights["sha256"]  # type: ignore[index]
    assert rebuild(said, "a file") == UNET
