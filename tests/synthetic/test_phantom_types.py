"""Phantoms with a type: the signs are where they should be, the record's limit is right, the files are read back."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import stream
from wardround.data.labelled import open_labelled
from wardround.data.layouts import MODALITIES
from wardround.data.site_config import SiteConfig
from wardround.synthetic.anatomy import TISSUES
from wardround.synthetic.hospitals import HOSPITALS, Hospital
from wardround.synthetic.phantom_ehr import CLASSES, COLUMNS, HALO, RING, bayes_limit, draw_record, posterior
from wardround.synthetic.phantom_types import contrast, make_slices, spec_of, write_types
from wardround.synthetic.phantoms import make_labels

SHAPE = (40, 40, 40)
SMALL = (16, 16, 16)
NORTH, EAST, SOUTH, WEST = HOSPITALS


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.png"))
    }


def test_files_and_reader(tmp_path: Path) -> None:
    root = write_types(tmp_path / "west", WEST, 1, patients=12, shape=SMALL)
    cohort = open_labelled(SiteConfig(root), tmp_path / "cache", wanted=spec_of(16))
    assert len(cohort.cases) == 12
    assert cohort.cases[0] == "phantom-west-p000"
    assert cohort.modalities == {"t1": 12, "t1ce": 12, "t2": 0, "flair": 12}
    assert sum(cohort.class_counts().values()) == 12
    assert cohort.batch(cohort.cases).images.shape == (12, 4, 16, 16)
    assert cohort.known[:, :3].all()


def test_deterministic_and_a_prefix(tmp_path: Path) -> None:
    one = hashes(write_types(tmp_path / "a", EAST, 7, patients=4, shape=SMALL))
    assert hashes(write_types(tmp_path / "b", EAST, 7, patients=4, shape=SMALL)) == one
    more = hashes(write_types(tmp_path / "c", EAST, 7, patients=5, shape=SMALL))
    assert {name: more[name] for name in one} == one
    assert hashes(write_types(tmp_path / "d", EAST, 8, patients=4, shape=SMALL)) != one
    lines = [(tmp_path / name / "cases.csv").read_text().splitlines() for name in "ac"]
    assert lines[1][: len(lines[0])] == lines[0]


def test_written_once_and_again_when_something_differs(tmp_path: Path) -> None:
    root = write_types(tmp_path / "a", NORTH, 0, patients=3, shape=SMALL)
    image = root / "images" / "phantom-north-p002_t1.png"
    before = image.stat().st_mtime_ns
    write_types(root, NORTH, 0, patients=3, shape=SMALL)
    assert image.stat().st_mtime_ns == before
    write_types(root, NORTH, 0, patients=2, shape=SMALL)
    assert not image.exists()
    (root / "thesis.doc").write_text("mine")
    with pytest.raises(DataRefused, match=r"thesis\.doc"):
        write_types(root, NORTH, 0, patients=3, shape=SMALL)


def test_shares_of_types(tmp_path: Path) -> None:
    root = write_types(tmp_path / "a", NORTH, 0, patients=9, shape=SMALL, priors=(0, 1, 0))
    assert open_labelled(SiteConfig(root), tmp_path / "c").class_counts() == {"ring": 0, "halo": 9, "ring_halo": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"shape": (8, 16, 16)},
        {"priors": (0, 0, 0)},
        {"priors": (1, 1)},
        {"priors": (1, -1, 1)},
        {"strength": 3},
    ],
)
def test_numbers_without_sense(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigRefused):
        write_types(tmp_path / "a", NORTH, 0, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", HOSPITALS, ids=lambda profile: profile.name)
def test_signs_are_in_their_sequences_only(profile: Hospital) -> None:
    tables = {name: contrast(profile, k) for k, name in enumerate(CLASSES)}
    t1, t1ce, t2, flair = range(4)
    rows = dict(zip(MODALITIES, range(4), strict=True))
    assert rows == {"t1": t1, "t1ce": t1ce, "t2": t2, "flair": flair}
    np.testing.assert_array_equal(tables["ring"][[t1, t1ce]], tables["ring_halo"][[t1, t1ce]])
    np.testing.assert_array_equal(tables["halo"][[t1, t2, flair]], tables["ring_halo"][[t1, t2, flair]])
    np.testing.assert_array_equal(tables["ring"][t1], tables["halo"][t1])
    rim, oedema, white = (TISSUES.index(name) for name in ("rim", "oedema", "white"))
    assert tables["ring"][t1ce, rim] - tables["halo"][t1ce, rim] > 0.2
    assert tables["halo"][flair, oedema] - tables["ring"][flair, oedema] > 0.15
    assert tables["ring"][flair, oedema] == tables["ring"][flair, white]


def test_one_sequence_is_not_enough() -> None:
    """A linear reader that knows where the tumour is: all right with t1ce and flair, two thirds with one, chance in t1."""
    profile = replace(NORTH, quiet_every=10**9)
    count = 90
    features = np.zeros((count, 4, 2))
    kinds = np.arange(count) % 3
    for i, kind in enumerate(kinds):
        images = make_slices(NORTH, 0, SHAPE, i, int(kind))
        _, labels = make_labels(profile, 0, SHAPE, i)
        labels = labels[:, :, int(np.argmax(np.count_nonzero(labels, axis=(0, 1))))]
        for m, modality in enumerate(MODALITIES):
            features[i, m] = [images[modality][labels == 4].mean() / 600, images[modality][labels == 2].mean() / 600]

    def accuracy(*modalities: str) -> float:
        columns = [features[:, MODALITIES.index(m)] for m in modalities]
        x = np.concatenate([*columns, np.ones((count, 1))], axis=1)
        weights = np.linalg.lstsq(x[::2], np.eye(3)[kinds[::2]], rcond=None)[0]
        return float(((x[1::2] @ weights).argmax(axis=1) == kinds[1::2]).mean())

    assert accuracy("t1") < 0.55
    assert accuracy("t1ce") < 0.8
    assert accuracy("flair") < 0.8
    assert accuracy("t1ce", "flair") > 0.95


def test_the_limit_of_the_record() -> None:
    assert bayes_limit(strength=0) == pytest.approx(1 / 3, abs=0.01)
    assert bayes_limit(strength=0, priors=(0.6, 0.3, 0.1)) == pytest.approx(0.6, abs=0.01)
    assert bayes_limit(("t1ce", "flair")) == pytest.approx(1)
    assert bayes_limit(("t2",)) == bayes_limit(("flair",))
    assert bayes_limit(("t1",)) == bayes_limit()
    assert bayes_limit() == pytest.approx(0.73, abs=0.02)
    assert bayes_limit(("t1ce",)) == pytest.approx(0.89, abs=0.02)


def test_the_best_reader_reaches_the_limit_and_no_linear_one_beats_it() -> None:
    """Drawn with another seed than bayes_limit uses; four standard errors."""
    rng = stream(5, "test record")
    truth = rng.integers(0, 3, 4000)
    record = [draw_record(int(k), rng) for k in truth]
    error = 4 * np.sqrt(0.25 / 4000)
    best = (posterior(record).argmax(axis=1) == truth).mean()
    assert best == pytest.approx(bayes_limit(), abs=error)
    header = ["age", "sex", "crp", "ldh"]
    values, known = COLUMNS.read(record, header, {}, "x")
    x = np.concatenate([values, known, np.ones((4000, 1))], axis=1)
    weights = np.linalg.lstsq(x[:2000], np.eye(3)[truth[:2000]], rcond=None)[0]
    linear = ((x[2000:] @ weights).argmax(axis=1) == truth[2000:]).mean()
    assert 0.6 < linear < bayes_limit() + error
    assert 0.12 < 1 - known[:, 3].mean() < 0.18


def test_classes_and_signs_agree() -> None:
    assert [("ring" in name, "halo" in name) for name in CLASSES] == list(zip(RING, HALO, strict=True))
