"""The grids of one site's secure sums, on disk: a site that starts again codes as before."""

from __future__ import annotations

import json
from pathlib import Path

from wardround.core import files
from wardround.core.arrays import Layout
from wardround.core.errors import RoundRefused
from wardround.secagg.fixed_point import Grid


def write(folder: Path, round_: int, grid: Grid) -> None:
    """Write the grid of a round."""
    layout = grid.layout
    said = {"names": layout.names, "shapes": layout.shapes, "bits": grid.bits, "exponents": grid.exponents}
    content = json.dumps({**said, "weighted": grid.weighted})
    files.write(_file(folder, round_), content, private=True, durable=True)


def read(folder: Path, round_: int) -> Grid:
    """Return the grid of a round that this site has reached; else RoundRefused."""
    path = _file(folder, round_)
    if not path.is_file():
        raise RoundRefused(
            f"the grid of round {round_ + 1}",
            found=f"no {path.name} in this site's state",
            expected="what the rounds before left",
            fix="resume with the same state folder, or start the job again",
        )
    said = json.loads(path.read_text(encoding="utf-8"))
    layout = Layout(tuple(said["names"]), tuple(tuple(shape) for shape in said["shapes"]))
    return Grid(layout, said["bits"], tuple(said["exponents"]), said["weighted"])


def _file(folder: Path, round_: int) -> Path:
    return folder / f"grid-{round_:05d}.json"
