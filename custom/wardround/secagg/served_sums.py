"""Into which sums did this site's updates go, over all jobs?

The same update in sums of two sets of sites is refused: the difference of two such sums
is one hospital's update, in plaintext. Within a run the site's secrets remember what
was opened (secagg/key_agreement.py), but a job that is simply submitted a second time
has new secrets. So the hospital keeps, beside its ledger, for every digest of settings
and for every round: the sites that it masked for, the sites whose sum it opened, and a
digest of its update. Another run of the same settings, or one whose update is the same,
must name the same sites. A run that continues from kept state is the same run. What
cannot be seen is a job whose settings differ a little, so that its updates differ a
little.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wardround.core import files
from wardround.core.errors import RoundRefused

FILE = "wardround_served.json"
FORMAT = "wardround served 1"


def require_same_sites(folder: Path, run: str, settings: str, round_: int, **seen: Any) -> None:
    """Write down what is seen of a round, before an answer leaves.

    If another run of the same settings or update saw something else, it raises
    RoundRefused.

    run: the id of the job as which this run began.
    seen: `roster` and `opened` (names of sites), and `update` (a digest).
    """
    with _locked(folder):
        kept = _read(folder)
        rounds = kept.setdefault(settings, {})
        mine = rounds.setdefault(str(round_), {"run": run})
        others = [mine] if mine["run"] != run else []
        others += [one for one in _all(kept) if one["run"] != run and one.get("update") == seen.get("update", "none")]
        for other in others:
            for name in ("roster", "opened"):
                if name in seen and other.get(name, sorted(seen[name])) != sorted(seen[name]):
                    raise _refused(round_, name, other[name], seen[name])
        if mine["run"] == run:
            mine |= {name: value if isinstance(value, str) else sorted(value) for name, value in seen.items()}
        # On the disk before the answer leaves: a restart must not forget who was in a
        # sum.
        files.write(
            folder / FILE,
            json.dumps({"format": FORMAT, "settings": kept}),
            private=True,
            durable=True,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / f"{FILE}.lock").open("w") as lock:
        # Two jobs may run at once: the one that reads last must see what was written.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        kept = said["settings"] if said["format"] == FORMAT else None
        _all(kept)
    except (ValueError, TypeError, KeyError, AttributeError):
        kept = None
    if not isinstance(kept, dict):
        raise RoundRefused(
            f"this site's memory of sums {path}",
            found="something that this site did not write",
            expected="which sites its updates were summed with, as it was written",
            fix="put the file back from a copy: without it nobody knows which sums were opened",
        )
    return kept


def _all(kept: Any) -> list[Mapping[str, Any]]:
    return [one for rounds in kept.values() for one in rounds.values() if one["run"]]


def _refused(round_: int, name: str, before: Sequence[str], now: Sequence[str]) -> RoundRefused:
    what = "were asked" if name == "roster" else "are in the sum"
    return RoundRefused(
        f"round {round_ + 1} of a job that this site has served before",
        found=f"another run of the same settings, in which {', '.join(sorted(now))} {what}",
        expected=f"the sites of the first one, {', '.join(before)}: the difference of two sums is one hospital's update",
        fix="resume the old run, or agree with all hospitals on a job with another seed (`--set task.seed=1`)",
    )
