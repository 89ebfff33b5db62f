"""Partition: every rule, the checks that all of them go through, the files, and the real hospitals of LGG-TCGA."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import stream
from wardround.data.cases import find_cases
from wardround.data.site_config import from_environment, read_site_config
from wardround.research.partition import METHODS, Options, partition
from wardround.research.partition_drawn import by_dirichlet, by_equal_parts, by_quantity, by_tumour_size, terciles
from wardround.research.partition_files import expand, require_split, write_sites
from wardround.research.partition_natural import by_column, by_datalist, by_fets_csv, by_pattern
from wardround.synthetic.hospitals import HOSPITALS
from wardround.synthetic.phantoms import write_cohort
from wardround.synthetic.scanner import Scanner, scanner, transform, tumour_volume_mm3

LGG = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "lgg_tcga_multisite_nc"
TWELVE = [f"p{i:02d}" for i in range(12)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(root, HOSPITALS[0], seed=0, shape=(16, 16, 16), patients=9)
    return root


def flat(sites: dict[str, tuple[str, ...]]) -> list[str]:
    return sorted(case for cases in sites.values() for case in cases)


# ---- sites that somebody wrote down


def test_by_column_gathers_sites_in_natural_order() -> None:
    rows = [
        {"id": "b", "h": "site-10"},
        {"id": "a", "h": "site-2"},
        {"id": "c", "h": "site-10"},
        {"id": "a", "h": "site-2"},
    ]
    assert list(by_column(rows, "h", "id").items()) == [("site-2", ("a",)), ("site-10", ("b", "c"))]


def test_by_column_refuses_missing_columns_rows_and_cells() -> None:
    with pytest.raises(ConfigRefused, match="hospital"):
        by_column([{"id": "a", "h": "x"}], "hospital", "id")
    with pytest.raises(ConfigRefused):
        by_column([], "h", "id")
    with pytest.raises(DataRefused, match="line 3"):
        by_column([{"id": "a", "h": "x"}, {"id": "b", "h": ""}], "h", "id")


def test_by_pattern_takes_group_one() -> None:
    sites = by_pattern(["TCGA_DU_1_1999", "TCGA_HT_1_2001", "TCGA_DU_2_1998"], r"^TCGA_(\w\w)_")
    assert sites == {"DU": ("TCGA_DU_1_1999", "TCGA_DU_2_1998"), "HT": ("TCGA_HT_1_2001",)}


@pytest.mark.parametrize("pattern", ["TCGA_(", "TCGA_DU"])
def test_by_pattern_refuses_a_bad_expression(pattern: str) -> None:
    with pytest.raises(ConfigRefused):
        by_pattern(["TCGA_DU_1"], pattern)


@pytest.mark.parametrize("pattern", ["^TCGA_(DU)_", "^TCGA_(DU)?"])
def test_by_pattern_refuses_cases_in_no_site(pattern: str) -> None:
    with pytest.raises(DataRefused, match="1 of 2 cases"):
        by_pattern(["TCGA_DU_1", "TCGA_HT_1"], pattern)


def test_by_fets_csv_reads_the_challenge_file(tmp_path: Path) -> None:
    path = tmp_path / "partitioning_1.csv"
    path.write_bytes("\ufeffPartition_ID,Subject_ID\r\n10,FeTS2022_3\r\n2,FeTS2022_1\r\n2,FeTS2022_2\r\n".encode())
    assert list(by_fets_csv(path).items()) == [("site-2", ("FeTS2022_1", "FeTS2022_2")), ("site-10", ("FeTS2022_3",))]
    path.write_text("Partition,Subject_ID\n1,a\n")
    with pytest.raises(ConfigRefused, match="Partition_ID"):
        by_fets_csv(path)
    with pytest.raises(DataRefused, match="No such file"):
        by_fets_csv(tmp_path / "none.csv")


def test_by_datalist_one_file_per_site(tmp_path: Path) -> None:
    known = {"BRATS_001", "BRATS_002", "Brats18_A_1", "Brats18_B_1"}
    one = {
        "training": [{"image": ["HGG/Brats18_A_1/Brats18_A_1_t1.nii.gz", "x"], "label": "HGG/Brats18_A_1/s.nii.gz"}],
        "validation": [
            {"image": "HGG\\Brats18_B_1\\t1.nii", "label": "s"},
            {"image": "HGG/Brats18_A_1/t1.nii", "label": "s"},
        ],
    }
    two = {
        "name": "BRATS",
        "training": [{"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"}],
        "testing": [{"image": "imagesTr/BRATS_001.nii.gz", "label": "y"}, {"image": "imagesTs/BRATS_009.nii.gz"}],
        "test": ["imagesTs/BRATS_008.nii.gz"],
    }
    (tmp_path / "north.json").write_text(json.dumps(one))
    (tmp_path / "south.json").write_text(json.dumps(two))
    expected = {"north": ("Brats18_A_1", "Brats18_B_1"), "south": ("BRATS_001", "BRATS_002")}
    assert by_datalist(tmp_path, known) == expected
    (tmp_path / "all.jsonl").write_text(json.dumps({"north": one, "south": two["training"] + two["testing"]}))
    assert by_datalist(tmp_path / "all.jsonl", known) == expected


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"training": []}', ConfigRefused),
        ("[]", ConfigRefused),
        ("{", DataRefused),
        ('{"a": {"numTraining": 3}}', DataRefused),
        ('{"a": {"training": {"image": "x"}}}', DataRefused),
        ('{"a": [{"image": [], "label": "y"}]}', DataRefused),
        ('{"a": [7]}', DataRefused),
    ],
)
def test_by_datalist_refuses_what_it_cannot_read(tmp_path: Path, content: str, kind: type[Exception]) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(kind):
        by_datalist(tmp_path / "d.json", {"x"})


# ---- sites that are drawn


def test_by_quantity_has_the_wanted_ratio() -> None:
    sizes = {site: len(ids) for site, ids in by_quantity([f"p{i}" for i in range(100)], 3, 0, 4.0).items()}
    # weights 4, 2, 1 of the 97 patients beyond one per site: 55.4, 27.7, 13.9
    assert sizes == {"site-1": 56, "site-2": 29, "site-3": 15}
    assert {len(ids) for ids in by_equal_parts(TWELVE, 5, 0).values()} == {2, 3}
    assert [len(ids) for ids in by_quantity(TWELVE, 12, 0, 50.0).values()] == [1] * 12


def test_by_tumour_size_gives_bands() -> None:
    volumes = {p: float((7 * i) % 12) for i, p in enumerate(TWELVE)}
    sites = by_tumour_size(volumes, 3)
    bands = [[volumes[p] for p in sites[f"site-{i}"]] for i in (1, 2, 3)]
    assert [sorted(band) for band in bands] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert by_tumour_size(dict.fromkeys("cab", 1.0), 3) == {"site-1": ("a",), "site-2": ("b",), "site-3": ("c",)}


def test_by_dirichlet_is_uneven_for_small_alpha_and_even_for_large() -> None:
    labels = {f"p{i:03d}": "ab"[i % 2] for i in range(200)}

    def shares(alpha: float, seed: int) -> list[float]:
        sites = by_dirichlet(labels, 4, alpha, seed)
        return [sum(labels[p] == "a" for p in ids) / len(ids) for ids in sites.values()]

    spread = {alpha: np.mean([np.ptp(shares(alpha, seed)) for seed in range(10)]) for alpha in (0.2, 1000.0)}
    assert spread[0.2] > 0.6
    assert spread[1000.0] < 0.15


def test_by_dirichlet_sends_a_label_with_one_patient_anywhere() -> None:
    labels = {f"p{i}": str(i) for i in range(300)}
    sizes = [len(ids) for ids in by_dirichlet(labels, 3, 1000.0, 0).values()]
    assert sizes == pytest.approx([100, 100, 100], abs=33)  # four standard deviations


def test_terciles() -> None:
    assert terciles({"a": 3.0, "b": 1.0, "c": 2.0}) == {"b": "small", "c": "medium", "a": "large"}


DRAWN = {
    "quantity": lambda seed, sites: by_quantity(TWELVE, sites, seed, 3.0),
    "equal": lambda seed, sites: by_equal_parts(TWELVE, sites, seed),
    "size": lambda seed, sites: by_tumour_size({p: float(i) for i, p in enumerate(TWELVE)}, sites),
    "dirichlet": lambda seed, sites: by_dirichlet({p: p[-1] for p in TWELVE}, sites, 1.0, seed, min_patients=1),
}


@pytest.mark.parametrize("rule", DRAWN)
def test_drawn_sites_are_complete_disjoint_and_reproducible(rule: str) -> None:
    sites = DRAWN[rule](3, 4)
    assert flat(sites) == TWELVE
    assert list(sites) == ["site-1", "site-2", "site-3", "site-4"]
    assert sites == DRAWN[rule](3, 4)
    if rule != "size":
        assert any(sites != DRAWN[rule](seed, 4) for seed in (4, 5))
    for count in (0, 1, 13):
        with pytest.raises(ConfigRefused, match="12 patients"):
            DRAWN[rule](3, count)


@pytest.mark.parametrize("ratio", [0.5, float("nan"), float("inf")])
def test_by_quantity_refuses_a_bad_ratio(ratio: float) -> None:
    with pytest.raises(ConfigRefused, match="ratio"):
        by_quantity(TWELVE, 3, 0, ratio)


def test_by_dirichlet_refuses_bad_alpha_and_the_impossible() -> None:
    labels = dict.fromkeys(TWELVE, "a")
    for alpha in (0.0, float("nan")):
        with pytest.raises(ConfigRefused, match="alpha"):
            by_dirichlet(labels, 3, alpha, 0)
    with pytest.raises(ConfigRefused, match="no split"):
        by_dirichlet(labels, 4, 1.0, 0, min_patients=4)


# ---- what every partition must fulfil

PATIENTS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "d1": "d"}


def test_ids_of_patients_stand_for_all_their_cases() -> None:
    assert expand({"x": ("a", "b1"), "y": ("c1", "nobody")}, PATIENTS) == {
        "x": ("a1", "a2", "b1"),
        "y": ("c1", "nobody"),
    }


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"x": ("a1", "a2", "b1"), "y": ("c1", "d1", "e1")}, "'e1'"),
        ({"x": ("a1", "a2", "b1"), "y": ("c1",)}, "1 of 5 cases"),
        ({"x": ("a1", "a2", "b1"), "y": ("c1", "d1", "b1")}, "case 'b1'"),
        ({"x": ("a1", "b1"), "y": ("c1", "d1", "a2")}, "patient 'a'"),
        ({"x": ("a1", "a2"), "y": ("c1", "d1", "b1")}, "1 patients"),
    ],
)
def test_bad_splits_are_refused(sites: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataRefused, match=message):
        require_split(sites, PATIENTS, 2)


def test_a_good_split_passes() -> None:
    require_split({"x": ("a1", "a2", "b1"), "y": ("c1", "d1")}, PATIENTS, 2)


# ---- the files


def test_write_sites_writes_what_sites_read(tmp_path: Path, cohort: Path) -> None:
    cases = [f.case for f in find_cases(cohort)]
    path = write_sites(tmp_path / "out", cohort, {"DU": cases[4:], "HT": cases[:4]}, patient_pattern="(.*)")
    assert path == tmp_path / "out" / "sites.json"
    config = from_environment("site-2", {"WARDROUND_SITES": str(path)})
    assert config == read_site_config(tmp_path / "out" / "site-2" / "wardround.json")
    assert config is not None
    assert (config.data, config.name, config.cases) == (cohort.resolve(), "HT", tuple(cases[:4]))
    assert config.patient_pattern == "(.*)"
    with (tmp_path / "out" / "partition.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["Partition_ID", "Subject_ID"], *(["1", c] for c in cases[4:]), *(["2", c] for c in cases[:4])]
    assert by_fets_csv(tmp_path / "out" / "partition.csv") == {"site-1": tuple(cases[4:]), "site-2": tuple(cases[:4])}


def test_names_like_sites_are_kept_and_others_numbered(tmp_path: Path) -> None:
    kept = json.loads(write_sites(tmp_path / "a", tmp_path, {"site-2": ["x"], "site-7": ["y"]}).read_text())
    numbered = json.loads(write_sites(tmp_path / "b", tmp_path, {"../DU": ["x"], "site-7": ["y"]}).read_text())
    assert list(kept) == ["site-2", "site-7"]
    assert {site: entry["name"] for site, entry in numbered.items()} == {"site-1": "../DU", "site-2": "site-7"}


def test_another_partition_in_the_folder_is_not_overwritten(tmp_path: Path) -> None:
    path = write_sites(tmp_path, tmp_path, {"DU": ["x"], "HT": ["y"]})
    before = path.read_text()
    assert write_sites(tmp_path, tmp_path, {"DU": ["x"], "HT": ["y"]}) == path
    with pytest.raises(ConfigRefused, match="another partition"):
        write_sites(tmp_path, tmp_path, {"DU": ["y"], "HT": ["x"]})
    assert path.read_text() == before
    path.write_text("{")
    with pytest.raises(ConfigRefused):
        write_sites(tmp_path, tmp_path, {"DU": ["x"], "HT": ["y"]})


# ---- the whole command


def options_for(method: str, cohort: Path, folder: Path) -> Options:
    cases = [f.case for f in find_cases(cohort)]
    table = folder / "table.csv"
    if method == "column":
        table.write_text("case,site\n" + "".join(f"{c},{'uvw'[i % 3]}\n" for i, c in enumerate(cases)))
    elif method == "fets":
        table.write_text("Partition_ID,Subject_ID\n" + "".join(f"{1 + i % 3},{c}\n" for i, c in enumerate(cases)))
    elif method == "datalist":
        entries = [{"image": f"{c}/{c}_t1.nii.gz", "label": f"{c}/{c}_seg.nii.gz"} for c in cases]
        table.write_text(json.dumps({name: {"training": entries[i::3]} for i, name in enumerate("uvw")}))
    pattern = r"00([0-2]|[3-5]|[6-8])$" if method == "pattern" else None
    return Options(sites=3, table=table, pattern=pattern, min_patients=1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_complete_partition(method: str, cohort: Path, tmp_path: Path) -> None:
    options = options_for(method, cohort, tmp_path)
    first = partition(method, cohort, tmp_path / "one", options)
    second = partition(method, cohort, tmp_path / "two", options)
    sites = {site: entry["cases"] for site, entry in json.loads(first.read_text()).items()}
    assert flat(sites) == [f.case for f in find_cases(cohort)]
    assert sites == {site: entry["cases"] for site, entry in json.loads(second.read_text()).items()}
    for site, cases in sites.items():
        config = read_site_config(tmp_path / "one" / site / "wardround.json")
        assert [f.case for f in find_cases(config.data, only=config.cases)] == cases
        assert (config.data == cohort.resolve()) == (method != "scanner")
    images = [path for path in (tmp_path / "one").rglob("*.nii.gz")]
    assert len(images) == (9 * 5 if method == "scanner" else 0)


def test_size_bands_follow_the_known_volumes(cohort: Path, tmp_path: Path) -> None:
    known = json.loads((cohort / "phantoms.json").read_text())["volumes_mm3"]
    for files in find_cases(cohort):
        assert tumour_volume_mm3(files) == pytest.approx(known[files.case]["WT"])
    sites = json.loads(partition("size", cohort, tmp_path / "o", Options(sites=3)).read_text())
    volumes = [[known[case]["WT"] for case in entry["cases"]] for entry in sites.values()]
    assert max(volumes[0]) <= min(volumes[1])
    assert max(volumes[1]) <= min(volumes[2])


def test_dirichlet_by_a_column(cohort: Path, tmp_path: Path) -> None:
    cases = [f.case for f in find_cases(cohort)]
    table = tmp_path / "t.csv"
    table.write_text("case,grade\n" + "".join(f"{case},{i % 2}\n" for i, case in enumerate(cases)))
    options = Options(sites=2, table=table, label_column="grade", alpha=100.0)
    sites = json.loads(partition("dirichlet", cohort, tmp_path / "o", options).read_text())
    grades = [sorted(cases.index(case) % 2 for case in entry["cases"]) for entry in sites.values()]
    assert all(set(found) == {0, 1} for found in grades)
    table.write_text(table.read_text() + f"{cases[0]},1\n")
    with pytest.raises(DataRefused, match="1 patients with no label or several"):
        partition("dirichlet", cohort, tmp_path / "p", options)


def test_scans_of_one_patient_stay_together(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_cohort(data, HOSPITALS[0], seed=0, shape=(12, 12, 12), patients=30)
    tens = r"phantom-north-p0(\d)\d"  # three patients with ten scans each
    for method in ("quantity", "size", "dirichlet"):
        options = Options(sites=3, patient_pattern=tens, min_patients=1, alpha=100.0)
        sites = json.loads(partition(method, data, tmp_path / method, options).read_text())
        assert sorted(entry["cases"][0][-2] for entry in sites.values()) == ["0", "1", "2"]
        assert all(len(entry["cases"]) == 10 and len({c[-2] for c in entry["cases"]}) == 1 for entry in sites.values())
    with pytest.raises(ConfigRefused, match="4 sites for 3 patients"):
        partition("quantity", data, tmp_path / "b", Options(sites=4, patient_pattern=tens, min_patients=1))
    with pytest.raises(DataRefused, match="patient '0'"):
        partition("pattern", data, tmp_path / "c", Options(pattern=r"(\d)$", patient_pattern=tens))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("random", Options()),
        ("column", Options()),
        ("fets", Options()),
        ("datalist", Options()),
        ("pattern", Options()),
        ("dirichlet", Options(label_column="grade")),
        ("quantity", Options(sites=10)),
        ("quantity", Options(patient_pattern="(")),
    ],
)
def test_missing_or_wrong_options_are_refused_before_anything_is_written(
    method: str, options: Options, cohort: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigRefused):
        partition(method, cohort, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_too_few_patients_and_an_output_inside_the_data_are_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="2 patients"):
        partition("quantity", cohort, tmp_path / "out", Options(sites=4, ratio=1.0))
    with pytest.raises(ConfigRefused, match="inside the data"):
        partition("quantity", cohort, cohort / "out", Options(sites=3))
    assert not (tmp_path / "out").exists()
    assert not (cohort / "out").exists()


# ---- simulated scanners


def test_a_scanner_copy_keeps_masks_and_geometry_and_says_what_it_is(cohort: Path, tmp_path: Path) -> None:
    path = partition("scanner", cohort, tmp_path / "o", Options(sites=3, seed=1))
    for site, entry in json.loads(path.read_text()).items():
        note = json.loads((tmp_path / "o" / site / "simulated_scanner.json").read_text())
        assert "SIMULATED" in note["what"]
        assert note["scanner"]["name"] == site
        case = entry["cases"][0]
        for name in (f"{case}_seg.nii.gz", f"{case}_t1.nii.gz"):
            before, after = (nibabel.load(root / case / name) for root in (cohort, Path(entry["data"])))
            assert np.allclose(before.affine, after.affine)
            a, b = np.asarray(before.dataobj), np.asarray(after.dataobj)
            assert np.array_equal(a != 0, b != 0)
            assert np.array_equal(a, b) == name.endswith("_seg.nii.gz")


def test_a_scanner_copy_of_a_decathlon_folder_is_a_decathlon_folder(tmp_path: Path) -> None:
    data = tmp_path / "msd"
    rng = np.random.default_rng(0)
    for part, shape in (("imagesTr", (8, 9, 10, 4)), ("labelsTr", (8, 9, 10))):
        (data / part).mkdir(parents=True)
        for i in range(4):
            values = rng.integers(0, 4, shape).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), data / part / f"BRATS_{i:03d}.nii.gz")
    names = {"modality": {"0": "T2w", "1": "T1w", "2": "t1gd", "3": "FLAIR"}}
    (data / "dataset.json").write_text(json.dumps(names))
    path = partition("scanner", data, tmp_path / "o", Options(sites=2, min_patients=2))
    for entry in json.loads(path.read_text()).values():
        found = find_cases(Path(entry["data"]))
        assert [f.case for f in found] == entry["cases"]
        assert found[0].channel["t2"] == 0
        assert nibabel.load(found[0].images["t2"]).shape == (8, 9, 10, 4)


def test_a_scanner_refuses_values_that_are_not_finite(cohort: Path, tmp_path: Path) -> None:
    data = tmp_path / "d"
    write_cohort(data, HOSPITALS[0], seed=0, shape=(12, 12, 12), patients=2)
    bad = data / "phantom-north-p001" / "phantom-north-p001_t2.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((12, 12, 12), np.nan, np.float32), np.eye(4)), bad)
    with pytest.raises(DataRefused, match=r"phantom-north-p001_t2\.nii\.gz"):
        partition("scanner", data, tmp_path / "o", Options(sites=2, min_patients=1))
    assert not (tmp_path / "o" / "sites.json").exists()


def test_transform_is_a_pure_gamma_when_all_else_is_off() -> None:
    volume = np.zeros((12, 12, 12), np.float32)
    volume[2:10, 2:10, 2:10] = np.random.default_rng(0).uniform(5, 100, (8, 8, 8))
    off = Scanner("s", (1.0, 1.0), bias_field=0.0, blur_voxels=0.0, noise=0.0)
    assert np.allclose(transform(volume, off, 1.0, stream(0)), volume, rtol=1e-5)
    scale = np.percentile(volume[volume > 0], 99)
    assert np.allclose(transform(volume, off, 2.0, stream(0)), scale * (volume / scale) ** 2, rtol=1e-4)
    assert not transform(np.zeros((12, 12, 12), np.float32), off, 2.0, stream(0)).any()


def test_scanners_differ_by_site_and_seed() -> None:
    assert scanner("site-1", 0) == scanner("site-1", 0)
    devices = [scanner(f"site-{i}", seed) for i in range(4) for seed in range(2)]
    assert len({(d.gamma_range, d.bias_field, d.blur_voxels, d.noise) for d in devices}) == 8


# ---- real hospitals


@pytest.mark.skipif(not LGG.is_dir(), reason="the LGG-TCGA images are not beside the repository")
def test_the_three_real_hospitals(tmp_path: Path) -> None:
    table = Options(table=LGG / "manifest.csv")
    path = partition("column", LGG / "px64", tmp_path / "a", table)
    sites = json.loads(path.read_text())
    assert {entry["name"]: len(entry["cases"]) for entry in sites.values()} == {"DU": 45, "FG": 14, "HT": 34}
    again = partition("pattern", LGG / "px64", tmp_path / "b", Options(pattern=r"^TCGA_(\w\w)_"))
    assert json.loads(again.read_text()) == sites
