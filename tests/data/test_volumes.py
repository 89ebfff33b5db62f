"""From files to arrays and back: orientation, labels, normalisation, masks in the geometry of a reference."""

from __future__ import annotations

import stat
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.cases import find_cases
from wardround.data.conventions import DEFAULT, kind_of_site
from wardround.data.labels import label_values, unify
from wardround.data.normalise import foreground, normalise
from wardround.data.volumes import read_case, read_images, write_mask

REAL = Path(__file__).parents[3] / "shared" / "data"
SHAPE = (10, 12, 14)
AFFINE = np.array([[1.0, 0, 0, -5], [0, 1.5, 0, -9], [0, 0, 2.0, -14], [0, 0, 0, 1]])


def brain(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """A textured box in a background of exact zeros (84 % of the volume)."""
    image = np.zeros(shape, np.float32)
    image[2:8, 3:9, 4:10] = np.random.default_rng(seed).uniform(100, 900, (6, 6, 6))
    return image


def mask(*values: int) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    for k, value in enumerate(values):
        labels[3 + k, 4, 5:8] = value
    return labels


def store(root: Path, name: str, data: NDArray, affine: NDArray = AFFINE, axes: str = "RAS") -> Path:
    """Save RAS data with its axes stored in another order; the voxels stay where they are in space."""
    image = nibabel.Nifti1Image(data, affine)
    to = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
    )
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(to), root / name)
    return root / name


def test_images_of_any_orientation_become_the_same_volume(tmp_path: Path) -> None:
    for case, axes in (("a", "RAS"), ("b", "LAS"), ("c", "LPS"), ("d", "SRP"), ("e", "IAL")):
        store(tmp_path, f"{case}/{case}_t1.nii.gz", brain(), axes=axes)
        store(tmp_path, f"{case}/{case}_seg.nii.gz", mask(1, 2, 4), axes="RAS")
    for files in find_cases(tmp_path):
        volume = read_case(files, "brats")
        np.testing.assert_array_equal(volume.image[0], normalise(brain()))
        np.testing.assert_array_equal(volume.labels, mask(1, 2, 3))
        np.testing.assert_allclose(volume.affine, AFFINE)
        assert volume.spacing_mm == (1.0, 1.5, 2.0)
        assert volume.image.dtype == np.float32
        assert volume.labels is not None
        assert volume.labels.dtype == np.uint8


def test_missing_modalities_are_zeros(tmp_path: Path) -> None:
    store(tmp_path, "a/a_t1ce.nii", brain())
    volume = read_images(find_cases(tmp_path, require_seg=False)[0])
    assert volume.present.tolist() == [False, True, False, False]
    assert [bool(channel.any()) for channel in volume.image] == [False, True, False, False]
    assert volume.labels is None


def test_decathlon_channels_and_labels(tmp_path: Path) -> None:
    channels = [brain(seed) for seed in range(4)]
    store(tmp_path, "imagesTr/a.nii.gz", np.stack(channels, -1), axes="LAS")
    store(tmp_path, "labelsTr/a.nii.gz", mask(1, 2, 3), axes="LAS")
    volume = read_case(find_cases(tmp_path)[0], "brats")
    for position, channel in ((0, 1), (1, 2), (2, 3), (3, 0)):
        np.testing.assert_array_equal(volume.image[position], normalise(channels[channel]))
    np.testing.assert_array_equal(volume.labels, mask(2, 1, 3))


def test_trailing_axes_of_length_one_scaled_integers_and_nifti_2_are_read(tmp_path: Path) -> None:
    whole = np.rint(brain())
    store(tmp_path, "a/a_t1.nii.gz", whole[..., None])
    scaled = nibabel.Nifti1Image(whole.astype(np.int16), AFFINE)
    scaled.header.set_slope_inter(0.5, 0)
    nibabel.save(scaled, tmp_path / "a/a_t2.nii.gz")
    nibabel.save(nibabel.Nifti2Image(whole.astype(np.uint16), AFFINE), tmp_path / "a/a_flair.nii")
    store(tmp_path, "a/a_seg.nii.gz", mask(1).astype(np.float32))
    volume = read_case(find_cases(tmp_path)[0], "whole_tumour")
    for position in (2, 3):
        np.testing.assert_allclose(volume.image[position], volume.image[0], atol=1e-5)
    np.testing.assert_array_equal(volume.labels, mask(1))


def test_oblique_images_keep_their_voxels(tmp_path: Path) -> None:
    turn = np.deg2rad(20)
    affine = AFFINE.copy()
    affine[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ AFFINE[:2, :2]
    store(tmp_path, "a/a_t1.nii.gz", brain(), affine)
    volume = read_images(find_cases(tmp_path, require_seg=False)[0])
    np.testing.assert_array_equal(volume.image[0], normalise(brain()))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, (1.0, 1.5, 2.0), atol=1e-6)


def test_a_shift_below_the_tolerance_is_the_same_grid(tmp_path: Path) -> None:
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.04
    far[0, 3] += 0.06
    store(tmp_path, "a/a_t1.nii.gz", brain())
    store(tmp_path, "a/a_t2.nii.gz", brain(), near)
    store(tmp_path, "b/b_t1.nii.gz", brain())
    store(tmp_path, "b/b_t2.nii.gz", brain(), far)
    a, b = find_cases(tmp_path, require_seg=False)
    assert read_images(a).present.sum() == 2
    with pytest.raises(DataRefused, match=r"b_t2.nii.gz(.|\n)*0.06 mm"):
        read_images(b)


@pytest.mark.parametrize(
    ("raw", "unified"), [([0, 1, 2, 4], [0, 1, 2, 3]), ([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 0], [0, 0]), ([0, 4], [0, 3])]
)
def test_label_values(raw: list[int], unified: list[int]) -> None:
    for dtype in (np.uint8, np.int16, np.int64, np.float32, np.float64):
        labels, stored = unify("a", "f", np.array(raw, dtype))
        assert labels.tolist() == unified
        assert stored == set(raw)
    assert label_values(np.array(unified, np.uint8)) == set(unified)


def test_label_kind() -> None:
    for masks, kind in (
        ([{0, 1}, {0}], "whole_tumour"),
        ([{0}, {0}], "whole_tumour"),
        ([{0, 1}, {0, 1, 2, 3}], "brats"),
    ):
        assert kind_of_site([(DEFAULT, frozenset(values)) for values in masks]) == kind


def test_a_mask_of_sub_regions_is_no_whole_tumour_mask_but_an_empty_one_is_either(tmp_path: Path) -> None:
    store(tmp_path, "a/a_t1.nii.gz", brain())
    store(tmp_path, "a/a_seg.nii.gz", mask(1, 2))
    store(tmp_path, "b/b_t1.nii.gz", brain())
    store(tmp_path, "b/b_seg.nii.gz", mask())
    a, b = find_cases(tmp_path)
    with pytest.raises(DataRefused, match="whole_tumour"):
        read_case(a, "whole_tumour")
    for kind in ("brats", "whole_tumour"):
        volume = read_case(b, kind)
        assert volume.labels is not None
        assert not volume.labels.any()


def test_normalised_brain_has_mean_zero_deviation_one() -> None:
    raw = brain()
    result = normalise(raw)
    inside = raw != 0
    np.testing.assert_array_equal(foreground(raw), inside)
    assert abs(float(result[inside].mean())) < 1e-6
    assert abs(float(result[inside].std()) - 1) < 1e-5
    assert not result[~inside].any()


def test_normalise_by_hand() -> None:
    """Half of the brain at 10, half at 30: z-scores -1 and 1."""
    raw = np.zeros(SHAPE, np.float32)
    raw[2:5, 3:9, 4:10] = 10
    raw[5:8, 3:9, 4:10] = 30
    result = normalise(raw)
    assert set(np.unique(result)) == {-1.0, 0.0, 1.0}
    assert float(result[2, 3, 4]) == -1.0


@pytest.mark.parametrize("scale", [0.25, 1024.0, 3.7, 1e-3])
@pytest.mark.parametrize("air", [0.0, 20.0])
def test_normalise_does_not_see_the_scale(scale: float, air: float) -> None:
    raw = brain() + np.random.default_rng(1).uniform(0, 1, SHAPE).astype(np.float32) * air
    np.testing.assert_allclose(normalise(raw * np.float32(scale)), normalise(raw), atol=2e-5)


def test_an_outlier_is_clipped() -> None:
    raw = brain(shape=(30, 30, 30))
    raw[1:29, 1:29, 1:29] = np.random.default_rng(0).normal(500, 20, (28, 28, 28))
    raw[15, 15, 15] = 1e9
    result = normalise(raw)
    assert float(result.max()) < 5
    assert abs(float(np.median(result[1:29, 1:29, 1:29]))) < 0.1
    spikes = np.zeros((30, 30, 30), np.float32)
    spikes[1:29, 1:29, 1:29] = 100
    spikes[5:7, 5:29, 5:9] = 5000
    assert float(normalise(spikes).max()) == 5.0


@pytest.mark.parametrize("level", [0.0, 5.0, 77.0])
def test_head_in_noisy_air_is_found_and_its_dark_hole_filled(level: float) -> None:
    """Air of any brightness (as in inverted images), partly zero or not; a cyst as dark as air stays inside."""
    rng = np.random.default_rng(0)
    raw = np.full((32, 32, 20), level, np.float32) + rng.integers(0, 3, (32, 32, 20)).astype(np.float32)
    head = np.zeros(raw.shape, bool)
    head[8:24, 6:26, 2:18] = True
    raw[head] = rng.normal(300, 30, int(head.sum()))
    raw[14:18, 12:18, 8:12] = level
    np.testing.assert_array_equal(foreground(raw), head)
    result = normalise(raw)
    assert float(result[15, 14, 9]) < -2
    assert not result[~head].any()


def test_constant_foreground_is_all_zeros() -> None:
    assert not normalise(np.zeros(SHAPE, np.float32)).any()
    assert not normalise((brain() > 0).astype(np.float32)).any()
    assert not normalise(np.full(SHAPE, 7, np.float32)).any()


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "SRP", "IAL", "PSR"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_write_mask_round_trip(tmp_path: Path, axes: str, suffix: str) -> None:
    reference = store(tmp_path, f"a/a_t1{suffix}", brain(), axes=axes)
    write_mask(tmp_path / f"a/a_seg{suffix}", mask(1, 2, 3), reference)
    written, image = nibabel.load(tmp_path / f"a/a_seg{suffix}"), nibabel.load(reference)
    assert nibabel.aff2axcodes(written.affine) == tuple(axes)
    np.testing.assert_array_equal(written.affine, image.affine)
    assert written.shape == image.shape
    assert written.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(written.dataobj))) == {0, 1, 2, 4}
    # The voxels at the same place in space: by nibabel alone, without our reader.
    back = nibabel.as_closest_canonical(written)
    np.testing.assert_array_equal(np.asarray(back.dataobj), mask(1, 2, 4))
    np.testing.assert_array_equal(read_case(find_cases(tmp_path)[0], "brats").labels, mask(1, 2, 3))


def test_write_mask_options(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.stack([brain(), brain(1)], -1), AFFINE)
    image.header["descrip"] = b"a name that must not travel"
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=4)
    nibabel.save(image, tmp_path / "reference.nii.gz")
    path = tmp_path / "new" / "mask.nii.gz"
    write_mask(path, mask(1, 2, 3), tmp_path / "reference.nii.gz", enhancing_label=3)
    written = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask(1, 2, 3))
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 4)
    assert b"name" not in written.header["descrip"].tobytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["mask.nii.gz"]


def test_a_notice_stands_in_the_header(tmp_path: Path) -> None:
    reference, path = store(tmp_path, "a_t1.nii.gz", brain()), tmp_path / "mask.nii.gz"
    write_mask(path, mask(1), reference, notice="not for use")
    assert nibabel.load(path).header["descrip"].item() == b"not for use"
    write_mask(path, mask(1), reference)
    assert nibabel.load(path).header["descrip"].item() == b""
    for wrong in ("x" * 80, "für niemanden"):
        with pytest.raises(ConfigRefused, match="at most 79, all ASCII"):
            write_mask(path, mask(1), reference, notice=wrong)


def test_write_mask_refusals(tmp_path: Path) -> None:
    reference = store(tmp_path, "a_t1.nii.gz", brain())
    out = tmp_path / "mask.nii.gz"
    wrong = [mask(1).astype(np.int16), mask(1)[:0], mask(4), mask(1)[:-1], mask(1)[..., None]]
    for labels in wrong:
        with pytest.raises(DataRefused, match=r"a_t1\.nii\.gz"):
            write_mask(out, labels, reference)  # type: ignore[arg-type]
    with pytest.raises(ConfigRefused, match="enhancing_label 5"):
        write_mask(out, mask(1), reference, enhancing_label=5)
    with pytest.raises(ConfigRefused, match=r"mask\.png"):
        write_mask(tmp_path / "mask.png", mask(1), reference)
    with pytest.raises(DataRefused, match=r"absent\.nii"):
        write_mask(out, mask(1), tmp_path / "absent.nii")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigRefused, match="cannot be written"):
        write_mask(tmp_path / "file" / "mask.nii", mask(1), reference)
    assert not out.exists()


@pytest.mark.parametrize(
    ("folder", "kind", "codes"),
    [("tcga_glioma_brats4mod/half_2mm", "brats", "LPS"), ("ms_lesion_ljubljana/half_2mm", "whole_tumour", "LAS")],
)
def test_real_cases(tmp_path: Path, folder: str, kind: str, codes: str) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip("the real data is not beside the repository")
    for files in find_cases(REAL / folder):
        volume = read_case(files, kind)
        assert files.seg is not None
        assert volume.labels is not None
        assert volume.spacing_mm == (2.0, 2.0, 2.0)
        assert volume.present.all()
        assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
        stored = nibabel.load(files.seg)
        assert "".join(nibabel.aff2axcodes(stored.affine)) == codes
        write_mask(tmp_path / "again.nii.gz", volume.labels, files.seg)
        again = nibabel.load(tmp_path / "again.nii.gz")
        np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(stored.dataobj))
        np.testing.assert_array_equal(again.affine, stored.affine)


def test_real_heads_in_air_do_not_fill_the_volume() -> None:
    """Not skull-stripped, yet in 97 of 263 images over 20 % are exact zeros: what is not 0 is not the head."""
    lgg = REAL / "lgg_tcga_multisite_nc" / "px64"
    if not lgg.is_dir():
        pytest.skip("the real data is not beside the repository")
    for files in find_cases(lgg)[::12]:
        volume = read_case(files, "whole_tumour")
        assert volume.labels is not None
        for channel in volume.image[volume.present]:
            assert 0.1 < np.count_nonzero(channel) / channel.size < 0.85
            assert np.count_nonzero(channel[volume.labels > 0]) > 0.6 * volume.labels.sum()
