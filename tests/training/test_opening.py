import json
import shutil
from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused
from wardround.training.opening import BY_FLAG, Phantoms, find_config, open_site, pick_device, site_index
from wardround.training.segmentation import Sampling
from wardround.training.splitting import split_of

SMALL = Phantoms([16, 16, 16], 4)


SAMPLING = Sampling((8, 8, 8), 2, 0.5, augment=False)


def opened(workspace, said, *, simulator=True, site="site-1", phantoms=SMALL):
    return open_site(
        site, workspace, simulator=simulator, phantoms=phantoms, sampling=SAMPLING, seed=0, say=said.append
    )


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_sites_own_file_wins_over_the_variable(tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    variable = write(tmp_path / "sites.json", {"site-1": {"data": str(tmp_path / "other")}})
    environ = {"WARDROUND_SITES": str(variable)}
    assert find_config("site-1", tmp_path, environ).data == tmp_path / "other"
    write(tmp_path / "local" / "wardround.json", {"data": str(tmp_path / "own")})
    assert find_config("site-1", tmp_path, environ).data == tmp_path / "own"
    assert find_config("site-1", tmp_path, {}).data == tmp_path / "own"


def test_a_site_without_a_file_has_no_configuration(tmp_path):
    assert find_config("site-1", tmp_path, {}) is None


def test_a_real_site_without_data_is_told_which_file_to_write(tmp_path):
    said = []
    with pytest.raises(ConfigRefused) as caught:
        opened(tmp_path, said, simulator=False)
    assert str(tmp_path / "local" / "wardround.json") in str(caught.value)
    assert "data check" in caught.value.fix
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_phantoms_are_said_loudly(tmp_path):
    said = []
    site = opened(tmp_path, said)
    assert site.phantoms
    assert site.label == "north"
    assert len(site.cohort.cases) == 4
    assert "NO DATA CONFIGURED" in said[0]
    assert "SYNTHETIC" in said[0]


def test_a_restarted_process_finds_its_phantoms_again(tmp_path):
    first = opened(tmp_path, [])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "phantoms").rglob("*.nii.gz")}
    said = []
    second = opened(tmp_path, said)
    assert second.cohort.cases == first.cohort.cases
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not any("decod" in text for text in said)


def test_zero_patients_means_as_many_as_the_hospital_has(tmp_path):
    from wardround.synthetic.hospitals import hospital

    assert len(opened(tmp_path, [], phantoms=Phantoms([12, 12, 12], 0)).cohort.cases) == hospital(0).patients


def test_each_hospital_in_turn_has_the_patients_of_the_job(tmp_path):
    phantoms = Phantoms([12, 12, 12], 0, train=[3, 2], val=[1], test=[2, 4])
    for site, expected in (("site-1", (3, 1, 2)), ("site-2", (2, 1, 4)), ("site-3", (3, 1, 2))):
        split = split_of(opened(tmp_path / site, [], site=site, phantoms=phantoms).cohort)
        assert (len(split.train), len(split.val), len(split.test)) == expected


def test_a_number_of_patients_goes_before_those_of_the_parts(tmp_path):
    phantoms = Phantoms([12, 12, 12], 5, train=[3], val=[1], test=[2])
    assert len(opened(tmp_path, [], phantoms=phantoms).cohort.cases) == 5


@pytest.mark.parametrize(
    ("shape", "patients"),
    [
        ([40, 40], 0),
        ([], 0),
        ([7, 8, 8], 0),
        ([8, 8, 1000], 0),
        ([8.5, 8, 8], 0),
        ([8, 8, 8], -1),
        ([8, 8, 8], 10**12),
        ("x", 0),
    ],
)
def test_sizes_that_no_phantom_has_are_refused_before_a_patient_is_drawn(shape, patients):
    with pytest.raises(ConfigRefused) as caught:
        Phantoms(shape, patients)
    assert "--set phantoms.shape" in caught.value.fix


@pytest.mark.parametrize(
    "parts", [{"train": [3]}, {"train": [3], "val": [0], "test": [2]}, {"train": [1.5], "val": [1], "test": [1]}]
)
def test_parts_without_patients_are_refused(parts):
    with pytest.raises(ConfigRefused) as caught:
        Phantoms([12, 12, 12], 0, **parts)
    assert "--set phantoms.train" in caught.value.fix


@pytest.mark.parametrize(
    "spread", [{"patients_vary": 9.0}, {"hospitals_differ": -1}, {"findings": 2}, {"subtypes": 1.5}]
)
def test_an_impossible_spread_is_refused_before_a_patient_is_drawn(spread):
    with pytest.raises(ConfigRefused) as caught:
        Phantoms([12, 12, 12], 0, **spread)
    assert "--set phantoms." in caught.value.fix


@pytest.mark.parametrize("simulator", [True, False])
def test_configured_data_is_never_replaced_by_phantoms(simulator, cohorts, tmp_path):
    write(tmp_path / "local" / "wardround.json", {"data": str(cohorts[0]), "name": "St. Elsewhere", "device": "cpu"})
    said = []
    site = opened(tmp_path, said, simulator=simulator)
    assert (site.label, site.device) == ("St. Elsewhere", "cpu")
    assert len(site.cohort.cases) == 8
    assert not (tmp_path / "phantoms").exists()
    assert not any("invents" in text for text in said)


@pytest.mark.parametrize(("fewest", "warned"), [(1, True), (5, False), (20, False)])
def test_a_hospital_that_tells_of_few_patients_is_told_so(fewest, warned, cohorts, tmp_path):
    own = {"data": str(cohorts[0]), "device": "cpu", "fewest_patients": fewest}
    write(tmp_path / "local" / "wardround.json", own)
    said = []
    assert opened(tmp_path, said).fewest_patients == fewest
    assert any("everybody may see" in text for text in said) == warned


@pytest.mark.parametrize(("marker", "stranger"), [(True, False), (False, False), (True, True)])
def test_a_folder_of_phantoms_says_so_at_a_real_site_too(marker, stranger, cohorts, tmp_path):
    """The banner, and the exemption of people who do not exist, need the folder's word AND no other case in it."""
    data, said = tmp_path / "data", []
    shutil.copytree(cohorts[0], data)
    if not marker:
        (data / "phantoms.json").unlink()
    if stranger:
        first = next(path for path in sorted(data.iterdir()) if path.is_dir())
        shutil.copytree(first, data / "TCGA_01")
        for path in (data / "TCGA_01").iterdir():
            path.rename(path.with_name(path.name.replace(first.name, "TCGA_01")))
    write(tmp_path / "local" / "wardround.json", {"data": str(data), "device": "cpu"})
    site = opened(tmp_path, said, simulator=False)
    assert len(site.cohort.cases) == 8 + stranger
    assert site.phantoms == (marker and not stranger)
    assert any("SYNTHETIC" in text for text in said) == site.phantoms


def test_the_cache_lies_where_the_site_says(cohorts, tmp_path):
    own = {"data": str(cohorts[0]), "cache": str(tmp_path / "fast")}
    write(tmp_path / "local" / "wardround.json", own)
    opened(tmp_path, [])
    assert (tmp_path / "fast" / "cases").is_dir()
    assert not (tmp_path / "wardround_cache").exists()


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigRefused, match="cuda:99") as caught:
        pick_device("cuda:99")
    assert "usable GPUs" in caught.value.found
    assert "in the site's file, or mend the driver" in caught.value.fix


@pytest.mark.parametrize("wish", ["gpu", "cpu:9", "cuda:", "cuda:x", "CUDA", ""])
def test_what_is_no_device_is_refused_with_what_can_be_typed_there(wish):
    with pytest.raises(ConfigRefused, match="auto, cpu, cuda or cuda:N") as caught:
        pick_device(wish, BY_FLAG)
    assert caught.value.fix == "`--device auto` or `--device cpu`"


def test_a_device_is_what_was_asked_for():
    import torch

    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "index"), [("site-1", 0), ("site-4", 3), ("hospital12", 11), ("site-0", sum(b"site-0") % 4), ("DU", 1)]
)
def test_a_profile_for_every_name(name, index):
    """Letters: the sum of their codes modulo 4; D + U = 68 + 85 = 153 = 1 modulo 4."""
    assert site_index(name) == index
