"""Phantoms: real files whose volumes are known, hospitals that differ, cohorts that are whole or written again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import stream
from wardround.data.cases import find_cases
from wardround.synthetic.anatomy import Tumour, coordinates, semi_axes_mm, tumour_labels
from wardround.synthetic.hospitals import HOSPITALS, MOST_SITES, Hospital, hospital
from wardround.synthetic.phantom_ehr import kind_of
from wardround.synthetic.phantom_images import make_images
from wardround.synthetic.phantoms import MARKER, RECORD, make_labels, write_cohort

SMALL = (20, 20, 20)
NORTH, EAST, SOUTH, WEST = HOSPITALS


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 2.0, 3.0)])
def test_a_tumour_without_irregularity_is_a_ball_of_the_known_volume(spacing: tuple[float, float, float]) -> None:
    shape, radius = (40, 40, 40), 14.0
    ball = Tumour(centre_mm=(3.1, -2.7, 0.4), radius_mm=radius, irregularity=0.0)
    xyz = coordinates(shape, spacing)
    labels = tumour_labels(xyz, np.ones(shape, bool), ball, stream(0, "test"))
    volume = np.count_nonzero(labels) * np.prod(spacing)
    half_diagonal = float(np.linalg.norm(spacing)) / 2
    # the voxels with centres in the ball cover a ball smaller by half a diagonal, and lie in one larger by as much
    assert (radius - half_diagonal) ** 3 <= volume / (4 / 3 * np.pi) <= (radius + half_diagonal) ** 3
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    centroid = [float(axis[labels > 0].mean()) for axis in xyz]
    assert centroid == pytest.approx(ball.centre_mm, abs=0.15)


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("profile", HOSPITALS, ids=lambda p: p.name)
def test_regions_are_nested_and_inside_the_brain(profile: Hospital, index: int) -> None:
    tissue, labels = make_labels(profile, 7, (40, 40, 40), index)
    whole, core, necrosis = labels > 0, np.isin(labels, (1, 4)), labels == 1
    assert 0 < core.sum() < whole.sum() < (tissue > 0).sum() / 3
    assert tissue[whole].min() > 0
    assert whole[binary_dilation(core)].all()
    enhancing = (index + 1) % profile.quiet_every != 0
    assert (labels == 4).any() == enhancing
    if enhancing:
        assert core[binary_dilation(necrosis) & ~necrosis].all()
    else:
        assert np.array_equal(core, necrosis)


@pytest.mark.parametrize("profile", [NORTH, EAST, SOUTH], ids=lambda p: p.name)
def test_the_marker_reports_the_volumes_of_the_files(tmp_path: Path, profile: Hospital) -> None:
    folders = write_cohort(tmp_path / "c", profile, seed=3, shape=SMALL, patients=4)
    marker = json.loads((tmp_path / "c" / MARKER).read_text())
    assert "not patients" in marker["what"]
    assert list(marker["volumes_mm3"]) == [folder.name for folder in folders]
    for folder in folders:
        seg = nibabel.load(folder / f"{folder.name}_seg.nii.gz")
        t1 = np.asarray(nibabel.load(folder / f"{folder.name}_t1.nii.gz").dataobj)
        values, voxel = np.asarray(seg.dataobj), float(np.prod(seg.header.get_zooms()))
        regions = {"ET": values == 4, "TC": np.isin(values, (1, 4)), "WT": values > 0, "brain": t1 > 0}
        assert marker["volumes_mm3"][folder.name] == {name: mask.sum() * voxel for name, mask in regions.items()}
    assert marker["volumes_mm3"][folders[3].name]["ET"] == 0


def test_files_are_brats_files_with_geometry_and_a_background_of_zero(tmp_path: Path) -> None:
    folders = write_cohort(tmp_path / "west", WEST, seed=0, shape=(20, 22, 24), patients=1)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == [f"phantom-west-p000_{kind}.nii.gz" for kind in ("flair", "seg", "t1", "t1ce")]
    for name in names:
        image = nibabel.load(folders[0] / name)
        assert image.shape == (20, 22, 24)
        assert nibabel.aff2axcodes(image.affine) == tuple("LPS")
        assert image.header.get_zooms() == pytest.approx(WEST.spacing_mm)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert np.asarray(image.dataobj)[[0, -1], [0, -1], [0, -1]].tolist() == [0, 0]
    cases = find_cases(tmp_path / "west")
    assert [(c.case, c.patient, sorted(c.images)) for c in cases] == [
        ("phantom-west-p000", "phantom-west-p000", ["flair", "t1", "t1ce"])
    ]


def test_orientation_changes_the_file_but_not_the_world(tmp_path: Path) -> None:
    a = write_cohort(tmp_path / "a", NORTH, seed=0, shape=SMALL, patients=1)[0]
    b = write_cohort(tmp_path / "b", replace(NORTH, orientation="LPI"), seed=0, shape=SMALL, patients=1)[0]
    first, second = (nibabel.load(folder / f"{folder.name}_seg.nii.gz") for folder in (a, b))
    assert not np.array_equal(first.dataobj, second.dataobj)
    turned = nibabel.as_closest_canonical(second)
    assert np.array_equal(first.dataobj, turned.dataobj)
    assert np.allclose(first.affine, turned.affine)
    assert np.allclose(first.affine @ [9.5, 9.5, 9.5, 1], [0, 0, 0, 1])


def test_same_seed_same_bytes_and_a_larger_cohort_begins_with_the_smaller(tmp_path: Path) -> None:
    write_cohort(tmp_path / "a", SOUTH, seed=5, shape=SMALL, patients=2)
    write_cohort(tmp_path / "b", SOUTH, seed=5, shape=SMALL, patients=3)
    write_cohort(tmp_path / "c", SOUTH, seed=6, shape=SMALL, patients=2)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    del a[MARKER], b[MARKER], c[MARKER]
    assert b.pop(RECORD).startswith(a.pop(RECORD))
    assert all(b[name] == content for name, content in a.items())
    assert len(b) == len(a) * 3 / 2
    assert all(c[name] != content for name, content in a.items())


def test_a_finished_cohort_is_left_alone(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = write_cohort(tmp_path, NORTH, 0, SMALL, 2, progress=lambda done, count: seen.append((done, count)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_cohort(tmp_path, NORTH, 0, SMALL, 2, progress=lambda done, count: seen.append((done, count))) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert seen == [(1, 2), (2, 2)]


def test_an_interrupted_cohort_is_written_again(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "a", NORTH, 0, SMALL, 3, progress=stop)
    assert not (tmp_path / "a" / MARKER).exists()
    (tmp_path / "a" / "phantom-north-p001" / "phantom-north-p001_t1.nii.gz").write_bytes(b"half")
    write_cohort(tmp_path / "a", NORTH, 0, SMALL, 3)
    write_cohort(tmp_path / "b", NORTH, 0, SMALL, 3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("change", ["seed", "profile", "patients", "marker", "lost"])
def test_other_parameters_or_a_damaged_cohort_are_written_again(tmp_path: Path, change: str) -> None:
    write_cohort(tmp_path / "a", NORTH, 0, SMALL, 3)
    if change == "marker":
        (tmp_path / "a" / MARKER).write_text("{")
    if change == "lost":
        (tmp_path / "a" / "phantom-north-p002").rename(tmp_path / "elsewhere")
    profile = replace(NORTH, noise=0.2) if change == "profile" else NORTH
    arguments = (profile, int(change == "seed"), SMALL, 2 if change == "patients" else 3)
    write_cohort(tmp_path / "a", *arguments)
    write_cohort(tmp_path / "b", *arguments)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "BraTS-GLI-00005-100").mkdir()
    (tmp_path / "phantom-north-p000").mkdir()
    with pytest.raises(DataRefused, match="BraTS-GLI-00005-100"):
        write_cohort(tmp_path, NORTH, 0, SMALL, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BraTS-GLI-00005-100", "phantom-north-p000"]


@pytest.mark.parametrize(("shape", "patients"), [((40, 40, 8), 2), (SMALL, 0)])
def test_impossible_cohorts_are_refused(tmp_path: Path, shape: tuple[int, int, int], patients: int) -> None:
    with pytest.raises(ConfigRefused):
        write_cohort(tmp_path / "a", NORTH, 0, shape, patients)
    assert not (tmp_path / "a").exists()


def standardised(profile: Hospital, modality: str, tissue_wanted: int) -> float:
    """Return the mean z-score, over the brain, of one tissue in one modality, over three patients."""
    found = []
    for index in range(3):
        tissue, _ = make_labels(profile, 0, (40, 40, 40), index)
        image = make_images(profile, 0, index, tissue)[modality].astype(float)
        found.append((image[tissue == tissue_wanted].mean() - image[tissue > 0].mean()) / image[tissue > 0].std())
    return float(np.mean(found))


def test_contrasts_are_plausible_and_differ_between_hospitals_after_normalisation() -> None:
    csf, white, core, oedema, rim = 1, 3, 4, 5, 6
    for profile in HOSPITALS:
        assert standardised(profile, "flair", oedema) > 1
        assert standardised(profile, "t1", core) < -0.5
    assert standardised(NORTH, "t1ce", rim) > max(1.5, standardised(EAST, "t1ce", rim) + 0.5)
    assert standardised(NORTH, "flair", csf) < -1 < 1 < standardised(SOUTH, "flair", csf)
    assert standardised(NORTH, "t1", white) > 0.3 > -0.1 > standardised(WEST, "t1", white)


def test_a_gain_alone_changes_nothing_after_normalisation() -> None:
    loud = replace(NORTH, gain=(1800.0, 1800.0, 1800.0, 1800.0))
    for modality in ("t1", "flair"):
        assert standardised(loud, modality, 5) == pytest.approx(standardised(NORTH, modality, 5), abs=0.01)


def test_images_fill_the_brain_and_nothing_else() -> None:
    tissue, _ = make_labels(EAST, 1, SMALL, 0)
    for image in make_images(EAST, 1, 0, tissue).values():
        assert np.array_equal(image > 0, tissue > 0)
        assert image.dtype == np.int16


def test_sixty_four_different_hospitals_of_unequal_size() -> None:
    profiles = [hospital(index) for index in range(MOST_SITES)]
    assert profiles[:4] == list(HOSPITALS)
    assert profiles == [hospital(index) for index in range(MOST_SITES)]
    assert len({profile.name for profile in profiles}) == MOST_SITES
    assert len({profile.contrast for profile in profiles}) >= MOST_SITES - 4
    assert len({profile.patients for profile in profiles}) > 3
    assert [profile.missing for profile in HOSPITALS] == [(), (), (), ("t2",)]
    for index in (-1, MOST_SITES):
        with pytest.raises(ConfigRefused):
            hospital(index)


@pytest.mark.parametrize(
    "change",
    [
        {"missing": ("pd",)},
        {"missing": ("t1", "t1ce", "t2", "flair")},
        {"contrast": (("t1", "bone", 0.1),)},
        {"orientation": "RSA"},
        {"tumour_radius_mm": (9.0, 4.0)},
        {"patients": 0},
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigRefused):
        replace(NORTH, **change)  # type: ignore[arg-type]


def test_the_tumour_fits_into_small_volumes() -> None:
    for index in range(8):
        tissue, labels = make_labels(WEST, 0, (16, 16, 16), index)
        assert 0 < (labels > 0).sum() < (tissue > 0).sum() / 2
        assert semi_axes_mm((16, 16, 16), WEST.spacing_mm).max() < 32


def test_the_record_fits_the_tumour_in_part(tmp_path: Path) -> None:
    """CRP by kind has the means that synthetic/phantom_ehr.py says, within three standard errors."""
    write_cohort(tmp_path, WEST, 3, (32, 32, 32), 24)
    volumes = json.loads((tmp_path / MARKER).read_text())["volumes_mm3"]
    rows = {row["patient"]: row for row in csv.DictReader((tmp_path / RECORD).open())}
    assert set(rows) == set(volumes)
    kinds = {case: kind_of(volume) for case, volume in volumes.items()}
    assert {case for case, kind in kinds.items() if kind == 0} == {case for case in kinds if not volumes[case]["ET"]}
    for kind, mean in ((0, 33), (2, 57)):
        told = [float(row["crp [mg/l]"]) for case, row in rows.items() if kinds[case] == kind and row["crp [mg/l]"]]
        assert len(told) > 3
        assert abs(np.mean(told) - mean) < 3 * 14 / np.sqrt(len(told))


def test_kinds_of_tumours() -> None:
    assert [kind_of({"ET": et, "WT": wt}) for et, wt in ((0, 9e4), (0, 1e4), (1, 1e4), (9e4, 9e4))] == [0, 0, 1, 2]


def test_the_profile_as_it_stands_is_what_a_spread_of_one_gives() -> None:
    tissue, labels = make_labels(WEST, 3, SMALL, 0)
    again, same = make_labels(WEST.with_spread(1.0, 1.0, 0.0, 0.0), 3, SMALL, 0)
    assert np.array_equal(tissue, again)
    assert np.array_equal(labels, same)
    before = make_images(WEST, 3, 0, tissue)
    after = make_images(WEST.with_spread(1.0, 1.0, 0.0, 0.0), 3, 0, tissue)
    assert all(np.array_equal(before[modality], after[modality]) for modality in before)


def spread_of(profile: Hospital, modality: str, tissue_wanted: int) -> float:
    """Return the standard deviation over patients of one tissue's brightness relative to the brain's."""
    found = []
    for index in range(8):
        tissue, _ = make_labels(profile, 0, (24, 24, 24), index)
        image = make_images(profile, 0, index, tissue)[modality].astype(float)
        found.append(image[tissue == tissue_wanted].mean() / image[tissue > 0].mean())
    return float(np.std(found))


def test_patients_vary_as_much_as_the_profile_says() -> None:
    assert spread_of(NORTH.with_spread(3.0, 1.0, 0.0, 0.0), "t1", 3) > 2 * spread_of(NORTH, "t1", 3)


def test_hospitals_that_do_not_differ_have_one_contrast() -> None:
    alike = [profile.with_spread(1.0, 0.0, 0.0, 0.0) for profile in HOSPITALS]
    for profile in alike:
        assert np.array_equal(profile.table(), alike[0].table())
        assert set(profile.gamma) == {1.0}
    half = SOUTH.with_spread(1.0, 0.5, 0.0, 0.0)
    between = (alike[0].table() + SOUTH.table()) / 2
    assert half.table() == pytest.approx(between, abs=1e-6)


@pytest.mark.parametrize(
    "spread", [(-1, 1, 0, 0), (9, 1, 0, 0), (1, -0.1, 0, 0), (1, 1.1, 0, 0), (1, 1, 2, 0), (1, 1, 0, -1)]
)
def test_an_impossible_spread_is_refused(spread: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigRefused):
        NORTH.with_spread(*spread)
