import pytest

from wardround.core import errors

KINDS = [errors.DataRefused, errors.ConfigRefused, errors.ModelRefused, errors.ReleaseRefused, errors.RoundRefused]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_refusal_tells_what_was_found_expected_and_what_to_do(kind):
    refusal = kind("case 7", found="4 slices", expected="5 or more", fix="export it again")
    assert str(refusal) == "case 7\n  found:    4 slices\n  expected: 5 or more\n  to do:    export it again"
    assert (refusal.what, refusal.found, refusal.expected, refusal.fix) == (
        "case 7",
        "4 slices",
        "5 or more",
        "export it again",
    )
    assert isinstance(refusal, errors.Refusal)


def test_every_kind_is_here_and_has_a_code_of_its_own():
    """The code is the only part of a refusal that travels: one short lower-case word."""
    assert set(errors.Refusal.__subclasses__()) >= set(KINDS)
    codes = [kind.code for kind in (errors.Refusal, *KINDS)]
    assert len(set(codes)) == len(codes)
    assert all(code.isalpha() and code.islower() and len(code) <= 16 for code in codes)


def test_a_refusal_cannot_leave_a_part_out():
    with pytest.raises(TypeError):
        errors.DataRefused("case 7", found="4 slices")
