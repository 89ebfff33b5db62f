"""Against timm itself: the same numbers, weights from files, what is refused."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.timm_vit import Trunk, build_vit, names
from wardround.models.torchvision_adapter import open_torchvision
from wardround.models.weights_file import WeightsFile

SIZE = (32, 48)


def plain(name: str, **changed: Any) -> Any:
    open_torchvision()
    import timm

    given = {"img_size": SIZE, "in_chans": 1, "num_classes": 0}
    return timm.create_model(name, pretrained=False, **{**given, **changed})


def promised(file: Path) -> WeightsFile:
    return WeightsFile(file, hashlib.sha256(file.read_bytes()).hexdigest())


def saved(tmp_path: Path, state: object) -> WeightsFile:
    torch.save(state, tmp_path / "weights.pt")
    return promised(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "test_vit",
        "test_vit2",
        "deit3_small_patch16_224",
        "vit_little_patch16_reg4_gap_256",
        "vit_xsmall_patch16_clip_224",
        "vit_small_patch16_224",
    ],
)
def test_stem_and_trunk_compute_what_timm_computes(name: str) -> None:
    """From timm's own weights, every one of them moved away from where it starts."""
    torch.manual_seed(0)
    theirs = plain(name, depth=2).eval()
    for block in theirs.parameters():
        block.data.add_(0.1 * torch.randn_like(block))
    ours = build_vit(name, SIZE, 2, None)
    ours.load_state_dict(theirs.state_dict())
    stem, trunk = ours.patch_embed, Trunk(ours)
    images = torch.randn(2, 1, *SIZE)
    torch.testing.assert_close(trunk(stem(images)), theirs(images))
    held = sum(block.numel() for part in (stem, trunk) for block in part.parameters())
    assert held == sum(block.numel() for block in theirs.parameters())


def test_layer_norms_are_those_of_torch() -> None:
    kinds = {type(part) for part in build_vit("test_vit", SIZE, 2, None).modules() if "Norm" in type(part).__name__}
    assert kinds == {nn.LayerNorm}


@pytest.mark.parametrize("form", ["plain", "model", "state_dict", "safetensors"])
def test_weights_of_a_file(tmp_path: Path, form: str) -> None:
    theirs = plain("test_vit")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
        file = promised(tmp_path / "weights.safetensors")
    else:
        file = saved(tmp_path, theirs.state_dict() if form == "plain" else {form: theirs.state_dict(), "epoch": 3})
    ours = build_vit("test_vit", SIZE, 0, file)
    for key, block in ours.state_dict().items():
        expected = theirs.state_dict()[key]
        assert torch.equal(block, expected)


def test_three_channels_another_size_and_a_head_are_adapted_as_timm_does(tmp_path: Path) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    theirs = plain("test_vit", img_size=160, in_chans=3, num_classes=1000)
    ours = build_vit("test_vit", SIZE, 0, saved(tmp_path, theirs.state_dict()))
    expected: dict[str, Tensor] = checkpoint_filter_fn(theirs.state_dict(), plain("test_vit"))
    assert torch.equal(ours.pos_embed, expected["pos_embed"])
    grey = torch.randn(1, 1, 16, 16)
    found = nn.functional.conv2d(grey, ours.patch_embed.proj.weight)
    torch.testing.assert_close(found, nn.functional.conv2d(grey.repeat(1, 3, 1, 1), theirs.patch_embed.proj.weight))


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {key: block.half() for key, block in plain("test_vit").state_dict().items()}
    assert {block.dtype for block in build_vit("test_vit", SIZE, 0, saved(tmp_path, state)).parameters()} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("norm.weight"), "norm.weight is missing"),
        (lambda state: state.update({"gate": torch.zeros(1)}), "gate is too much"),
        (lambda state: state.update({"norm.bias": torch.zeros(3)}), r"norm.bias has shape \(3,\), not \(64,\)"),
        (lambda state: state.update({"pos_embed": torch.zeros(1, 3, 64)}), r"pos_embed has shape \(1, 3, 64\)"),
        (lambda state: state.update({"pos_embed": torch.zeros(1, 5, 8)}), r"pos_embed has shape \(1, 5, 8\)"),
        (lambda state: state.update({"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)}), r"\(64, 1, 8, 8\), not"),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.zeros(64, 17, 16, 16)}),
            r"\(64, 17, 16, 16\), not",
        ),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.zeros(64, 0, 16, 16)}),
            r"\(64, 0, 16, 16\), not",
        ),
        (lambda state: state.update({"pos_embed": torch.zeros(2, 5, 64)}), r"pos_embed has shape \(2, 5, 64\)"),
        (lambda state: state.update({"norm.bias": torch.full([64], float("nan"))}), "norm.bias holds a number"),
    ],
)
def test_weights_of_another_network_are_refused_by_what_did_not_fit(tmp_path: Path, change: Any, words: str) -> None:
    state = dict(plain("test_vit").state_dict())
    change(state)
    with pytest.raises(ModelRefused, match=words):
        build_vit("test_vit", SIZE, 0, saved(tmp_path, state))


def test_more_blocks_than_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"blocks\.2\..* is too much.* and 45 more(?s:.*)test_vit with 2 blocks"):
        build_vit("test_vit", SIZE, 2, saved(tmp_path, plain("test_vit").state_dict()))


class Trap:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a file of weights ran code",))


@pytest.mark.parametrize("content", ["missing", "folder", "noise", "noise.safetensors", "code", "list", "numbers"])
def test_files_that_hold_no_weights_are_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / ("w.safetensors" if content.endswith("safetensors") else "w.pt")
    if content == "folder":
        file.mkdir()
    elif content.startswith("noise"):
        file.write_bytes(b"\x80\x02noise" * 20)
    elif content != "missing":
        torch.save({"code": {"a": Trap()}, "list": [torch.zeros(1)], "numbers": {"epoch": 3}}[content], file)
    given = promised(file) if file.is_file() else WeightsFile(file, "0" * 64)
    with pytest.raises(ModelRefused, match=file.name):
        build_vit("test_vit", SIZE, 0, given)


def test_patches_of_another_size_give_more_tokens_and_take_weights_of_that_size_alone(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    theirs = plain("test_vit", patch_size=8, img_size=64)
    ours = build_vit("test_vit", SIZE, 0, saved(tmp_path, theirs.state_dict()), 8)
    assert ours.pos_embed.shape[1] == 1 + 4 * 6
    torch.testing.assert_close(ours.pos_embed, resample_abs_pos_embed(theirs.pos_embed, [4, 6]))
    assert torch.equal(ours.patch_embed.proj.weight, theirs.patch_embed.proj.weight)
    with pytest.raises(ModelRefused, match=r"patch_embed.proj.weight has shape \(64, 1, 8, 8\), not \(64, 1, 4, 4\)"):
        build_vit("test_vit", SIZE, 0, saved(tmp_path, theirs.state_dict()), 4)
    with pytest.raises(ConfigRefused, match="multiples of 5: 30 or 35 x 45 or 50"):
        build_vit("test_vit", SIZE, 0, None, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch16_223", r"for example .*vit_tiny_patch16_224"),
        ("deit_tiny", r"for example .*deit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.augreg_in21k", r"without a tag of weights, for example vit_tiny_patch16_224"),
        ("resnet18", "a ViT of timm"),
        ("hf-hub:someone/vit", "a ViT of timm"),
        ("local-dir:/tmp", "a ViT of timm"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("test_vit3", "pooled by 'map'"),
        ("test_vit4", "RmsNorm at 'blocks.0.norm1'"),
    ],
)
def test_a_name_that_is_no_vit_of_ours_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigRefused, match=words):
        build_vit(name, SIZE, 1, None)


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((32, 40), "32 x 32 or 48"),
        ((33, 47), "32 or 48 x 32 or 48"),
        ((15, 16), "16 x 16"),
        ((8, 100), "16 x 96 or 112"),
    ],
)
def test_a_size_that_the_patches_do_not_divide_is_refused_with_those_that_fit(size: tuple[int, int], fits: str) -> None:
    with pytest.raises(ConfigRefused, match=f"multiples of 16: {fits}"):
        build_vit("test_vit", size, 1, None)


def test_nothing_is_asked_of_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    build_vit("vit_tiny_patch16_224", SIZE, 1, None)


def test_there_is_a_choice() -> None:
    assert {"vit_tiny_patch16_224", "vit_small_patch16_224", "deit_tiny_patch16_224"} <= set(names())
