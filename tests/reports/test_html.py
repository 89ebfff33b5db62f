import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from wardround.reports.html import PARTS, Cell, Table, duration, html, interval, number, size

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<script>alert('x')</script>\" onload=\"y"


def test_every_text_and_attribute_is_escaped() -> None:
    evil = Table(EVIL, [EVIL], [[EVIL, Cell(EVIL, EVIL, EVIL)]])
    pieces = [PARTS.soft(EVIL), PARTS.bullets([EVIL]), PARTS.pairs([(EVIL, EVIL)]), PARTS.table(evil)]
    page = html("plain_report.html", {"run": {"job": EVIL, "outcome": EVIL, "problems": [EVIL]}, "rounds": [EVIL]})
    for piece in [*pieces, page]:
        assert "<script" not in piece
        assert 'onload="' not in piece
        assert "&lt;script&gt;" in piece


def test_a_name_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        html("plain_report.html", {"run": {"job": "j", "problems": []}, "rounds": []})


def test_a_table_has_headers_for_columns_and_rows() -> None:
    found = PARTS.table(Table("what", ["a", "b"], [["r1", 1], ["r2", 2]], marked=1))
    assert found.count('scope="col"') == 2
    assert found.count('scope="row"') == 2
    assert "<caption>what</caption>" in found
    assert '<tr class="deployed"><th scope="row">r2</th><td>2</td></tr>' in found


def test_numbers() -> None:
    assert number(0.12345) == "0.123"
    assert number(-0.5, 1) == "−0.5"
    assert number(0.0) == "0.000"
    assert number(None) == "–"


def test_intervals() -> None:
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75}) == Cell("0.500", "[0.250, 0.750]")
    assert interval({"value": 0.5, "low": None, "high": 0.75}) == Cell("0.500", "no interval")
    assert PARTS.cell(Cell("0.500", "no interval")) == '0.500<span class="ci"> no interval</span>'
    assert interval({"value": None}) == interval({}) == interval(None) == "–"


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_340_000, "2.3 MB"), (5 * 10**9, "5.0 GB")],
)
def test_sizes(count: int | None, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "–"), (12.34, "12.3 s"), (243, "4 min 3 s"), (59.99, "60.0 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_an_interval_that_looks_exact_is_not_shown() -> None:
    for low, high in ((1 / 3, 1 / 3), (0.33341, 0.33349), (None, 0.5)):
        found = interval({"value": 1 / 3, "low": low, "high": high, "cases": 4})
        assert found == Cell("0.333", "no interval")


def test_a_built_wheel_holds_templates_and_weights_and_renders(tmp_path: Path) -> None:
    """A folder that pyproject.toml forgets works in the checkout and is missing after `pip install .`."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path)]
    subprocess.run([*build, str(copied(tmp_path))], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = """
import sys
from pathlib import Path
from wardround.models import shipped
from wardround.models.weights_file import WeightsFile
from wardround.reports import html
from wardround.serving.page import PAGE
start = WeightsFile.of({"shipped": "randomised_phantoms", "sha256": shipped.card("randomised_phantoms")["sha256"]})
at = html.__file__
html.html("plain_report.html", {"run": {"job": "j", "outcome": "o", "problems": []}, "rounds": []})
templates = html._TEMPLATES.list_templates()
print(at, all(html._TEMPLATES.get_template(name) for name in templates), len(PAGE) > 1000, len(start.tensors()[0]) > 10)
"""
    run = [sys.executable, "-c", code]
    found = subprocess.run(
        run, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert found.stdout.split() == [str(tmp_path / "site/wardround/reports/html.py"), "True", "True", "True"], (
        found.stderr
    )


def copied(tmp_path: Path) -> Path:
    """Return a copy of what a wheel is built from, so that the build writes nothing into the checkout."""
    source = tmp_path / "source"
    for name in ("custom", "app_configs", "poc_workspace"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source
