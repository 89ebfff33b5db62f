"""One image file: whatever its kind and size, the same grid and comparable intensities, or a refusal."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wardround.core.errors import DataRefused
from wardround.data.pictures import Grid, normalise, pad, planes, read_picture, shrink, write_picture

GRID = Grid(16)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(20, 250, shape).astype(np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_area_means(h: int, w: int, size: int) -> None:
    """Scaling a constant keeps it; whole factors are block means; the longer side fills the size."""
    assert max(shrink(np.ones((h, w), np.float32), size).shape) == size
    np.testing.assert_allclose(shrink(np.full((h, w), 7, np.float32), size), 7, rtol=1e-5)
    image = np.random.default_rng(h).uniform(size=(4 * size, 4 * size)).astype(np.float32)
    blocks = image.reshape(size, 4, size, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(shrink(image, size), blocks, rtol=1e-4)


def test_padding_keeps_the_aspect() -> None:
    image = np.arange(8 * 16, dtype=np.float32).reshape(8, 16) + 7
    wide = pad(image, 16)
    np.testing.assert_array_equal(wide[4:12], image)
    assert set(np.unique(wide[[0, 1, 2, 3, 12, 13, 14, 15]])) == {7}
    assert pad(np.ones((3, 5, 4), np.float32), 5).shape == (3, 5, 5)


def test_normalised_whatever_the_scale() -> None:
    raw = np.zeros((20, 20), np.float32)
    raw[4:16, 4:16] = np.random.default_rng(0).normal(500, 50, (12, 12))
    one = normalise(raw)
    inside = one[4:16, 4:16]
    assert abs(inside.mean()) < 0.05
    assert 0.9 < inside.std() < 1.1
    assert np.abs(one).max() <= 5
    np.testing.assert_allclose(normalise(3 * raw + 11), one, atol=1e-3)
    assert not normalise(np.full((9, 9), 3, np.float32)).any()
    assert np.unique(normalise(np.pad(np.ones((8, 8), np.float32), 4))).size == 2


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "L"), ("a.PNG", "RGB"), ("a.png", "RGBA"), ("a.png", "LA"), ("a.png", "P")]
)
def test_every_mode_is_the_same_picture(tmp_path: Path, name: str, mode: str) -> None:
    grey = Image.fromarray(noise(16, 16))
    (
        grey.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
        if mode == "P"
        else grey.convert(mode)
    ).save(tmp_path / name)
    np.testing.assert_allclose(
        read_picture("c", tmp_path / name, GRID), normalise(noise(16, 16).astype(np.float32)), atol=1e-4
    )


def test_16_bits_survive(tmp_path: Path) -> None:
    raw = (noise(16, 16).astype(np.uint16) << 8) + 3
    write_picture(tmp_path / "deep" / "a.png", raw)
    np.testing.assert_allclose(
        read_picture("c", tmp_path / "deep" / "a.png", GRID), normalise(raw.astype(np.float32)), atol=1e-4
    )


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    found = read_picture("c", tmp_path / "a.jpg", GRID)
    assert np.abs(found - normalise(shrink(smooth.astype(np.float32), 16))).max() < 0.1


def volume(path: Path, data: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 3.0, 1.0])), path)


def test_the_middle_plane_and_the_slab(tmp_path: Path) -> None:
    data = np.random.default_rng(1).uniform(1, 9, (16, 16, 21)).astype(np.float32)
    volume(tmp_path / "a.nii.gz", data)
    np.testing.assert_allclose(read_picture("c", tmp_path / "a.nii.gz", GRID), normalise(data[:, :, 10]), atol=1e-4)
    slab = Grid(16, depth=3, span=0.5)
    assert slab.shape == (3, 16, 16)
    np.testing.assert_array_equal(planes(data, slab), np.moveaxis(data[:, :, [5, 10, 15]], 2, 0))
    assert read_picture("c", tmp_path / "a.nii.gz", slab).shape == (3, 16, 16)
    assert planes(data[:, :, :9], Grid(16, 20, 1.0)).shape == (20, 16, 16)


def test_refused(tmp_path: Path) -> None:
    def refused(name: str, message: str, grid: Grid = GRID) -> None:
        with pytest.raises(DataRefused, match=message) as refusal:
            read_picture("c", tmp_path / name, grid)
        assert str(refusal.value).startswith(f"case 'c', file {name}")

    Image.fromarray(noise(16, 16)).save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "short.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(noise(16, 16)).save(tmp_path / "gif.png", format="GIF")
    Image.fromarray(noise(16, 4)).save(tmp_path / "thin.png")
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path / "flat.png")
    Image.new("CMYK", (16, 16), (9, 8, 7, 6)).save(tmp_path / "cmyk.jpg")
    volume(tmp_path / "nan.nii", np.where(np.arange(16) == 7, np.nan, np.ones((16, 16, 16))).astype(np.float32))
    refused("short.png", "not readable|Truncated|truncated")
    refused("text.png", "not readable")
    refused("empty.jpg", "not readable")
    refused("gif.png", "not readable")
    refused("gone.png", "No such file")
    refused("thin.png", "4 x 16 pixels")
    refused("flat.png", "constant")
    refused("cmyk.jpg", "CMYK")
    refused("nan.nii", "not finite")
    refused("good.png", "slab of 3 planes", Grid(16, 3))
    (tmp_path / "a.dcm").write_bytes(content)
    refused("a.dcm", "another kind")
