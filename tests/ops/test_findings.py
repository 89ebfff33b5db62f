import pytest

from wardround.core.errors import DataRefused
from wardround.ops.findings import FAIL, PASS, WARN, Finding, failed, passed, refused, warned


def test_what_is_not_passed_says_what_to_do():
    assert passed("disk", "enough").status == PASS
    assert warned("disk", "little", "make room").status == WARN
    assert failed("disk", "none", "make room").status == FAIL
    for status, fix in ((PASS, "do"), (WARN, ""), (FAIL, ""), ("FINE", "")):
        with pytest.raises(ValueError, match="finding"):
            Finding("disk", status, "x", fix)


def test_a_refusal_keeps_its_words():
    found = refused("data", DataRefused("case 'a'", found="garbage", expected="NIfTI", fix="copy it again"))
    assert (found.status, found.found, found.fix) == (FAIL, "case 'a': garbage", "copy it again (expected: NIfTI)")
