"""How far a running job is, in one line: what `nvflare job stats` and `job monitor`
show, to the lead among others.

NVFlare's server asks every component when an administrator asks for statistics; nothing
is sent by itself. The line holds only what the server's own log and the report hold.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

ASKED = InfoCollector.EVENT_TYPE_GET_STATS
GROUP = "wardround"


@dataclass(frozen=True)
class Now:
    """Where a run is.

    round: -1 before the first round, `num_rounds` in the final evaluation.
    num_rounds: how many rounds there are.
    answered: how many sites have answered the question that is open now.
    asked: how many sites were asked that question.
    missing: the sites that are missing in this round.
    since: when the round began, by time.monotonic(), in seconds.
    """

    round: int
    num_rounds: int
    answered: int
    asked: int
    missing: tuple[str, ...]
    since: float


def tell(fl_ctx: FLContext, now: Now, history: Sequence[Mapping[str, Any]]) -> None:
    """Add the line, and the round as a number, to what NVFlare collects now.

    history: the rounds that are over.
    """
    collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
    if isinstance(collector, GroupInfoCollector):
        collector.set_info(GROUP, {"round": min(now.round + 1, now.num_rounds), "progress": words(now, history)})


def words(now: Now, history: Sequence[Mapping[str, Any]]) -> str:
    """Return for example "round 2/6: 3 of 4 sites, missing site-4, mean score 0.41,
    about 3 min left".

    history: entries of rounds, with the seconds that each took and the scores that
        sites sent.
    """
    which = (
        "the sites join"
        if now.round < 0
        else "judgement"
        if now.round >= now.num_rounds
        else f"round {now.round + 1}/{now.num_rounds}"
    )
    parts = [f"{which}: {now.answered} of {now.asked} sites" if now.asked else which]
    if now.missing:
        parts.append(f"missing {', '.join(sorted(now.missing))}")
    scores = [
        one["val_score"]
        for one in (history[-1]["sites"].values() if history else ())
        if one.get("val_score") is not None
    ]
    if scores:
        parts.append(f"mean score {mean(scores):.2f}")
    if (left := seconds_left(now, history)) is not None:
        parts.append(
            f"about {left / 60:.0f} min left" if left >= 90 else f"about {max(10, round(left, -1)):.0f} s left"
        )
    return ", ".join(parts)


def seconds_left(now: Now, history: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how many seconds the rounds that are left will take, or None before the
    first round is over.

    The final evaluation counts as one round.
    """
    if not history:
        return None
    each = float(mean(one["seconds"] for one in history[-3:]))
    left = now.num_rounds - max(0, now.round) + 1
    return max(0.0, left * each - (time.monotonic() - now.since))
