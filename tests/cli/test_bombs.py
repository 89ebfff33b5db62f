"""Small files that announce, or inflate to, more than a machine has: every command refuses them in words, in little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from wardround.cli.main import main
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.models.specs import describe

GROWTH_KIB = 500 * 1024
SPEC = UNet3d(channels=(4, 8))
BLOCKS = {name: block.detach().numpy() for name, block in SPEC.build(0).named_parameters()}
META = {"model": describe(SPEC), "patch": [16, 16, 16], "label_kind": "brats"}
DEEP = "[" * 200_000


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that has to refuse without growing, and return what it says."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main([str(word) for word in words])
    said = "".join(capsys.readouterr())
    assert code == 2, said
    assert words[0] == "data" or all(part in said for part in ("found:", "expected:", "to do:")), said
    assert "Traceback" not in said
    assert "memory" not in said
    print(said)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH_KIB
    return said


def deep(path: Path) -> None:
    path.write_text(DEEP)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def npz(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)


def array(shape: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def saved(path: Path, **meta: object) -> None:
    checkpoint.save(path, BLOCKS, fingerprint(SPEC), META | meta)


def npy_of(text: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(text.encode(), np.uint8))
    return stream.getvalue()


def widths(*channels: int) -> dict[str, object]:
    return {"path": "UNet3d", "args": describe(SPEC)["args"] | {"channels": list(channels)}}


MODELS: dict[str, Callable[[Path], None]] = {
    "announced": lambda path: npz(path, {"header.npy": array("(1000000000000000,)")}),
    "announced_of_a_block": lambda path: npz(
        path, {"header.npy": npy_of("{}"), "block.a.npy": array("(1000000, 1000000000)")}
    ),
    "inflated": lambda path: npz(path, {"header.npy": bytes(2**28)}, zipfile.ZIP_DEFLATED),
    "deep": lambda path: npz(path, {"header.npy": npy_of(DEEP)}),
    "sparse": lambda path: sparse(path, 2**42),
    "pipe": pipe,
    "architecture": lambda path: saved(path, model=widths(16000, 16000, 16000)),
    "levels": lambda path: saved(path, model=widths(*[4] * 60)),
    "units": lambda path: saved(path, model={**widths(4, 8), "args": {"channels": [4, 8], "residual_units": 10**9}}),
    "window": lambda path: saved(path, patch=[2**20, 2**20, 2**20]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_weights(kind: str, hospitals: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WARDROUND_TOKEN", "t" * 32)
    MODELS[kind](tmp_path / "m.npz")
    case = next(path for path in sorted((hospitals / "site-1").iterdir()) if path.is_dir())
    refused(capsys, "predict", case, "--model", tmp_path / "m.npz", "--out", tmp_path / "x.nii")
    refused(capsys, "serve", tmp_path / "m.npz", "--port", 0)
    if kind != "pipe":
        refused(capsys, "export", tmp_path / "m.npz", "--out", tmp_path / "bundle")


def pickled(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, path)


def deflated(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    npz(path, entries | {"model/data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED)


def announcing(path: Path) -> None:
    """A storage that says it has 2^40 values and has a few."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    pickle_ = next(name for name in entries if name.endswith("data.pkl"))
    entries[pickle_] = entries[pickle_].replace(b"K\x04K\x08K\x03K\x03K\x03", b"K\xffK\xffK\xffK\xffK\xff")
    npz(path, entries)


BUNDLES: dict[str, Callable[[Path], None]] = {
    "strides": lambda bundle: pickled(bundle / "models/model.pt", {"a": torch.zeros(1).expand(10**12)}),
    "deflated": lambda bundle: deflated(bundle / "models/model.pt"),
    "announced": lambda bundle: announcing(bundle / "models/model.pt"),
    "objects": lambda bundle: pickled(bundle / "models/model.pt", {"a": bytearray(10)}),  # type: ignore[dict-item]
    "sparse_weights": lambda bundle: sparse(bundle / "models/model.pt", 2**42),
    "sparse_words": lambda bundle: sparse(bundle / "configs/metadata.json", 6 * 2**30),
    "deep": lambda bundle: deep(bundle / "configs/metadata.json"),
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_bundles(kind: str, hospitals: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WARDROUND_TOKEN", "t" * 32)
    saved(tmp_path / "m.npz")
    assert main(["export", str(tmp_path / "m.npz"), "--out", str(tmp_path / "bundle")]) == 0
    BUNDLES[kind](tmp_path / "bundle")
    case = next(path for path in sorted((hospitals / "site-1").iterdir()) if path.is_dir())
    refused(capsys, "predict", case, "--model", tmp_path / "bundle", "--out", tmp_path / "x.nii")
    refused(capsys, "serve", tmp_path / "bundle", "--port", 0)


def header(*shape: int) -> bytes:
    made = nibabel.Nifti1Header()
    made.set_data_dtype(np.float32)
    made.set_data_shape(shape)
    made["vox_offset"], made["magic"] = 352, b"n+1"
    return made.binaryblock + bytes(4)


def members(path: Path, first: bytes, times: int) -> None:
    """A .gz of `times` times 64 MiB in a few hundred kB."""
    path.write_bytes(gzip.compress(first) + gzip.compress(bytes(2**26)) * times)


IMAGES: dict[str, Callable[[Path], None]] = {
    "announced": lambda path: members(path, header(1024, 1024, 1024), 1),
    "channels": lambda path: members(path, header(512, 512, 512, 100), 1),
    "inflated": lambda path: members(path, header(16, 16, 16), 64),
    "pipe": pipe,
    "sparse": lambda path: sparse(path, 2**42),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind: str, hospitals: Path, tmp_path: Path, capsys) -> None:
    case = next(path for path in sorted((hospitals / "site-1").iterdir()) if path.is_dir())
    folder = tmp_path / "data" / case.name
    shutil.copytree(case, folder)
    path = folder / f"{case.name}_t1.nii.gz"
    path.unlink()
    IMAGES[kind](path)
    saved(tmp_path / "m.npz")
    refused(capsys, "predict", folder, "--model", tmp_path / "m.npz", "--out", tmp_path / "x.nii")
    refused(capsys, "data", "check", tmp_path / "data")


def png(path: Path, width: int, height: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(bytes(2**24))) + chunk(b"IEND", b"")
    )


def labelled(folder: Path, rows: str = "p1,p1,a,p1.png\np2,p2,b,p1.png\np3,p3,a,p1.png\n") -> None:
    folder.mkdir()
    content = {"kind": "classification", "classes": ["a", "b"], "modalities": ["t1"], "size": 16}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "cases.csv").write_text("case,patient,label,t1\n" + rows)
    png(folder / "p1.png", 16, 16)


TABLES: dict[str, Callable[[Path], None]] = {
    "picture": lambda folder: png(folder / "p1.png", 60_000, 60_000),
    "sparse_picture": lambda folder: sparse(folder / "p1.png", 2**42),
    "picture_pipe": lambda folder: pipe(folder / "p1.png"),
    "table": lambda folder: sparse(folder / "cases.csv", 2**42),
    "description": lambda folder: sparse(folder / "dataset.json", 6 * 2**30),
    "deep": lambda folder: deep(folder / "dataset.json"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_labelled_images(kind: str, tmp_path: Path, capsys) -> None:
    labelled(tmp_path / "data")
    TABLES[kind](tmp_path / "data")
    refused(capsys, "data", "check", tmp_path / "data")


@pytest.mark.parametrize("content", [DEEP, '{"modality": ' + DEEP])
def test_a_deep_description_of_volumes(content: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "data" / "imagesTr").mkdir(parents=True)
    (tmp_path / "data" / "imagesTr" / "a.nii").write_bytes(b"")
    (tmp_path / "data" / "dataset.json").write_text(content)
    refused(capsys, "data", "check", tmp_path / "data")
