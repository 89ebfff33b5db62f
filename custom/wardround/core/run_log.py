"""What happens in a run? Rounds, scores and problems, as the dictionary behind reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from wardround import __version__
from wardround.core.terminal import sized

if TYPE_CHECKING:
    from typing import Self

SHOWN_FACTS = ("label", "cases", "classes", "modalities", "label_kind", "device")


def now() -> str:
    """Return the time in UTC as ISO 8601, in whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job's settings with groups as dotted names, as reports print them.

    For example, `model` with `channels` becomes "model.channels".
    """
    found: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, Mapping):
            found |= {f"{key.removesuffix('_settings')}.{name}": one for name, one in value.items()}
        elif key != "config_type":
            found[key] = value
    return found


class RunLog:
    """Collects the rounds, scores and problems of one run.

    clock: returns seconds since some moment; it measures how long a round took.
    """

    def __init__(
        self,
        run: dict[str, Any],
        simulator: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.simulator = simulator
        self._clock = clock
        self._began = clock()
        self._round: dict[str, Any] = {}
        self._final_val: dict[str, float | None] = {}
        # Sites whose patients are real, not phantoms.
        self.real: set[str] = set()

    @classmethod
    def begin(
        cls,
        about: Mapping[str, Any],
        model: Mapping[str, Any],
        simulator: bool,
        history: list[dict[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Start the log of a run.

        A resumed run brings the history of its earlier rounds.
        """
        run = {
            "job": about["job"],
            "version": __version__,
            "algorithm": about["algorithm"],
            "started": now(),
            "simulator": simulator,
            "phantoms": any(facts["phantoms"] for entry in history for facts in entry["facts"].values()),
            "settings": {key: value for key, value in about.items() if key not in ("job", "algorithm")},
            "model": dict(model),
            "sites": {},
            "rounds": [],
            "final": {},
            "problems": [],
            "lost": [],
            "remarks": [],
        }
        record = cls(run, simulator, clock)
        for entry in history:
            record._add(entry)
        return record

    @property
    def problems(self) -> list[str]:
        """Return a copy of the problems that were noted so far."""
        return list(self.run["problems"])

    def problem(self, text: str, site: str | None = None) -> None:
        """Note something that makes the run incomplete.

        site: the site that was lost by it, if one was.
        """
        self.run["problems"].append(text)
        if site is not None:
            self.run["lost"].append(site)

    def begin_round(self, round_: int, bytes_down_each: int) -> None:
        """Open a round; its seconds are counted from here."""
        self._began = self._clock()
        self._round = {
            "round": round_,
            "down": bytes_down_each,
            "bytes_up": 0,
            "sites": {},
            "facts": {},
        }

    def seconds(self) -> float:
        """Return how long the round has been going on."""
        return self._clock() - self._began

    def update(
        self,
        site: str,
        numbers: Mapping[str, float | None],
        facts: Mapping[str, Any],
        size: int,
    ) -> None:
        """Note one accepted update."""
        self._round["sites"][site] = dict(numbers)
        self._round["facts"][site] = dict(facts)
        self._round["bytes_up"] += size

    def traffic(self, up: int = 0, down: int = 0) -> None:
        """Note further bytes of this round, all sites together."""
        self._round["bytes_up"] += up
        self._round["more_down"] = self._round.get("more_down", 0) + down

    def end_round(
        self,
        configured: list[str],
        aggregated: list[str],
        seconds: float,
        attempts: int = 1,
        recovered: Sequence[str] = (),
        missing: Mapping[str, str] | None = None,
        flagged: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Close a round and return its entry.

        The entry's `val_score` is the unweighted mean over sites of the score of the
        INCOMING model.

        missing: for each site that is not in the sum, the reason.
        flagged: for each site whose update the aggregation set apart, the reason. An
            entry has this key only if there is one.
        attempts: how often the sum was tried.
        recovered: the sites that had agreed on masks and are not in the sum.
        """
        sites = self._round["sites"]
        entry = self._round | {
            "seconds": seconds,
            "configured": configured,
            "trained": sorted(sites),
            "aggregated": sorted(aggregated),
            "attempts": attempts,
            "recovered": list(recovered),
            "missing": {site: (missing or {}).get(site, "no update") for site in configured if site not in aggregated},
            "bytes_down": self._round["down"] * len(sites) + self._round.get("more_down", 0),
            "val_score": _mean([numbers["val_score"] for numbers in sites.values()]),
            **({"flagged": dict(flagged)} if flagged else {}),
        }
        entry = {key: value for key, value in entry.items() if key not in ("down", "more_down")}
        self._add(entry)
        return entry

    def line(self, num_rounds: int) -> str:
        """Return the last round in one line."""
        last = self.run["rounds"][-1]
        sites = ", ".join(f"{site} {_shown(numbers['val_score'])}" for site, numbers in sorted(last["sites"].items()))
        loss = _shown(_mean([numbers["loss"] for numbers in last["sites"].values()]))
        return (
            f"round {last['round'] + 1}/{num_rounds} done: {len(last['aggregated'])}/{len(last['configured'])} sites, loss "
            f"{loss}, incoming score on validation: {sites}; {last['seconds']:.1f} s, "
            f"{sized(last['bytes_up'])} up, {sized(last['bytes_down'])} down"
        )

    def scores(self, site: str, scores: Mapping[str, Any]) -> None:
        """Note the scores of one site's final evaluation."""
        self._final_val[site] = scores["val_score"]
        self.run["final"][site] = {
            key: scores[key] for key in ("candidates", "deploy", "usable", "personal") if key in scores
        }

    def final_val_score(self) -> float | None:
        """Return the final model's mean validation score over the sites."""
        return _mean(list(self._final_val.values()))

    def best(self, history: list[dict[str, Any]], num_rounds: int) -> dict[str, Any] | None:
        """Return the round whose incoming model had the best mean validation score.

        The round `num_rounds` stands for the final model. It returns None when no round
        has a score.
        """
        rated = [{"round": entry["round"], "val_score": entry["val_score"]} for entry in history]
        rated += [{"round": num_rounds, "val_score": self.final_val_score()}]
        rated = [one for one in rated if one["val_score"] is not None]
        return max(rated, key=lambda one: float(one["val_score"])) if rated else None

    def never(self) -> list[str]:
        """Return the configured sites whose updates never counted.

        A site that was lost with a reason is not among them.
        """
        rounds = self.run["rounds"]
        configured = {site for entry in rounds for site in entry["configured"]}
        counted = {site for entry in rounds for site in entry["aggregated"]}
        return sorted(configured - counted - set(self.run["lost"]))

    def _add(self, entry: dict[str, Any]) -> None:
        for site, facts in entry["facts"].items():
            self.run["sites"][site] = {key: facts[key] for key in SHOWN_FACTS if key in facts}
            self.run["phantoms"] = self.run["phantoms"] or facts["phantoms"]
            self.real |= set() if facts["phantoms"] else {site}
        self.run["rounds"].append({key: value for key, value in entry.items() if key not in ("facts", "val_score")})


def remarks(num_rounds: Sequence[Mapping[str, Any]], lost: Sequence[str]) -> list[str]:
    """Return sentences about sites that missed some rounds or were flagged.

    A site that was lost has a problem of its own instead of a remark on missed rounds.
    """
    found: list[str] = []
    why: dict[tuple[str, str], list[str]] = {}
    for entry in num_rounds:
        missing = entry.get("missing", {})
        for site, reason in ((site, reason) for site, reason in missing.items() if site not in lost):
            why.setdefault((site, reason), []).append(str(entry["round"] + 1))
    for (site, reason), missed in why.items():
        found.append(f"{site} is not in round{'s' if len(missed) > 1 else ''} {', '.join(missed)}: {reason}")
    flagged: dict[str, list[str]] = {}
    for entry in num_rounds:
        for site in entry.get("flagged", {}):
            flagged.setdefault(site, []).append(str(entry["round"] + 1))
    for site, when in flagged.items():
        found.append(f"{site} was flagged by the aggregation in round{'s' if len(when) > 1 else ''} {', '.join(when)}")
    return sorted(found)


def absent(missing: Mapping[str, str]) -> str:
    """Return in words which sites are missing and why."""
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(missing.items())) or "nobody is missing"


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None


def _shown(value: float | None) -> str:
    return "not reported" if value is None else f"{value:.3f}"
