import gzip
import io
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from service_process import zipped

from wardround.data.cases import find_cases
from wardround.data.volumes import read_images
from wardround.errors import DataRefused
from wardround.serving.limits import Limits, UploadRefused
from wardround.serving.unpack import case_of, images_in_zip


def status(caught: pytest.ExceptionInfo[UploadRefused]) -> int:
    return caught.value.status


def test_the_volume_is_that_of_the_folder(case: Path, images: dict[str, bytes], limits: Limits) -> None:
    (files,) = find_cases(case)
    expected = read_images(files)
    plain = {name: gzip.decompress(content) for name, content in images.items()}
    body = zipped({f"{case.name}/{path.name}": path.read_bytes() for path in case.iterdir()})
    bare = zipped({f"{name}.nii.gz": content for name, content in images.items()}, zipfile.ZIP_STORED)
    for found in (images, plain, images_in_zip(body, limits), images_in_zip(bare, limits)):
        upload = case_of(found, limits)
        volume = read_images(upload.files, upload.read)
        np.testing.assert_array_equal(volume.image, expected.image)
        np.testing.assert_array_equal(volume.affine, expected.affine)


def test_missing_sequences(images: dict[str, bytes], limits: Limits) -> None:
    upload = case_of({"flair": images["flair"]}, limits)
    assert read_images(upload.files, upload.read).present.tolist() == [False, False, False, True]
    for wrong in ({}, {"seg": images["t1"]}, images | {"x": b""}):
        with pytest.raises(UploadRefused) as caught:
            case_of(wrong, limits)
        assert status(caught) == 422


def test_a_gzip_bomb_stops_at_the_limit(limits: Limits) -> None:
    bomb = gzip.compress(bytes(200 * 2**20), 1)
    assert len(bomb) < limits.upload
    for wrong in ({"t1": bomb}, {"t1": gzip.compress(bytes(limits.unpacked + 1))}, {"t1": bytes(limits.unpacked + 1)}):
        with pytest.raises(UploadRefused) as caught:
            case_of(wrong, limits)
        assert status(caught) == 413


def test_the_limit_is_that_of_all_images_together(images: dict[str, bytes], limits: Limits) -> None:
    sizes = sum(len(gzip.decompress(content)) for content in images.values())
    assert case_of(images, replace(limits, unpacked=sizes)).files.images.keys() == images.keys()
    with pytest.raises(UploadRefused):
        case_of(images, replace(limits, unpacked=sizes - 1))


@pytest.mark.parametrize("cut", [1, 4, 8, 100])
def test_damaged_gzip(images: dict[str, bytes], limits: Limits, cut: int) -> None:
    with pytest.raises(UploadRefused) as caught:
        case_of({"t1": images["t1"][:-cut]}, limits)
    assert status(caught) == 422


def test_a_wrong_checksum(images: dict[str, bytes], limits: Limits) -> None:
    content = bytearray(images["t1"])
    content[-6] ^= 1
    with pytest.raises(UploadRefused):
        case_of({"t1": bytes(content)}, limits)


def test_no_nifti(limits: Limits) -> None:
    for wrong in (b"hello", gzip.compress(b"hello"), b"", gzip.compress(gzip.compress(bytes(400)))):
        with pytest.raises(DataRefused):
            case_of({"t1": wrong}, limits)


def test_more_voxels_than_allowed(limits: Limits) -> None:
    image = nibabel.Nifti1Image(np.zeros((50, 50, 41), np.uint8), np.eye(4)).to_bytes()
    with pytest.raises(UploadRefused) as caught:
        case_of({"t1": image}, limits)
    assert status(caught) == 413


@pytest.mark.parametrize(
    "name", ["../x_t1.nii", "a/../../x_t1.nii", "/x_t1.nii", "..\\x_t1.nii", "C:\\x_t1.nii", "C:x_t1.nii"]
)
def test_names_that_leave_the_archive(name: str, limits: Limits) -> None:
    with pytest.raises(UploadRefused, match="leaves the archive") as caught:
        images_in_zip(zipped({name: b"x"}), limits)
    assert status(caught) == 400


def test_links_passwords_and_other_compressions(limits: Limits) -> None:
    link = zipfile.ZipInfo("x_t1.nii")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UploadRefused, match="link"):
        images_in_zip(body.getvalue(), limits)
    with pytest.raises(UploadRefused, match="compression"):
        images_in_zip(zipped({"x_t1.nii": b"x" * 50}, zipfile.ZIP_BZIP2), limits)
    locked = bytearray(zipped({"x_t1.nii": b"x" * 50}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UploadRefused, match="encrypted"):
        images_in_zip(bytes(locked), limits)


def test_zip_bombs(limits: Limits) -> None:
    """One large file, many that are large together, and one that lies about its size."""
    half = bytes(limits.unpacked // 2 + 1)
    for files in ({"x_t1.nii": bytes(100 * 2**20)}, {"x_t1.nii": half, "x_t2.nii": half}):
        with pytest.raises(UploadRefused) as caught:
            images_in_zip(zipped(files), limits)
        assert status(caught) == 413
    lying = bytearray(zipped({"x_t1.nii": bytes(100 * 2**20)}))
    at = lying.index(b"PK\x01\x02") + 24
    lying[at : at + 4] = struct.pack("<I", 10)
    with pytest.raises(UploadRefused):
        images_in_zip(bytes(lying), limits)


def test_a_directory_that_is_too_long_is_not_read(limits: Limits) -> None:
    many = zipped({f"{number}.txt": b"" for number in range(257)})
    with pytest.raises(UploadRefused) as caught:
        images_in_zip(many, limits)
    assert status(caught) == 413
    with pytest.raises(UploadRefused, match="too long a list"):
        images_in_zip(zipped({f"{number:0200}.txt": b"" for number in range(400)}), limits)


def test_no_zip(limits: Limits, images: dict[str, bytes]) -> None:
    good = zipped({"x_t1.nii.gz": images["t1"]})
    assert images_in_zip(good, limits) == {"t1": images["t1"]}
    damaged = bytearray(good)
    damaged[60] ^= 255
    for wrong in (b"", b"hello", good[:-1], good + b"x", good[10:], bytes(damaged)):
        with pytest.raises(UploadRefused) as caught:
            case_of(images_in_zip(wrong, limits), limits)
        assert status(caught) in (400, 422)


def test_one_case_only(limits: Limits) -> None:
    for files in (
        {"a_t1.nii": b"x", "b_t2.nii": b"x"},
        {"a/x_t1.nii": b"x", "b/x_t1.nii": b"x"},
        {"a/x_t1.nii": b"x", "b/x_t2.nii": b"x"},
        {"x_t1.nii": b"x", "x-t1n.nii": b"x"},
        {"x_seg.nii": b"x"},
        {"__MACOSX/._x_t1.nii": b"x"},
        {},
    ):
        with pytest.raises(UploadRefused) as caught:
            images_in_zip(zipped(files), limits)
        assert status(caught) == 422
