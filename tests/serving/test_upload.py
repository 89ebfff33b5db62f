import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.core.errors import DataRefused
from wardround.data.cases import find_cases
from wardround.data.volumes import read_images
from wardround.serving.limits import Limits, UploadRefused
from wardround.serving.upload import case_of


def status(caught: pytest.ExceptionInfo[UploadRefused]) -> int:
    return caught.value.status


def test_the_volume_is_that_of_the_folder(case: Path, images: dict[str, bytes], limits: Limits) -> None:
    (files,) = find_cases(case)
    expected = read_images(files)
    plain = {name: gzip.decompress(content) for name, content in images.items()}
    for found in (images, plain):
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
