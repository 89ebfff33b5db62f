"""The quickest drills of docs/operations.md, in one consortium of real processes; `python tests/support/run_drills.py` plays
them all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from drills import DRILLS
from stage import Consortium, stage


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with stage(tmp_path_factory.mktemp("drills")) as made:
        yield made


NIGHTLY = [pytest.param(name, marks=pytest.mark.nightly) for name in ("straggler", "wrong_model")]


@pytest.mark.parametrize("name", ["site_killed", *NIGHTLY])
def test_what_operations_promise(consortium, name, capsys):
    DRILLS[name](consortium)
    assert "report" in capsys.readouterr().out


def test_every_drill_is_in_the_guide(repository):
    guide = (repository / "docs" / "operations.md").read_text()
    assert [name for name in DRILLS if f"`{name}`" not in guide] == []
