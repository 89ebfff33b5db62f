"""What was refused in a run is the last thing on the screen, once."""

from __future__ import annotations

import pytest

from wardround.core.errors import ConfigRefused, DataRefused, Refusal
from wardround.jobs.reasons import MOST, Reasons

AT = "09:56:24 "
FATAL = "Aborting current RUN due to FATAL_SYSTEM_ERROR received: "


def refusal(kind: type[Refusal] = DataRefused, what: str = "case 'c1'") -> Refusal:
    return kind(what, found="no modality\n    c1.nii.gz", expected="t1 or t2", fix="name it c1_t1.nii.gz")


def told(text: str) -> tuple[list[str], str]:
    """Return the lines that are shown at once, and the words at the end."""
    shown: list[str] = []
    reasons = Reasons(shown.append)
    for line in text.splitlines():
        reasons.line(line)
    return shown, reasons.words("logs")


def test_a_sites_refusal_is_announced_at_once_and_said_at_the_end() -> None:
    lines = [f"{AT}ERROR REFUSED by site-1 (data): {refusal()}", f"{AT}ERROR LOST site-1 in round 1: refused: data"]
    too_few = refusal(ConfigRefused, "the run stops: round 1 has too few sites")
    shown, words = told("\n".join([*lines, f"{AT}ERROR {too_few}", f"{AT}INFO open this: report.html"]))
    assert [line.removeprefix(AT) for line in shown] == [
        "ERROR REFUSED by site-1 (data): case 'c1'",
        "ERROR LOST site-1 in round 1: refused: data",
        "ERROR the run stops: round 1 has too few sites",
        "INFO open this: report.html",
    ]
    assert words == f"REFUSED by site-1 (data): {refusal()}", "the server's follows from the site's"


def test_what_nvflare_repeats_is_said_once() -> None:
    why = f"the run cannot start: {refusal(ConfigRefused)}"
    text = f"{AT}ERROR {why}\n{AT}ERROR {FATAL}{why}\n{AT}ERROR {FATAL}INCOMPLETE: it was aborted"
    shown, words = told(text)
    assert words == why
    assert shown == [f"{AT}ERROR the run cannot start: case 'c1'"] * 2


@pytest.mark.parametrize(
    "begins", ["2026-12-01 09:56:25,289 - ServerController - ERROR - [identity=x, run=y] - ", f"{AT}CRITICAL "]
)
def test_nvflares_own_form_of_a_record_is_read_too(begins: str) -> None:
    assert told(begins + str(refusal()))[1] == str(refusal())


def test_a_refusal_at_the_end_of_a_traceback_is_found_and_what_follows_is_shown() -> None:
    text = (
        f"{AT}ERROR Traceback (most recent call last):\n  File x\nwardround.core.errors.DataRefused: {refusal()}\nmore"
    )
    shown, words = told(text)
    assert words == str(refusal())
    assert shown[-1] == "more"
    assert "  File x" in shown


def test_many_reasons_are_counted() -> None:
    lines = [f"{AT}ERROR REFUSED by site-{n} (data): {refusal()}" for n in range(MOST + 2)]
    words = told("\n".join(lines))[1]
    assert words.count("REFUSED by") == MOST
    assert words.endswith("and 2 more: logs")


def test_a_run_without_a_refusal_has_no_reason() -> None:
    lines = [f"{AT}INFO round 1/1 done", f"{AT}ERROR LOST site-1 in round 1: no answer"]
    assert told("\n".join(lines)) == (lines, "")
