"""The cohort: decoded once, complete or absent, rebuilt when the files or the entry change."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused, DiskRefused
from wardround.data import entries
from wardround.data.cache import Cohort, open_cohort
from wardround.data.cases import find_cases
from wardround.data.entries import tumour_voxels
from wardround.data.site_config import SiteConfig
from wardround.data.volumes import read_case

REAL = Path(__file__).parents[3] / "shared" / "data"
SHAPE = (9, 10, 11)


def write_case(root: Path, case: str, seed: int, labels: tuple[int, ...] = (1, 2, 4), t2: bool = True) -> None:
    rng = np.random.default_rng(seed)
    (root / case).mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, 1.5, 2.0, 1.0])
    for role in ("t1", "t2") if t2 else ("t1",):
        image = np.zeros(SHAPE, np.float32)
        image[2:7, 2:8, 2:9] = rng.uniform(10, 1000, (5, 6, 7))
        nibabel.save(nibabel.Nifti1Image(image, affine), root / case / f"{case}_{role}.nii.gz")
    mask = np.zeros(SHAPE, np.uint8)
    for k, value in enumerate(labels):
        mask[3 + k, 3, 3:6] = value
    nibabel.save(nibabel.Nifti1Image(mask, affine), root / case / f"{case}_seg.nii.gz")


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    write_case(tmp_path / "data", "a1", 1)
    write_case(tmp_path / "data", "a2", 2, t2=False)
    write_case(tmp_path / "data", "b1", 3, labels=())
    return SiteConfig(tmp_path / "data", patient_pattern="^(.)")


def folders(cache: Path) -> dict[str, int]:
    return {path.name: (path / "image.npy").stat().st_mtime_ns for path in (cache / "cases").iterdir()}


def only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, decoding a case is an error."""

    def decoded(*_: object) -> None:
        raise RuntimeError("a case was decoded again")

    monkeypatch.setattr(entries, "read_any_kind", decoded)


def test_cohort(site: SiteConfig, tmp_path: Path) -> None:
    cohort = open_cohort(site, tmp_path / "cache")
    assert cohort.cases == ("a1", "a2", "b1")
    assert cohort.patients == {"a1": "a", "a2": "a", "b1": "b"}
    assert cohort.label_kind == "brats"
    assert cohort.modalities == {"t1": 3, "t1ce": 0, "t2": 2, "flair": 0}
    for files in find_cases(site.data):
        direct, cached = read_case(files, "brats"), cohort.load(files.case)
        assert direct.labels is not None
        assert np.abs(cached.image.astype(np.float32) - direct.image).max() <= 2.0**-9  # half a step of float16 in 2..4
        np.testing.assert_array_equal(cached.labels, direct.labels)
        np.testing.assert_array_equal(cached.affine, direct.affine)
        np.testing.assert_array_equal(cached.present, direct.present)
        assert cached.spacing_mm == direct.spacing_mm
        assert isinstance(cached.image, np.memmap)
        assert not cached.image.flags.writeable
        np.testing.assert_array_equal(cohort.foreground(files.case), np.argwhere(direct.labels))
        assert cohort.foreground(files.case).dtype == np.int32


def test_a_cohort_travels_to_worker_processes(site: SiteConfig, tmp_path: Path) -> None:
    cohort = open_cohort(site, tmp_path / "cache")
    again: Cohort = pickle.loads(pickle.dumps(cohort))  # noqa: S301
    assert again == cohort


def test_the_second_opening_decodes_nothing(site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first = open_cohort(site, tmp_path / "cache", said.append)
    assert said
    assert "3 of 3" in said[-1]
    only_reads(monkeypatch)
    said.clear()
    assert open_cohort(site, tmp_path / "cache", said.append) == first
    assert said == []


def test_a_cached_cohort_needs_neither_nibabel_nor_torch(site: SiteConfig, tmp_path: Path) -> None:
    open_cohort(site, tmp_path / "cache")
    program = (
        "import sys; from pathlib import Path\n"
        "for name in ('nibabel', 'torch', 'monai', 'scipy', 'nvflare'): sys.modules[name] = None\n"
        "from wardround.data.cache import open_cohort; from wardround.data.site_config import SiteConfig\n"
        "cohort = open_cohort(SiteConfig(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(len(cohort.cases), cohort.load('a1').image.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(site.data), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "3 (4, 9, 10, 11)"


def test_a_changed_file_is_decoded_again_and_its_old_version_removed(site: SiteConfig, tmp_path: Path) -> None:
    open_cohort(site, tmp_path / "cache")
    before = folders(tmp_path / "cache")
    write_case(site.data, "a1", 99)
    os.utime(site.data / "a1" / "a1_t1.nii.gz", ns=(1, 1))
    cohort = open_cohort(site, tmp_path / "cache")
    after = folders(tmp_path / "cache")
    assert len(before) == len(after) == 3
    assert len(before.items() & after.items()) == 2
    (files,) = find_cases(site.data, ["a1"])
    np.testing.assert_array_equal(cohort.load("a1").image, read_case(files, "brats").image.astype(np.float16))


@pytest.mark.parametrize("name", ["image.npy", "labels.npy", "foreground.npy", "meta.json"])
@pytest.mark.parametrize("how", ["gone", "empty", "shorter", "longer", "other header"])
def test_a_damaged_entry_is_rebuilt(site: SiteConfig, tmp_path: Path, name: str, how: str) -> None:
    cohort = open_cohort(site, tmp_path / "cache")
    good = {case: np.array(cohort.load(case).image) for case in cohort.cases}
    for case in cohort.cases:
        path = cohort.entries[case].folder / name
        content = path.read_bytes()
        path.unlink()
        if how != "gone":
            changes = {
                "empty": b"",
                "shorter": content[:-1],
                "longer": content + b"x",
                "other header": b"\x00" + content[1:],
            }
            path.write_bytes(changes[how])
    again = open_cohort(site, tmp_path / "cache")
    for case in cohort.cases:
        np.testing.assert_array_equal(again.load(case).image, good[case])
        np.testing.assert_array_equal(again.foreground(case), np.argwhere(again.load(case).labels))
    assert len(folders(tmp_path / "cache")) == 3


def test_a_crash_leaves_nothing_that_is_used(site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(entries.json, "dump", killed)
        with pytest.raises(KeyboardInterrupt):
            open_cohort(site, tmp_path / "cache")
    assert folders(tmp_path / "cache") == {}
    assert open_cohort(site, tmp_path / "cache").load("a1").image.any()


def test_what_a_killed_process_left_is_swept_after_a_day(site: SiteConfig, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "cases"
    for name in (".new-old", ".new-young"):
        (root / name).mkdir(parents=True)
        (root / name / "image.npy").touch()
    os.utime(root / ".new-old", (1, 1))
    open_cohort(site, tmp_path / "cache")
    assert not (root / ".new-old").exists()
    assert (root / ".new-young").exists()


def build(data: Path, cache: Path, gate: object, answers: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    cohort = open_cohort(SiteConfig(data), cache)
    answers.put(sum(float(np.abs(cohort.load(case).image).sum(dtype=np.float64)) for case in cohort.cases))  # type: ignore[attr-defined]


def test_processes_may_build_at_once(site: SiteConfig, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(3), context.Queue()
    workers = [context.Process(target=build, args=(site.data, tmp_path / "cache", gate, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(sums) == 1
    assert len(folders(tmp_path / "cache")) == 3


def test_the_cache_is_private(site: SiteConfig, tmp_path: Path) -> None:
    open_cohort(site, tmp_path / "new" / "cache")
    assert stat.S_IMODE((tmp_path / "new" / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "cache" / "cases").stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    (shared / "cases").mkdir(parents=True)
    shared.chmod(0o755)
    (shared / "cases").chmod(0o755)
    open_cohort(site, shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / "cases").stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written_is_refused(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigRefused, match="cache folder"):
        open_cohort(site, tmp_path / "file" / "cache")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(entries.os, "fsync", full)
    with pytest.raises(DiskRefused, match="No space left"):
        open_cohort(site, tmp_path / "cache")
    assert folders(tmp_path / "cache") == {}


def test_all_damaged_cases_come_in_one_refusal_and_the_sound_ones_are_kept(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.data / "a1" / "a1_t1.nii.gz").write_bytes(b"")
    write_case(site.data, "b1", 3, labels=(9,))
    with pytest.raises(DataRefused, match="2 cases") as refusal:
        open_cohort(site, tmp_path / "cache")
    text = str(refusal.value)
    assert all(
        word in text for word in ("'a1', file a1_t1.nii.gz", "an empty file", "'b1', file b1_seg.nii.gz", "{0, 9}")
    )
    only_reads(monkeypatch)
    good = SiteConfig(site.data, cases=("a2",))
    assert open_cohort(good, tmp_path / "cache").cases == ("a2",)


def test_label_kinds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_case(data, "a", 1, labels=(1,))
    write_case(data, "b", 2, labels=())
    assert open_cohort(SiteConfig(data), tmp_path / "cache").label_kind == "whole_tumour"
    assert open_cohort(SiteConfig(data, labels="brats"), tmp_path / "cache").label_kind == "brats"
    write_case(data, "c", 3, labels=(1, 2, 3))
    assert open_cohort(SiteConfig(data), tmp_path / "cache").label_kind == "brats"
    with pytest.raises(DataRefused, match=r"'c', file c_seg.nii.gz(.|\n)*whole_tumour"):
        open_cohort(SiteConfig(data, labels="whole_tumour"), tmp_path / "cache")


def test_an_entry_that_is_removed_while_a_job_runs(site: SiteConfig, tmp_path: Path) -> None:
    cohort = open_cohort(site, tmp_path / "cache")
    volume = cohort.load("a1")
    shutil.rmtree(cohort.entries["a1"].folder)
    assert volume.image.any()
    for read in (cohort.load, cohort.foreground):
        with pytest.raises(DataRefused, match="'a1'"):
            read("a1")
    with pytest.raises(KeyError):
        cohort.load("zz")


def test_foreground_is_a_fixed_draw_of_all_tumour_voxels() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:35, 5:35, 5:35] = 2
    voxels = tumour_voxels("a", labels)
    assert voxels.shape == (4096, 3)
    assert len(np.unique(voxels, axis=0)) == 4096
    assert labels[tuple(voxels.T)].all()
    np.testing.assert_array_equal(voxels, tumour_voxels("a", labels))
    assert not np.array_equal(voxels, tumour_voxels("b", labels))
    # The mean of n draws from 30 positions, sigma 8.66 each: within 5 standard errors of the middle.
    assert np.abs(voxels.mean(0) - 19.5).max() < 5 * 8.66 / 64
    assert tumour_voxels("a", np.zeros((8, 8, 8), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    ("folder", "count", "kind"),
    [
        ("tcga_glioma_brats4mod/half_2mm", 2, "brats"),
        ("ms_lesion_ljubljana/half_2mm", 2, "whole_tumour"),
        ("lgg_tcga_multisite_nc/px64", 93, "whole_tumour"),
    ],
)
def test_real_cohorts(tmp_path: Path, folder: str, count: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip("the real data is not beside the repository")
    cohort = open_cohort(SiteConfig(REAL / folder), tmp_path / "cache")
    assert (len(cohort.cases), cohort.label_kind) == (count, kind)
    for case in cohort.cases[::10]:
        assert len(cohort.foreground(case)) > 0
    only_reads(monkeypatch)
    assert open_cohort(SiteConfig(REAL / folder), tmp_path / "cache") == cohort
