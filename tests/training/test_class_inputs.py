"""Cases for a classifier: what is present, in the model's order whatever the folder's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wardround.core.errors import DataRefused
from wardround.data.description import Description, Row, write_folder
from wardround.data.ehr import Table
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_types import spec_of, write_types
from wardround.training.class_inputs import read_cases, read_images

SPEC = spec_of(32)


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    return write_types(tmp_path_factory.mktemp("inputs") / "north", hospital(0), 0, 4, (32, 32, 24))


def test_another_order_of_sequences_and_columns_is_the_same_patient(cases, tmp_path):
    whole = read_cases(cases, None, SPEC, True)
    turned = replace(SPEC, modalities=SPEC.modalities[::-1], table=Table(SPEC.table.columns[::-1]))
    other = read_cases(cases, None, turned, True)
    places = [turned.table.features.index(feature) for feature in SPEC.table.features]
    np.testing.assert_array_equal(other.values[:, places], whole.values)
    np.testing.assert_array_equal(other.known[:, places], whole.known)
    images, present = read_images(whole, range(4), SPEC)
    backwards, there = read_images(other, range(4), turned)
    np.testing.assert_array_equal(backwards[:, ::-1], images)
    np.testing.assert_array_equal(there[:, ::-1], present)


def test_a_record_alone_is_a_case_and_nothing_at_all_is_not(cases, tmp_path):
    rows = [Row("a", "a", "", {}, {"age": "50"}), Row("b", "b", "", {"t1": "phantom-north-p000_t1.png"})]
    folder = write_folder(tmp_path / "few", Description(SPEC, cases / "images", tmp_path), rows)
    found = read_cases(folder, None, SPEC, True)
    assert [bool(files) for files in found.files] == [False, True]
    assert found.known.any(1).tolist() == [True, False]
    _, present = read_images(found, [0, 1], SPEC)
    assert present.sum(1).tolist() == [0, 1]
    with pytest.raises(DataRefused, match="nothing the model reads"):
        read_cases(folder, None, SPEC, False)
    assert read_cases(folder, "b", SPEC, False).names == ("b",)
