"""A file of weights is what the job says it is, or nothing is read from it."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models import weights_file
from wardround.models.nets import UNet3d
from wardround.models.weights_file import WeightsFile

UNET = UNet3d(channels=(4, 8))
EMPTY = hashlib.sha256(b"").hexdigest()


def test_the_content_that_was_promised_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(tmp_path / "w.pt"), "~/w.pt"):
        assert WeightsFile.of({"file": path, "sha256": digest}).read() == b"weights"


def test_another_content_is_refused_and_its_own_digest_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ModelRefused, match=rf"(?s){'1' * 64}.*print the job again") as caught:
        WeightsFile(tmp_path / "w.pt", "1" * 64).read()
    assert EMPTY not in str(caught.value)


@pytest.mark.parametrize("path", ["gone.pt", "."])
def test_a_file_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelRefused, match=r"(?s)every site and at the server; nothing is downloaded.*copy it there"):
        WeightsFile(tmp_path / path, EMPTY).read()


@pytest.mark.parametrize(
    "given",
    [
        None,
        "/w.pt",
        {"file": "/w.pt"},
        {"sha256": EMPTY},
        {"file": "w.pt", "sha256": EMPTY},
        {"file": 3, "sha256": EMPTY},
        {"file": "/w.pt", "sha256": EMPTY.upper()},
        {"file": "/w.pt", "sha256": EMPTY[:-1]},
        {"file": "/w.pt", "sha256": None},
        {"file": "/w.pt", "sha256": EMPTY, "more": 1},
    ],
    ids=str,
)
def test_anything_but_a_path_and_a_digest_is_refused(given: object) -> None:
    with pytest.raises(ConfigRefused, match="sha256sum"):
        WeightsFile.of(given)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin"])
def test_a_device_is_not_read(path: str) -> None:
    """A job names the path: one that never ends would hold, or fill, a hospital's machine."""
    with pytest.raises(ModelRefused, match="cannot be read"):
        WeightsFile.of({"file": path, "sha256": EMPTY}).read()


@pytest.mark.parametrize("path", ["/proc/self/pagemap", "/proc/self/environ", "/sys/kernel/uevent_seqnum"])
def test_a_file_of_the_system_is_not_read_beyond_the_size_that_it_states(path: str, tmp_path: Path) -> None:
    """They are regular files; the first states 0 bytes and has 2^39."""
    if not Path(path).exists():
        pytest.skip("a system without such files")
    (tmp_path / "w.pt").symlink_to(path)
    for one in (path, str(tmp_path / "w.pt")):
        read = WeightsFile.of({"file": one, "sha256": EMPTY}).read
        if Path(path).stat().st_size == 0:
            assert read() == b""
            continue
        with pytest.raises(ModelRefused, match="bytes of the"):
            read()


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "w.pt").open("wb") as stream:
        stream.truncate(2**29 + 1)
    with pytest.raises(ModelRefused, match="536870913 bytes"):
        WeightsFile(tmp_path / "w.pt", EMPTY).read()


def own() -> dict[str, Tensor]:
    return {name: block.detach().clone() for name, block in UNET.build(1).named_parameters()}


def entry(blocks: Mapping[str, Tensor]) -> str:
    """Return the kernel that reads the input."""
    return next(name for name, block in blocks.items() if block.dim() == 5)


def promised(folder: Path, content: bytes, name: str = "w.pt") -> dict[str, str]:
    (folder / name).write_bytes(content)
    return {"file": str(folder / name), "sha256": hashlib.sha256(content).hexdigest()}


def torch_file(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_every_form_of_a_state_dict_gives_the_same_numbers(tmp_path: Path) -> None:
    blocks, module = own(), UNET.build(1)
    forms: list[object] = [
        blocks,
        module.state_dict(),
        dict(module.named_parameters()),
        {"state_dict": module.state_dict(), "epoch": 3, "best": 0.5, "note": None, "by": "us"},
        {"model": {name: block.double() for name, block in blocks.items()}},
        {name: block.transpose(0, 1).contiguous().transpose(0, 1) for name, block in blocks.items() if block.dim() > 1}
        | {name: block for name, block in blocks.items() if block.dim() < 2},
    ]
    for form in forms:
        found, words = WeightsFile.of(promised(tmp_path, torch_file(form))).tensors()
        assert not words
        assert found.keys() == blocks.keys()
        assert all(torch.equal(found[name], block) and found[name].is_contiguous() for name, block in blocks.items())


def inflated() -> bytes:
    """64 MiB of zeros in 64 KiB."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_file({"a": torch.zeros(4)}))) as source,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"K\x04", b"J" + struct.pack("<i", 2**24))
            if not name.endswith("/data/0"):
                target.writestr(name, content)
                continue
            with target.open(name, "w", force_zip64=True) as entry_:
                for _ in range(4):
                    entry_.write(bytes(2**24))
    return stream.getvalue()


def changed(change: Callable[[Tensor], Tensor]) -> bytes:
    """A file whose input kernel is another tensor."""
    blocks = own()
    blocks[entry(blocks)] = change(blocks[entry(blocks)])
    return torch_file(blocks)


def announced(inputs: int, kind: torch.dtype) -> bytes:
    """A kernel of many inputs that has one number."""
    return changed(lambda kernel: torch.zeros(1, dtype=kind).as_strided((4, inputs, 3, 3, 3), (0, 0, 0, 0, 0)))


FORMS: dict[str, Callable[[], bytes]] = {
    "announced": lambda: announced(2**26, torch.float32),
    "announced_doubles": lambda: announced(2**22, torch.float64),
    "not a number": lambda: changed(lambda kernel: torch.full_like(kernel, float("nan"))),
    "one that is not": lambda: changed(lambda kernel: kernel.index_fill(1, torch.tensor([3]), float("-inf"))),
    "huge": lambda: changed(lambda kernel: torch.full_like(kernel, 1e38)),
    "huge and below": lambda: changed(lambda kernel: torch.full_like(kernel, -1e7)),
    "beyond float32": lambda: changed(lambda kernel: torch.full_like(kernel, 1e300, dtype=torch.float64)),
    "complex": lambda: changed(lambda kernel: kernel.to(torch.complex64)),
    "bool": lambda: changed(lambda kernel: kernel > 0),
    "whole": lambda: changed(lambda kernel: kernel.long()),
    "sparse": lambda: changed(lambda kernel: kernel.to_sparse()),
    "meta": lambda: changed(lambda kernel: kernel.to("meta")),
    "shared": lambda: torch_file(dict.fromkeys(own(), torch.zeros(4))),
    "a number for a name": lambda: torch_file({3: torch.zeros(4)}),
    "a list": lambda: torch_file([torch.zeros(4)]),
    "empty": lambda: b"",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_crafted_file_of_torch_is_refused_by_name(form: str, tmp_path: Path) -> None:
    spec = replace(UNET, weights=promised(tmp_path, FORMS[form]()))
    with pytest.raises(ModelRefused, match=r"w\.pt"):
        spec.build(0)


def test_a_compressed_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="compressed or encrypted entries"):
        WeightsFile.of(promised(tmp_path, inflated())).tensors()


@pytest.mark.parametrize("inputs", [2**16, 0, 7])
def test_kernels_of_more_inputs_than_a_task_has_are_refused(inputs: int, tmp_path: Path) -> None:
    content = changed(lambda kernel: torch.zeros(4, inputs, 3, 3, 3))
    with pytest.raises(ModelRefused, match=rf"has shape \(4, {inputs}, 3, 3, 3\), not"):
        replace(UNET, weights=promised(tmp_path, content)).build(0)


@pytest.mark.parametrize("word", ["{", "[" * 100_000 + "]" * 100_000, "9" * 10_000, "NaN", "3"])
def test_a_word_that_is_no_description_is_refused_in_few_lines(word: str, tmp_path: Path) -> None:
    content = save(own(), metadata={"network": word})
    with pytest.raises(ModelRefused, match="weights of the network") as refusal:
        replace(UNET, weights=promised(tmp_path, content, "w.safetensors")).build(0)
    assert len(str(refusal.value)) < 3000


@pytest.mark.parametrize(
    "change",
    [
        lambda kernel: torch.full_like(kernel, float("nan")),
        lambda kernel: kernel.half().fill_(float("inf")),
        lambda kernel: kernel.to(torch.bfloat16).fill_(1e30),
        lambda kernel: kernel > 0,
        lambda kernel: kernel.long(),
        lambda kernel: kernel.to(torch.float8_e4m3fn),
    ],
)
def test_safetensors_of_other_numbers_are_refused(change: Any, tmp_path: Path) -> None:
    blocks = own()
    name = entry(blocks)
    blocks[name] = change(blocks[name])
    with pytest.raises(ModelRefused, match=f"{name} holds"):
        replace(UNET, weights=promised(tmp_path, save(blocks), "w.safetensors")).build(0)


def test_a_header_that_announces_too_much_is_not_parsed(tmp_path: Path) -> None:
    content = struct.pack("<Q", 2**40) + b"{}"
    with pytest.raises(ModelRefused, match="a header of 1099511627776 bytes"):
        WeightsFile.of(promised(tmp_path, content, "w.safetensors")).tensors()


def test_a_file_is_read_once_and_again_when_it_is_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(path: Path, most: int) -> bytes:
        reads.append(path)
        return path.read_bytes()

    monkeypatch.setattr(weights_file, "read_bytes", counted)
    spec = replace(UNET, weights=promised(tmp_path, save(own()), "w.safetensors"))
    first = spec.build(0)
    # What a network does to its own numbers reaches no other network.
    with torch.no_grad():
        for block in first.parameters():
            block.add_(1)
    assert all(torch.equal(block, own()[name]) for name, block in spec.build(1).named_parameters())
    assert len(reads) == 1
    (tmp_path / "w.safetensors").write_bytes(b"exchanged")
    for _ in range(2):
        with pytest.raises(ModelRefused, match="print the job again"):
            spec.build(0)
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(ModelRefused, match="cannot be read"):
        spec.build(0)
