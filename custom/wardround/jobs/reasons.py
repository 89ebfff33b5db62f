"""Why did a run fail? The refusals among the lines of the simulator, kept for its end.

A refusal has four lines (core/errors.py). When it is printed its first line appears at
once, between the rounds; the rest of it, which says what to do, is kept and becomes the
last thing on the screen.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# The beginning of a record in the log: of the quiet console (flare/quiet.py), or of NVFlare's own.
_RECORD = re.compile(r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(?:,\d+)?(?: - \S+ -)? [A-Z]+(?: -)? (?:\[[^\]]*\] - )?")
_DETAIL, _LAST = "  found:    ", "  to do:    "
# Where a part is refused while NVFlare builds it, the refusal ends a traceback.
_RAISED = re.compile(r"wardround\.core\.errors\.\w+: ")
# A site's refusal is the cause; the server's, that too few sites are left, follows from it.
_OF_SITE = "REFUSED by "
# NVFlare repeats what ended a run behind these words.
_REPEATED = "Aborting current RUN due to FATAL_SYSTEM_ERROR received: "
_END = "INCOMPLETE: "
# A hundred sites may refuse for a hundred reasons.
MOST = 3


class Reasons:
    """The refusals of one run.

    show: shows one line at once.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._message = ""
        self._block: list[str] | None = None
        self._blocks: list[list[str]] = []

    def line(self, line: str) -> None:
        """Take the next line of the simulator; show it, or keep it for the end."""
        if begins := _RECORD.match(line):
            self._block, said = None, line[begins.end() :]
            self._message = said.removeprefix(_REPEATED)
            if said.startswith(_REPEATED + _END):
                # The report says it as PROBLEM, with the site that it is about.
                return
            self._show(line[: begins.end()] + self._message)
        elif raised := _RAISED.match(line):
            self._message = line[raised.end() :]
            self._show(line)
        elif line.startswith(_DETAIL) and self._message:
            self._block = [self._message, line]
            self._blocks.append(self._block)
        elif self._block is not None:
            self._block.append(line)
            self._block = None if line.startswith(_LAST) else self._block
        else:
            self._show(line)

    def words(self, logs: str) -> str:
        """Return the refusals of the sites or, where there are none, of the server,
        each of them once; "" where nothing was refused.

        logs: where the refusals beyond MOST are found.
        """
        found = list(dict.fromkeys("\n".join(map(str.rstrip, block)) for block in self._blocks))
        found = [one for one in found if one.startswith(_OF_SITE)] or found
        more = [f"and {len(found) - MOST} more: {logs}"] if len(found) > MOST else []
        return "\n".join([*found[:MOST], *more])
