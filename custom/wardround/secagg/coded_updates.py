"""What does one site code for its secure sums, and keep? The readable half: nothing here
leaves the site.

An update is coded into integers once and written down, so that every attempt of a round
hides the same ones (secagg/client.py).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core import files
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import RoundRefused
from wardround.core.rng import stream
from wardround.secagg import grids
from wardround.secagg.fixed_point import FixedStep, Grid, encode, first_grid, fixed_grid
from wardround.secagg.spec import SecAggSpec


class CodedUpdates:
    """The coded updates of one job at one site, in a folder of its own.

    name: the site's, by which its rounding is drawn.
    noise: under hospital-level DP, updates arrive noised, in steps of a fixed grid.
    carries: what coding left over of a round is added to the next update; else `left`
        returns it to whoever adds it.
    """

    def __init__(
        self,
        secagg: SecAggSpec,
        name: str,
        folder: Path,
        seed: int,
        noise: FixedStep | None,
        carries: bool,
    ) -> None:
        self.secagg = secagg
        self.name = name
        self.folder = folder
        self.seed = seed
        self.noise = noise
        self._carries = carries and noise is None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def holds(self, round_: int) -> bool:
        """Return whether the update of a round is coded already."""
        return self._held(round_).is_file()

    def hold(
        self, round_: int, update: Arrays, patients: int, initial: Arrays, said: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Code an update once, write it down, and return what the receipt says.

        initial: the job's first weights, for round 0.
        said: JSON that goes with the update in every attempt. What coding left over of the
            round before joins only an update with the same `outbound_digest`.
        """
        if not self.holds(round_):
            if round_ == 0:
                self.begin({name: initial[name] for name in update if name in initial})
            grid = self.grid(round_)
            kept = self._carries and self.holds(round_ - 1)
            kept = kept and self.said(round_ - 1).get("outbound_digest") == said.get("outbound_digest")
            residual = self._read(round_ - 1, "residual") if kept else None
            draws = stream(self.seed, "rounding", self.name, round_)
            coded = encode(grid, update, residual, self.secagg.weight(patients), patients, draws)
            file = io.BytesIO()
            np.savez(
                file,
                fields=coded.fields.astype(np.int16),
                residual=coded.residual,
                clipped=coded.clipped,
                said=json.dumps(said),
            )
            # On the disk first: an attempt that is repeated reads these integers.
            files.write(self._held(round_), file.getvalue(), private=True, durable=True)
            for old in (self._held(round_ - 2), self.roster_file(round_ - 2)):
                old.unlink(missing_ok=True)
        clipped, values = int(self._read(round_, "clipped")), self.grid(round_).fields
        return {"values": values, "clipped": clipped, "bits": self.secagg.bits}

    def begin(self, blocks: Arrays, round_: int = 0) -> None:
        """Write the first grid of these blocks, which follows from the job's first weights."""
        grids.write(self.folder, round_, self._first_grid(blocks))

    def left(self, round_: int, patients: int) -> dict[str, Array]:
        """Return what coding left over of the update of a round, by block and in its units."""
        values = self._read(round_, "residual") / self.secagg.weight(patients)
        return self.grid(round_).layout.unflatten(values.astype(np.float32))

    def grid(self, round_: int) -> Grid:
        """Return the grid of a round that this site has reached."""
        return grids.read(self.folder, round_)

    def fields(self, round_: int) -> NDArray[np.int32]:
        """Return the integers of a round: readable, so they stay at the site."""
        return self._read(round_, "fields").astype(np.int32)  # type: ignore[no-any-return]

    def said(self, round_: int) -> dict[str, Any]:
        """Return what was said when the update was coded."""
        return dict(json.loads(str(self._read(round_, "said"))))

    def forget(self, round_: int) -> None:
        """Drop a round's integers: noised ones may enter the sums of ONE run only."""
        self._held(round_).unlink(missing_ok=True)

    def roster_file(self, round_: int) -> Path:
        """Return where a site notes who takes part in a round in which it hid its update."""
        return self.folder / f"roster-{round_:05d}.json"

    def _first_grid(self, blocks: Arrays) -> Grid:
        if self.noise is not None:
            return fixed_grid(Layout.of(blocks), self.noise)
        return first_grid(blocks, self.secagg.bits, weighted=self.secagg.weighted)

    def _read(self, round_: int, key: str) -> Any:
        """Return one part of what `hold` wrote, or raise RoundRefused."""
        path = self._held(round_)
        try:
            with np.load(path, allow_pickle=False) as file:
                return file[key]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RoundRefused(
                f"this site's update of round {round_ + 1}",
                found=f"no readable {path.name} ({type(error).__name__})",
                expected="what this site wrote when it trained",
                fix="start the job again",
            ) from error

    def _held(self, round_: int) -> Path:
        return self.folder / f"held-{round_:05d}.npz"
