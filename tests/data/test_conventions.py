"""What 1, 2, 3 and 4 mean: stated by the site, proven by a description, or refused; never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.cache import Cohort, open_cohort
from wardround.data.site_config import SiteConfig, read_site_config
from wardround.tasks.brain_tumours import REGIONS

SHAPE = (10, 9, 8)
WORDS = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
# one voxel for each stored value, at [value, 4, 4]
NCR_ED_ET = {1: "TC WT", 2: "WT", 3: "ET TC WT", 4: "ET TC WT"}


def mask(*values: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for value in values:
        labels[value, 4, 4] = value
    return labels


def image(seed: int, channels: int = 0) -> np.ndarray:
    shape = (*SHAPE, channels) if channels else SHAPE
    return np.random.default_rng(seed).uniform(10, 900, shape).astype(np.float32)


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def cases(root: Path, masks: dict[str, np.ndarray]) -> SiteConfig:
    """Write cases in the layout of BraTS 2023."""
    for seed, (case, labels) in enumerate(masks.items()):
        save(root / case / f"{case}-t1c.nii", image(seed))
        save(root / case / f"{case}-seg.nii", labels)
    return SiteConfig(data=root)


def task(root: Path, masks: dict[str, np.ndarray], **described: Any) -> SiteConfig:
    """Write cases in the layout of the Decathlon, with a description if there is anything to say."""
    for seed, (case, labels) in enumerate(masks.items()):
        save(root / "imagesTr" / f"{case}.nii", image(seed, 4))
        save(root / "labelsTr" / f"{case}.nii", labels)
    if described:
        order = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
        (root / "dataset.json").write_text(json.dumps(order | described))
    return SiteConfig(data=root)


def opened(config: SiteConfig, tmp_path: Path) -> Cohort:
    return open_cohort(config, tmp_path / "cache")


def meanings(cohort: Cohort, case: str, values: int = 4) -> dict[int, str]:
    """Return stored value -> the regions that training sees there."""
    labels = cohort.load(case).labels
    assert labels is not None
    regions = REGIONS.targets(np.asarray(labels), cohort.label_kind)
    return {
        value: " ".join(name for k, name in enumerate(REGIONS.names) if regions[k, value, 4, 4])
        for value in range(1, values + 1)
    }


PED = {f"BraTS-PED-{n:05d}-000": mask(1, 2, 4) for n in (1, 2, 3)}


def test_ids_of_another_convention_are_refused_until_the_site_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases(tmp_path / "data", PED)
    assert main(["data", "check", str(tmp_path / "data")]) == 2
    text = capsys.readouterr().out
    assert "ready to train" not in text
    assert all(words in text for words in ("BraTS-PED", '"labels": "brats_ped"', "3 things are wrong"))
    assert main(["data", "check", str(tmp_path / "data"), "--labels", "brats_ped"]) == 0
    assert "1 enhancing, 2 or 3 core, 4 oedema (3 cases)" in capsys.readouterr().out
    file = tmp_path / "wardround.json"
    for said in ("brats_ped", {"1": "enhancing tumor", "2": "non-enhancing", "3": "cyst", "4": "peritumoral edema"}):
        file.write_text(json.dumps({"data": "data", "labels": said}))
        assert main(["data", "check", str(file)]) == 0
        cohort = opened(read_site_config(file), tmp_path)
        assert meanings(cohort, "BraTS-PED-00001-000") == {1: "ET TC WT", 2: "TC WT", 3: "", 4: "WT"}


@pytest.mark.parametrize(
    ("case", "values"),
    [
        ("BraTS-MET-00001-000", (1, 2, 3)),
        ("brats_ped_00001", (1,)),
        ("BraTS-MEN-RT-0001-1", (1,)),
        ("brats_2013_pat0001_1", (1, 2, 4)),
        ("BRATS_HG0001", (1, 2, 3)),
        ("BRATS_001", (1, 2, 3)),
        ("BraTS-XYZ-00001-000", (1, 2, 3)),
        ("BraTS-GLI-02061-100", (1, 2, 3, 4)),
        ("BraTS-GLI-02061-100", (1, 2, 4)),
        ("P1", (1, 2, 3, 4)),
    ],
)
def test_other_sets_that_read_values_otherwise(tmp_path: Path, case: str, values: tuple[int, ...]) -> None:
    config = cases(tmp_path, {case: mask(*values)})
    with pytest.raises(DataRefused) as refusal:
        opened(config, tmp_path)
    assert case in refusal.value.what
    assert '"labels"' in refusal.value.fix


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("brats2015", {1: "TC WT", 2: "WT", 3: "TC WT", 4: "ET TC WT"}),
        ("brats_post", {1: "TC WT", 2: "WT", 3: "ET TC WT", 4: ""}),
        ("brats_met", {1: "TC WT", 2: "WT", 3: "ET TC WT", 4: ""}),
        ("brats_ped", {1: "ET TC WT", 2: "TC WT", 3: "TC WT", 4: "WT"}),
    ],
)
def test_what_is_stated_is_what_is_trained(tmp_path: Path, said: str, expected: dict[int, str]) -> None:
    config = cases(tmp_path, {"P1": mask(1, 2, 3, 4)})
    cohort = opened(SiteConfig(config.data, labels=said), tmp_path)
    assert meanings(cohort, "P1") == expected
    assert cohort.label_kind == "brats"


def test_another_convention_is_not_read_from_the_old_cache(tmp_path: Path) -> None:
    config = cases(tmp_path, {"P1": mask(1, 2, 3)})
    assert meanings(opened(config, tmp_path), "P1", 3) == {k: NCR_ED_ET[k] for k in (1, 2, 3)}
    again = opened(SiteConfig(config.data, labels="decathlon"), tmp_path)
    assert meanings(again, "P1", 3) == {1: "WT", 2: "TC WT", 3: "ET TC WT"}


def test_a_set_that_mixes_conventions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = cases(tmp_path / "a", {"P1": mask(1, 2, 3), "P2": mask(1, 2, 4), "P3": mask(1)})
    with pytest.raises(DataRefused, match="1 cases with the value 3 and 1 with 4"):
        opened(config, tmp_path)
    assert main(["data", "check", str(tmp_path / "a")]) == 2
    assert "BRATS 2012" in capsys.readouterr().out
    stated = opened(SiteConfig(config.data, labels="brats"), tmp_path)
    assert meanings(stated, "P1", 3)[3] == meanings(stated, "P2")[4] == "ET TC WT"
    cases(tmp_path / "b", {"Q1": mask(1, 2)})
    task(tmp_path / "b", {"Q2": mask(1, 2)})
    (tmp_path / "b" / "T").mkdir()
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "b" / name).rename(tmp_path / "b" / "T" / name)
    with pytest.raises(DataRefused, match="Decathlon"):
        opened(SiteConfig(tmp_path / "b"), tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"1": "necrotic / non-enhancing tumor core", "2": "edema"}, {1: "TC WT", 2: "WT"}),
        ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}, None),
        ({"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}, None),
        ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}, None),
        (["background", "SNFH", "NETC", "ET"], None),
        (
            {"1": "non-enhancing FLAIR hyperintensity", "2": "NCR", "3": "GD-enhancing tumor", "4": "resection cavity"},
            None,
        ),
        ({"1": "Oedema", "2": "cystic component (CC)", "3": "ET"}, None),
        ({"1": "Vasogenic edema", "2": "non-contrast-enhancing tumor", "3": "CE tumor"}, None),
        ({"Whole Tumor (WT)": [1, 2, 3], "Tumor core (TC)": [2, 3], "ET": 3}, None),
    ],
)
def test_the_labels_of_a_description_are_read(tmp_path: Path, labels: Any, expected: dict[int, str] | None) -> None:
    config = task(tmp_path, {"a": mask(1, 2, *(() if expected else (3,)))}, labels=labels)
    found = meanings(opened(config, tmp_path), "a", 2 if expected else 3)
    assert found == (expected or {1: "WT", 2: "TC WT", 3: "ET TC WT"})


@pytest.mark.parametrize(
    "labels",
    [
        {"1": "anterior", "2": "posterior"},
        {"1": "edema", "2": "something else"},
        {"1": "edema and necrosis"},
        {"1": "edema", "2": "tumor without enhancement"},
        {"1": "solid"},
        {"1": "edema", "2": "tumor"},
        {"0": "edema", "1": "necrosis"},
        {"edema": 1, "necrosis": 1},
        {"0": "background"},
        {"1": "tumor core", "2": "edema"},
        {"1": 2},
        {},
        "brats",
        {"edema": [1, "x"]},
    ],
)
def test_words_that_are_not_understood_are_refused(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(DataRefused, match=r"dataset\.json"):
        opened(task(tmp_path, {"a": mask(1, 2)}, labels=labels), tmp_path)
    if isinstance(labels, dict):
        (tmp_path / "site.json").write_text(json.dumps({"data": ".", "labels": labels}))
        with pytest.raises(ConfigRefused, match="'labels'"):
            read_site_config(tmp_path / "site.json")


def test_a_description_of_one_label_is_a_whole_tumour_mask_and_one_of_sub_regions_is_not(tmp_path: Path) -> None:
    whole = task(tmp_path / "w", {"a": mask(1)}, labels={"0": "background", "1": "tumour"})
    assert opened(whole, tmp_path / "1").label_kind == "whole_tumour"
    parts = task(tmp_path / "p", {"a": mask(1)}, labels={"1": "edema", "2": "necrosis", "3": "enhancing"})
    cohort = opened(parts, tmp_path / "2")
    assert cohort.label_kind == "brats"
    assert meanings(cohort, "a", 1) == {1: "WT"}


def test_what_is_stated_and_what_is_described_must_agree(tmp_path: Path) -> None:
    config = task(tmp_path, {"a": mask(1, 2, 3)}, labels={"1": "edema", "2": "necrosis", "3": "enhancing"})
    with pytest.raises(DataRefused, match=r"1 oedema, 2 core(.|\n)*1 core, 2 oedema"):
        opened(SiteConfig(config.data, labels="brats"), tmp_path)
    opened(SiteConfig(config.data, labels="decathlon"), tmp_path)


def test_the_layout_of_the_decathlon_with_ids_of_brats_proves_nothing(tmp_path: Path) -> None:
    for case in ("BraTS2021_00001", "BraTS-GLI-00001-000", "BraTS20_Training_001"):
        with pytest.raises(DataRefused, match="layout of the Decathlon"):
            opened(task(tmp_path / case, {case: mask(1, 2, 3)}), tmp_path)
    cohort = opened(task(tmp_path / "d", {"BRATS_001": mask(1, 2, 3)}), tmp_path)
    assert meanings(cohort, "BRATS_001", 3) == {1: "WT", 2: "TC WT", 3: "ET TC WT"}


def test_a_value_that_never_occurs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases(tmp_path, {f"P{n}": mask(1, 2) for n in "abc"})
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "no case has enhancing" in capsys.readouterr().out


def test_one_value_other_than_1_is_no_whole_tumour_mask(tmp_path: Path) -> None:
    config = cases(tmp_path, {"P1": (mask(1) * 255).astype(np.uint8)})
    with pytest.raises(DataRefused, match="write its tumour value as 1"):
        opened(config, tmp_path)


def test_a_description_beside_folders_of_cases_is_read(tmp_path: Path) -> None:
    said = {"labels": {"0": "background", "1": "edema", "2": "necrosis", "4": "enhancing tumor"}}
    for where in ("", "HGG", "HGG/P1"):
        root = tmp_path / f"x{where.replace('/', '_')}"
        cases(root / "HGG", {"P1": mask(1, 2, 4)})
        (root / where / "dataset.json").write_text(json.dumps(said))
        cohort = opened(SiteConfig(data=root), tmp_path / f"cache{where.replace('/', '_')}")
        assert meanings(cohort, "P1", 4) == {1: "WT", 2: "TC WT", 3: "", 4: "ET TC WT"}
    (root / "HGG/P1/dataset.json").write_text(json.dumps({"labels": {"1": "left", "2": "right"}}))
    with pytest.raises(DataRefused, match="not understood"):
        opened(SiteConfig(data=root), tmp_path)
    (root / "HGG/P1/dataset.json").write_text("{")
    with pytest.raises(DataRefused, match="not readable"):
        opened(SiteConfig(data=root), tmp_path)


def test_two_orders_of_channels_are_refused(tmp_path: Path) -> None:
    order = {"0": "T1w", "1": "FLAIR", "2": "t1gd", "3": "T2w"}
    config = task(tmp_path, {"BRATS_001": mask(1, 2, 3)}, channel_names=order)
    with pytest.raises(DataRefused, match="do not say the same"):
        opened(config, tmp_path)
    same = {"0": "flair", "1": "T1", "2": "T1c", "3": "T2"}
    opened(task(tmp_path, {"BRATS_001": mask(1, 2, 3)}, channel_names=same), tmp_path)
