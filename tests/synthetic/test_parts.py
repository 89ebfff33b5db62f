from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused
from wardround.data.splits import PARTS, part_of, split_patients
from wardround.synthetic.hospitals import HOSPITALS, MOST_SITES, Hospital, hospital, number_of
from wardround.synthetic.parts import case_name, patients_of_parts
from wardround.synthetic.phantoms import write_cohort

NORTH = HOSPITALS[0]


@pytest.mark.parametrize("profile", HOSPITALS, ids=lambda profile: profile.name)
def test_the_split_of_these_patients_has_the_wanted_sizes(profile: Hospital) -> None:
    """The split itself knows nothing of what was wanted: it sees ids."""
    wanted = {"train": 5, "val": 3, "test": 12}
    chosen = patients_of_parts(profile, wanted)
    assert list(chosen) == sorted(set(chosen))
    cases = {case_name(profile, i): case_name(profile, i) for i in chosen}
    split = split_patients(cases)
    assert {part: len(getattr(split, part)) for part in PARTS} == wanted
    assert {case: part_of(case) for case in cases} == {case: part for part in PARTS for case in getattr(split, part)}


def test_more_patients_of_a_part_keep_those_of_the_others() -> None:
    few = set(patients_of_parts(NORTH, {"train": 4, "val": 2, "test": 3}))
    more = set(patients_of_parts(NORTH, {"train": 4, "val": 2, "test": 12}))
    assert few < more
    assert {part_of(case_name(NORTH, i)) for i in more - few} == {"test"}


@pytest.mark.parametrize("wanted", [{"train": 0, "val": 1, "test": 1}, {"train": 3, "test": 2}])
def test_an_empty_part_is_refused(wanted: dict[str, int]) -> None:
    with pytest.raises(ConfigRefused, match="1 patient or more"):
        patients_of_parts(NORTH, wanted)


def test_a_chosen_patient_is_the_one_of_that_number(tmp_path: Path) -> None:
    """Byte for byte, and with its own row of the record."""
    first = write_cohort(tmp_path / "first", NORTH, 0, (12, 12, 12), 4)
    chosen = write_cohort(tmp_path / "chosen", NORTH, 0, (12, 12, 12), (1, 3))
    assert [folder.name for folder in chosen] == [first[1].name, first[3].name]
    for folder in chosen:
        for path in folder.iterdir():
            assert path.read_bytes() == (tmp_path / "first" / folder.name / path.name).read_bytes()
    rows = (tmp_path / "first" / "record.csv").read_text().splitlines()
    assert (tmp_path / "chosen" / "record.csv").read_text().splitlines() == [rows[0], rows[2], rows[4]]


def test_every_profile_has_the_number_it_came_from() -> None:
    assert [number_of(hospital(i)) for i in range(MOST_SITES)] == list(range(MOST_SITES))
    assert number_of(Hospital("elsewhere", 3, (10.0, 12.0))) == 0
