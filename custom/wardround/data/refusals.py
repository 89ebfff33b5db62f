"""Many refusals in one, so that a person can mend a folder at once and not file by
file.
"""

from __future__ import annotations

from collections.abc import Sequence

from wardround.core.errors import DataRefused

SHOWN = 10


def refuse_together(problems: Sequence[DataRefused], where: str) -> None:
    """Raise one DataRefused for all problems: the problem itself if there is one, or a
    list of the first SHOWN if there are more.

    Without a problem the function returns.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = [f"    {p.what}: {p.found} (expected: {p.expected})" for p in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"    and {len(problems) - SHOWN} more")
    raise DataRefused(
        f"{len(problems)} cases under {where}",
        found="\n".join(["", *lines]),
        expected="every case complete and readable",
        fix=f'first: {problems[0].fix}; or list only the good cases under "cases" in the site\'s file',
    )
