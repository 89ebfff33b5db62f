"""Every kind of damage to a file is refused by name: the case, the file, what was found, what to do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from wardround.core.errors import DataRefused
from wardround.data.cache import open_cohort
from wardround.data.cases import find_cases
from wardround.data.site_config import SiteConfig
from wardround.data.volumes import read_case

SHAPE = (12, 11, 10)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
T1, T2, SEG = "case7_t1.nii.gz", "case7_t2.nii.gz", "case7_seg.nii.gz"
RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(1, 900, SHAPE).astype(np.float32)
MASK = np.zeros(SHAPE, np.uint8)
MASK[4:7, 4:7, 4:7] = 2
MASK[5, 5, 5] = 4


def save(path: Path, data: NDArray, affine: NDArray = AFFINE) -> None:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "case7"
    folder.mkdir(parents=True)
    save(folder / T1, IMAGE)
    save(folder / T2, IMAGE[::-1].copy())
    save(folder / SEG, MASK)
    return folder


def rewrite(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    """Change the uncompressed bytes of a file."""
    path.write_bytes(gzip.compress(bytes(change(bytearray(gzip.decompress(path.read_bytes()))))))


def put(content: bytearray, at: int, new: bytes) -> bytearray:
    content[at : at + len(new)] = new
    return content


def cut_gzip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def flip_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere.nii.gz")


def plain_nifti_named_gz(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes()))


def gzip_named_nii(path: Path) -> None:
    path.rename(path.with_suffix(""))


def header_pair(path: Path) -> None:
    rewrite(path, lambda b: put(b, 344, b"ni1\0"))


def image_with(change: Callable[[NDArray], NDArray]) -> Callable[[Path], None]:
    return lambda path: save(path, change(IMAGE.copy()))


def mask_with(change: Callable[[NDArray], NDArray]) -> Callable[[Path], None]:
    return lambda path: save(path, change(MASK.copy()))


def affine_with(*entries: tuple[int, int, float]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        affine = AFFINE.copy()
        for row, column, value in entries:
            affine[row, column] = value
        save(path, MASK if path.name == SEG else IMAGE, affine)

    return damage


def raw_affine(at: int, value: float) -> Callable[[Path], None]:
    """Write one number of the header's sform (bytes 280..327), which the writing library would refuse."""
    return lambda path: rewrite(path, lambda b: put(b, at, np.float32(value).tobytes()))


def at(data: NDArray, value: float) -> NDArray:
    data[4, 4, 4] = value
    return data


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    # the bytes
    "empty file": (T1, lambda p: p.write_bytes(b"") and None, "an empty file"),
    "empty gzip": (T1, lambda p: p.write_bytes(gzip.compress(b"")) and None, "no NIfTI header"),
    "truncated gzip": (T1, cut_gzip, "truncated gzip data"),
    "only the gzip magic": (T1, lambda p: p.write_bytes(b"\x1f\x8b") and None, "gzip data"),
    "bit flip in the gzip stream": (T1, flip_bit, "damaged gzip data"),
    "wrong checksum": (T1, flip_checksum, "damaged gzip data"),
    "bytes after the gzip data": (T1, lambda p: p.write_bytes(p.read_bytes() + b"rest") and None, "damaged gzip data"),
    "not compressed": (T1, plain_nifti_named_gz, "no gzip data"),
    "text file": (T2, lambda p: p.write_text("version https://large-file") and None, "no gzip data"),
    "compressed under a plain name": (T1, gzip_named_nii, "gzip data under a name without .gz"),
    "a folder": (T1, as_folder, "a folder"),
    "a broken link": (T1, broken_link, "not readable"),
    "a broken link to a mask": (SEG, broken_link, "not readable"),
    # the header
    "header only": (T1, lambda p: rewrite(p, lambda b: b[:352]), "truncated: 352 bytes"),
    "half a header": (T1, lambda p: rewrite(p, lambda b: b[:200]), "no NIfTI header"),
    "voxels missing": (T2, lambda p: rewrite(p, lambda b: b[:-4]), "truncated"),
    "wrong magic": (T1, lambda p: rewrite(p, lambda b: put(b, 344, b"xyz\0")), "no NIfTI header"),
    "header of a pair": (T1, header_pair, "no NIfTI header"),
    "unknown data type": (T1, lambda p: rewrite(p, lambda b: put(b, 70, b"\x99\x09")), "a header that makes no sense"),
    "negative length": (T1, lambda p: rewrite(p, lambda b: put(b, 42, b"\xf4\xff")), "(-12, 11, 10)"),
    "a length too large": (T1, lambda p: rewrite(p, lambda b: put(b, 42, b"\xff\x7f")), "truncated"),
    "complex data": (T1, image_with(lambda a: a.astype(np.complex64)), "data of type complex64"),
    "colour data": (
        T1,
        image_with(lambda a: np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "data of type",
    ),
    # the grid
    "a slice": (T1, image_with(lambda a: a[:, :, 0]), "shape (12, 11)"),
    "a series": (T1, image_with(lambda a: np.stack([a, a], -1)), "shape (12, 11, 10, 2)"),
    "a mask with channels": (SEG, mask_with(lambda a: np.stack([a, a, a], -1)), "shape (12, 11, 10, 3)"),
    "too few voxels": (T1, image_with(lambda a: a[:, :, :7]), "shape (12, 11, 7)"),
    "too many voxels": (T1, image_with(lambda a: np.resize(a, (1025, 8, 8))), "shape (1025, 8, 8)"),
    "other shape than t1": (T2, image_with(lambda a: a[1:]), "shape (11, 11, 10)"),
    "mask of other shape": (SEG, mask_with(lambda a: a[:, 1:]), "shape (12, 10, 10)"),
    "mask with its axes exchanged": (SEG, mask_with(lambda a: a.transpose(1, 0, 2)), "shape (11, 12, 10)"),
    "other origin": (T2, affine_with((0, 3, 1.0)), "an affine that puts voxels up to 1 mm away"),
    "other spacing": (T2, affine_with((2, 2, 2.1)), "an affine that puts voxels up to 0.9 mm away"),
    "mask mirrored in space": (SEG, affine_with((0, 0, -1.0)), "an affine that puts voxels"),
    "spacing too small": (T1, affine_with((0, 0, 0.1)), "spacing 0.1 x 1 x 2 mm"),
    "spacing too large": (T1, affine_with((1, 1, 1000.0)), "spacing 1 x 1000 x 2 mm"),
    "singular affine": (T1, raw_affine(280, 0.0), "a singular affine"),
    "affine with NaN": (T1, raw_affine(292, np.nan), "an affine that is not finite"),
    "affine with infinity": (T1, raw_affine(280, np.inf), "an affine that is not finite"),
    # the intensities
    "NaN": (T1, image_with(lambda a: at(a, np.nan)), "1 voxels of t1 that are not finite"),
    "infinity": (T2, image_with(lambda a: at(a, np.inf)), "1 voxels of t2 that are not finite"),
    "too large for float32": (T2, image_with(lambda a: at(a.astype(np.float64), 1e300)), "not finite"),
    "all zero": (T1, image_with(np.zeros_like), "a constant image"),
    "all equal": (T1, image_with(lambda a: np.full_like(a, 7)), "a constant image"),
    "a mask in place of an image": (T1, image_with(lambda a: (MASK > 0).astype(np.uint8)), "a constant image"),
    # the labels
    "label 5": (SEG, mask_with(lambda a: at(a, 5)), "label values {0, 2, 4, 5}"),
    "label 255": (SEG, mask_with(lambda a: (a > 0) * np.uint8(255)), "label values {0, 255}"),
    "negative label": (SEG, mask_with(lambda a: at(a.astype(np.int16), -1)), "label values {-1, 0, 2, 4}"),
    "labels 3 and 4": (SEG, mask_with(lambda a: at(a, 3)), "both 3 and 4"),
    "interpolated labels": (SEG, mask_with(lambda a: at(a.astype(np.float32), 0.5)), "not whole numbers"),
    "labels with NaN": (SEG, mask_with(lambda a: at(a.astype(np.float32), np.nan)), "not whole numbers"),
    "an image in place of a mask": (SEG, lambda p: save(p, IMAGE), "not whole numbers"),
    "an integer image in place of a mask": (SEG, lambda p: save(p, IMAGE.astype(np.int16)), "different kinds"),
}


def test_the_undamaged_case_is_read(case: Path) -> None:
    volume = read_case(find_cases(case)[0], "brats")
    assert volume.present.tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_by_name(case: Path, kind: str) -> None:
    name, damage, word = DAMAGE[kind]
    damage(case / name)
    with pytest.raises(DataRefused) as refusal:
        read_case(find_cases(case)[0], "brats")
    text = str(refusal.value)
    assert "'case7'" in text
    assert name.removesuffix(".gz") in text
    assert word in refusal.value.found
    assert refusal.value.expected
    assert refusal.value.fix


@pytest.mark.parametrize("kind", ["truncated gzip", "a broken link", "label 255", "all equal"])
def test_the_site_refuses_too_and_keeps_nothing_of_the_case(case: Path, tmp_path: Path, kind: str) -> None:
    name, damage, word = DAMAGE[kind]
    damage(case / name)
    with pytest.raises(DataRefused, match="'case7'") as refusal:
        open_cohort(SiteConfig(case.parent), tmp_path / "cache")
    assert word in str(refusal.value)
    assert list((tmp_path / "cache" / "cases").iterdir()) == []


def test_a_file_that_may_not_be_read(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, *_: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    files = find_cases(case)[0]
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataRefused, match=r"'case7', file case7_t1(.|\n)*Permission denied"):
        read_case(files, "brats")


def test_decathlon_damage(tmp_path: Path) -> None:
    for sub in ("imagesTr", "labelsTr"):
        (tmp_path / sub).mkdir()
    save(tmp_path / "imagesTr" / "d1.nii.gz", np.stack([IMAGE] * 3, -1))
    save(tmp_path / "labelsTr" / "d1.nii.gz", np.minimum(MASK, 3))
    with pytest.raises(DataRefused, match=r"'d1', file d1.nii.gz(.|\n)*10, 3\)(.|\n)*4 channels"):
        read_case(find_cases(tmp_path)[0], "brats")
    save(tmp_path / "imagesTr" / "d1.nii.gz", IMAGE)
    with pytest.raises(DataRefused, match=r"'d1'(.|\n)*4 channels"):
        read_case(find_cases(tmp_path)[0], "brats")
    save(tmp_path / "imagesTr" / "d1.nii.gz", np.stack([IMAGE] * 4, -1))
    read_case(find_cases(tmp_path)[0], "brats")
    save(tmp_path / "labelsTr" / "d1.nii.gz", MASK)
    with pytest.raises(DataRefused, match=r"'d1'(.|\n)*\{0, 2, 4\}"):
        read_case(find_cases(tmp_path)[0], "brats")


def test_random_damage_to_the_header_never_escapes_as_another_error(case: Path) -> None:
    """Headers with random bytes are read or refused; nothing else may come out."""
    rng = np.random.default_rng(1)
    path = case / "case7_t1.nii"
    content = gzip.decompress((case / T1).read_bytes())
    (case / T1).unlink()
    files = None
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(content)
        for where in rng.integers(0, 352, 3):
            damaged[where] = rng.integers(0, 256)
        path.write_bytes(damaged)
        files = files or find_cases(case)[0]
        try:
            read_case(files, "brats")
            outcomes.add("read")
        except DataRefused:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
