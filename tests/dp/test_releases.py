import json
import math

import pytest

from wardround.core.errors import ConfigRefused
from wardround.dp.releases import (
    GaussianRelease,
    SampledGaussianRelease,
    UnknownRelease,
    covers,
    from_json,
    merged,
    repeated,
    rest,
    seen_by,
    times,
    to_json,
)

GAUSSIAN = GaussianRelease("hospital", 1.5, 10)
SAMPLED = SampledGaussianRelease("patient", 1.1, 0.05, 200)
UNKNOWN = UnknownRelease("a filter of somebody else")


@pytest.mark.parametrize("release", [GAUSSIAN, SAMPLED, UNKNOWN])
def test_json_and_back(release):
    assert from_json(json.loads(json.dumps(to_json(release)))) == release


@pytest.mark.parametrize("kind", [GaussianRelease, SampledGaussianRelease, UnknownRelease])
def test_a_promise_has_no_defaults(kind):
    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (GaussianRelease, ("voxel", 1.0, 1), "unit 'voxel'"),
        (GaussianRelease, ("patient", 0, 1), "noise_multiplier 0"),
        (GaussianRelease, ("patient", -1.0, 1), "noise_multiplier -1.0"),
        (GaussianRelease, ("patient", math.nan, 1), "noise_multiplier nan"),
        (GaussianRelease, ("patient", math.inf, 1), "noise_multiplier inf"),
        (GaussianRelease, ("patient", True, 1), "noise_multiplier True"),
        (GaussianRelease, ("patient", "1", 1), "noise_multiplier '1'"),
        (GaussianRelease, ("patient", 1.0, 0), "count 0"),
        (GaussianRelease, ("patient", 1.0, 1.5), "count 1.5"),
        (GaussianRelease, ("patient", 1.0, True), "count True"),
        (SampledGaussianRelease, ("patient", 1.0, 0.0, 1), "sample_rate 0.0"),
        (SampledGaussianRelease, ("patient", 1.0, 1.01, 1), "sample_rate 1.01"),
        (SampledGaussianRelease, ("patient", 1.0, math.nan, 1), "sample_rate nan"),
        (SampledGaussianRelease, ("patient", 1.0, 0.5, 0), "steps 0"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, values, words):
    with pytest.raises(ConfigRefused, match="a private release") as refused:
        kind(*values)
    assert words in refused.value.found


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "gaussian",
        {},
        {"kind": None},
        {"kind": ["gaussian"]},
        {"kind": "laplace", "unit": "patient", "scale": 1.0},
        {"kind": "gaussian", "unit": "patient", "noise_multiplier": 1.0},
        {"kind": "gaussian", "unit": "patient", "noise_multiplier": 1.0, "count": 1, "discount": 0.5},
        {"kind": "gaussian", "unit": "patient", "noise_multiplier": 0, "count": 1},
        {"kind": "gaussian", "unit": "patient", "noise_multiplier": 1.0, "count": 0},
        {"kind": "gaussian", "unit": "patient", "noise_multiplier": math.nan, "count": 1},
        {"kind": "gaussian", "unit": ["patient"], "noise_multiplier": 1.0, "count": 1},
        {"kind": "sampled_gaussian", "unit": "patient", "noise_multiplier": 1.0, "sample_rate": 0, "steps": 1},
        {"kind": "unknown"},
        {"kind": "unknown", "what": {"a": 1}},
    ],
)
def test_what_a_ledger_holds_and_nobody_knows_is_unknown_and_never_nothing(value):
    found = from_json(value)
    assert isinstance(found, UnknownRelease)
    assert isinstance(found.what, str)
    assert not any(covers(found, unit) for unit in ("image", "patient", "hospital"))
    assert from_json(to_json(found)) == found


def test_a_release_hides_its_unit_and_the_smaller_ones():
    table = {
        unit: [other for other in ("image", "patient", "hospital") if covers(GaussianRelease(unit, 1.0, 1), other)]
        for unit in ("image", "patient", "hospital")
    }
    assert table == {
        "image": ["image"],
        "patient": ["image", "patient"],
        "hospital": ["image", "patient", "hospital"],
    }


def test_for_a_smaller_unit_the_contribution_is_replaced():
    """Removed: from u to 0, C at most. Replaced: from u to -u, 2 C."""
    assert seen_by(GAUSSIAN, "hospital") == GAUSSIAN
    assert seen_by(GAUSSIAN, "patient") == GaussianRelease("patient", 0.75, 10)
    assert seen_by(GAUSSIAN, "image") == GaussianRelease("image", 0.75, 10)
    assert seen_by(SAMPLED, "patient") == SAMPLED
    assert seen_by(SAMPLED, "image") == GaussianRelease("image", 0.55, 200)
    assert seen_by(UNKNOWN, "image") == UNKNOWN


def test_equal_releases_are_counted_together():
    found = merged([GAUSSIAN, SAMPLED, repeated(GAUSSIAN, 3), UNKNOWN, SAMPLED, UNKNOWN])
    assert found == [repeated(GAUSSIAN, 13), repeated(SAMPLED, 400), UNKNOWN]
    assert [times(one) for one in found] == [13, 400, 1]


def test_what_is_left_of_a_plan():
    assert rest([GAUSSIAN], []) == [GAUSSIAN]
    assert rest([GAUSSIAN], [repeated(GAUSSIAN, 4), repeated(GAUSSIAN, 5)]) == [repeated(GAUSSIAN, 1)]
    assert rest([GAUSSIAN], [repeated(GAUSSIAN, 11)]) == []
    assert rest([GAUSSIAN], [GaussianRelease("hospital", 1.6, 9), SAMPLED, UNKNOWN]) == [GAUSSIAN]
