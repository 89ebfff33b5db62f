"""What the documents point at exists: pages, headings, tests in brackets, and files of the package."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TESTED = re.compile(r"\[((?:\w+/)?test_\w+(?:,\s+(?:\w+/)?test_\w+)*)\]")
LINE = re.compile(r"L\d+")
MODULE = re.compile(r"`((?:\w+/)+\w+\.py)`")


@pytest.fixture
def pages(repository: Path) -> dict[Path, str]:
    """The documents for people: path -> text without fenced code."""
    files = [repository / "README.md", repository / "poc_workspace" / "README.md", *(repository / "docs").glob("*.md")]
    return {file: FENCED.sub("", file.read_text(encoding="utf-8")) for file in files}


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in plain}


def leads_to(target: Path, anchor: str) -> bool:
    """Tell whether a page has this heading, or a file of code or JSON this line (`L12`)."""
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return anchor in anchors(text)
    return bool(LINE.fullmatch(anchor)) and 0 < int(anchor[1:]) <= len(text.splitlines())


def named(pattern: re.Pattern[str], pages: dict[Path, str]) -> Iterator[tuple[str, str]]:
    for page, text in pages.items():
        for found in pattern.findall(text):
            for one in re.split(r",\s+", found):
                yield page.name, one


def test_every_link_leads_to_a_page_and_a_heading(pages: dict[Path, str]) -> None:
    lost = []
    for page, text in pages.items():
        for link in LINK.findall(text):
            path, _, anchor = link.partition("#")
            if "://" in path:
                continue
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and not leads_to(target, anchor)):
                lost.append(f"{page.name}: {link}")
    assert lost == []


def test_every_test_in_brackets_exists(pages: dict[Path, str], repository: Path) -> None:
    found = list(named(TESTED, pages))
    assert len(found) > 50
    assert [one for one in found if not (repository / "tests" / f"{one[1]}.py").is_file()] == []


def test_every_file_that_a_document_names_exists(pages: dict[Path, str], repository: Path) -> None:
    roots = (repository, repository / "custom", repository / "custom" / "wardround")
    found = list(named(MODULE, pages))
    assert len(found) > 20
    assert [one for one in found if not any((root / one[1]).is_file() for root in roots)] == []


# A function, setting or class in backticks: two words at least, since single ones are words of any language.
NAME = re.compile(r"`([a-z]+(?:_[a-z]+)+|[A-Z][a-z]+(?:[A-Z][a-z]+)+)`")
# Names of others: NVFlare's commands and channels, a key of systemd, a network of timm.
OTHERS = {
    *("server_command", "client_command", "aux_communication"),
    *("ReadWritePaths", "vit_tiny"),
}


def test_every_name_in_backticks_is_one_of_ours_or_of_a_known_other(pages: dict[Path, str], repository: Path) -> None:
    """A name that was changed in the code stays in a page for ever, unless somebody looks."""
    folders = ("custom/**/*.py", "app_configs/**/*.yaml", "jobs/*/*/*/*.json", "poc_workspace/**/*", "tests/**/*.py")
    files = [file for folder in folders for file in repository.glob(folder) if file.is_file() and file.suffix != ".md"]
    words = {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8", errors="ignore"))}
    gone = [f"{page}: {name}" for page, name in named(NAME, pages) if name not in words | OTHERS]
    assert gone == []


WRITTEN = re.compile(r"^ +wardround .*--out ([A-Za-z_]+)(?= |$)", re.MULTILINE)


def test_git_ignores_what_the_commands_of_the_documents_write_into_a_clone(repository: Path) -> None:
    """They hold results and, at a hospital, masks of patients: nobody may commit them by mistake."""
    if not (repository / ".git").exists():
        pytest.skip("no clone, so git does not say what it ignores")
    files = [repository / "README.md", repository / "poc_workspace" / "README.md", *(repository / "docs").glob("*.md")]
    names = {name for file in files for name in WRITTEN.findall(file.read_text(encoding="utf-8"))}
    assert {"bundles", "masks", "my_jobs"} <= names
    asked = [f"{name}/file" for name in sorted(names)]
    told = subprocess.run(["git", "check-ignore", *asked], cwd=repository, capture_output=True, text=True, check=False)
    assert told.stdout.split() == asked
