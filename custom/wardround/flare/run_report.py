"""The end of a run at the server: it writes run.json, report.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from logging import Logger
from pathlib import Path
from typing import Any

from wardround.core import files
from wardround.core.run_log import RunLog, now, remarks
from wardround.flare.last_resort import Failure, tried
from wardround.reports.page import REPORT, write_plain_report, write_report
from wardround.reports.summary import ending


class RunReport(RunLog):
    """A run's log that `close` writes down."""

    def note(self, failure: Failure | None, logger: Logger) -> None:
        """Note what stopped the run, if anything did. The details go to the log only.

        failure: what stopped the run, or None.
        """
        if failure is not None:
            self.problem(failure.words)
            logger.error(f"the run stops: {failure.details}")

    def close(self, folder: Path, best: Mapping[str, Any] | None) -> Path:
        """Write run.json and the report, and return the page.

        A report that cannot be drawn is written as a plain page instead, and the run
        counts as incomplete.

        best: the round whose model had the best validation score, or None.
        """
        for site in self.never():
            self.problem(f"{site} is in no round", site)
        self.run |= {
            "remarks": remarks(self.run["rounds"], self.run["lost"]),
            "finished": now(),
            "best": best,
            "outcome": "incomplete" if self.run["problems"] else "complete",
        }
        self._write(folder)
        # run.json is written first: whatever breaks the drawing, the log of the run is
        # kept.
        failure = tried(lambda: write_report(self.run, folder, self._pictures(folder)))
        if failure is not None:
            self.problem(f"the report could not be drawn: {failure.words}")
            self.run["outcome"] = "incomplete"
            self._write(folder)
            write_plain_report(self.run, folder)
        return folder / REPORT

    def _pictures(self, folder: Path) -> list[Path]:
        """Return the simulated sites' pictures of synthetic patients.

        Pictures of real patients, and their ids, stay at the site.
        """
        root = folder.parent.parent.parent
        found = sorted(root.glob("*/*/wardround/overlays/*.png")) if self.simulator else []
        return [path for path in found if path.relative_to(root).parts[0] not in self.real]

    def _write(self, folder: Path) -> None:
        files.write(folder / "run.json", json.dumps(self.run, indent=1))


def conclusion(page: Path) -> list[str]:
    """Return the last lines of a run's log, from the report.json beside its page.

    Where there is no such file, the line names the page.
    """
    file = page.with_name("report.json")
    if not file.is_file():
        return [f"open this: {page}"]
    return ending(json.loads(file.read_text(encoding="utf-8")), page)
