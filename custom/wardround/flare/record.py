"""What happened in a run, as it happens: the dictionary that reports.html is made from (run.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from logging import Logger
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.flare.last_resort import Failure, tried
from wardround.reports.page import REPORT, write_plain_report, write_report
from wardround.reports.summary import ending, names

SHOWN_FACTS = ("label", "cases", "classes", "modalities", "label_kind", "device")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job's settings with groups as dotted names ("model.channels"), as reports print them."""
    found: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, Mapping):
            found |= {f"{key.removesuffix('_settings')}.{name}": one for name, one in value.items()}
        elif key != "config_type":
            found[key] = value
    return found


class RunRecord:
    """Collects rounds, scores and problems; `close` writes run.json, report.json and report.html."""

    def __init__(self, run: dict[str, Any], simulator: bool) -> None:
        self.run, self.simulator = run, simulator
        self._round: dict[str, Any] = {}
        self._final_val: dict[str, float | None] = {}
        self._real: set[str] = set()  # sites whose patients are not invented

    @staticmethod
    def begin(
        about: Mapping[str, Any], model: Mapping[str, Any], simulator: bool, history: list[dict[str, Any]]
    ) -> RunRecord:
        """Start a record; a resumed run brings the history of its earlier rounds."""
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
            "remarks": [],
        }
        record = RunRecord(run, simulator)
        for entry in history:
            record._add(entry)
        return record

    @property
    def problems(self) -> list[str]:
        return list(self.run["problems"])

    def problem(self, text: str) -> None:
        """Note something that makes the run incomplete."""
        self.run["problems"].append(text)

    def note(self, failure: Failure | None, logger: Logger) -> None:
        """Note what stopped the run, None for nothing; the details go to the server's own log."""
        if failure is not None:
            self.problem(failure.words)
            logger.error(f"the run stops: {failure.details}")

    def begin_round(self, round_: int, bytes_down_each: int) -> None:
        """Open a round."""
        self._round = {"round": round_, "down": bytes_down_each, "bytes_up": 0, "sites": {}, "facts": {}}

    def update(self, site: str, numbers: Mapping[str, float | None], facts: Mapping[str, Any], size: int) -> None:
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
    ) -> dict[str, Any]:
        """Close a round and return its entry; val_score is the unweighted mean over sites of the INCOMING model.

        missing: why, by site that is not in the sum
        attempts: how often the sum was tried | recovered: sites that had agreed on masks and are not in the sum
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
        }
        entry = {key: value for key, value in entry.items() if key not in ("down", "more_down")}
        self._add(entry)
        return entry

    def line(self, rounds: int) -> str:
        """Return the last round in one line."""
        last = self.run["rounds"][-1]
        sites = ", ".join(f"{site} {_shown(numbers['val_score'])}" for site, numbers in sorted(last["sites"].items()))
        loss = _shown(_mean([numbers["loss"] for numbers in last["sites"].values()]))
        return (
            f"round {last['round'] + 1}/{rounds} done: {len(last['aggregated'])}/{len(last['configured'])} sites, loss "
            f"{loss}, incoming score on validation: {sites}; {last['seconds']:.1f} s, "
            f"{last['bytes_up'] / 1e6:.1f} MB up, {last['bytes_down'] / 1e6:.1f} MB down"
        )

    def scores(self, site: str, scores: Mapping[str, Any]) -> None:
        """Note one site's judgement."""
        self._final_val[site] = scores["val_score"]
        self.run["final"][site] = {
            key: scores[key] for key in ("candidates", "deploy", "usable", "personal") if key in scores
        }

    def final_val_score(self) -> float | None:
        """Return the mean validation score of the final model over the sites that judged it."""
        return _mean(list(self._final_val.values()))

    def best(self, history: list[dict[str, Any]], rounds: int) -> dict[str, Any] | None:
        """Return the round whose incoming model had the best mean validation score; `rounds`: the final model."""
        rated = [{"round": entry["round"], "val_score": entry["val_score"]} for entry in history]
        rated += [{"round": rounds, "val_score": self.final_val_score()}]
        rated = [one for one in rated if one["val_score"] is not None]
        return max(rated, key=lambda one: float(one["val_score"])) if rated else None

    def close(self, folder: Path, best: Mapping[str, Any] | None) -> Path:
        """Write run.json and the report; return the page. A report that cannot be drawn is written as a plain page."""
        for site in self._never():
            self.problem(f"{site} is in no round")
        self.run |= {
            "remarks": remarks(self.run["rounds"], " ".join(self.run["problems"])),
            "finished": now(),
            "best": best,
            "outcome": "incomplete" if self.run["problems"] else "complete",
        }
        self._write(folder)
        failure = tried(lambda: write_report(self.run, folder, self._pictures(folder)))
        if failure is not None:
            self.problem(f"the report could not be drawn: {failure.words}")
            self.run["outcome"] = "incomplete"
            self._write(folder)
            write_plain_report(self.run, folder)
        return folder / REPORT

    def _pictures(self, folder: Path) -> list[Path]:
        """Return the simulated sites' pictures of invented patients; those of real ones, and their ids, stay at the site."""
        root = folder.parent.parent.parent
        found = sorted(root.glob("*/*/wardround/overlays/*.png")) if self.simulator else []
        return [path for path in found if path.relative_to(root).parts[0] not in self._real]

    def _write(self, folder: Path) -> None:
        (folder / "run.json").write_text(json.dumps(self.run, indent=1), encoding="utf-8")

    def _never(self) -> list[str]:
        """Return the sites that were configured and whose updates never counted, unless a problem names them."""
        rounds, told = self.run["rounds"], " ".join(self.run["problems"])
        configured = {site for entry in rounds for site in entry["configured"]}
        counted = {site for entry in rounds for site in entry["aggregated"]}
        return [site for site in sorted(configured - counted) if not names(told, site)]

    def _add(self, entry: dict[str, Any]) -> None:
        for site, facts in entry["facts"].items():
            self.run["sites"][site] = {key: facts[key] for key in SHOWN_FACTS if key in facts}
            self.run["phantoms"] = self.run["phantoms"] or facts["phantoms"]
            self._real |= set() if facts["phantoms"] else {site}
        self.run["rounds"].append({key: value for key, value in entry.items() if key not in ("facts", "val_score")})


def remarks(rounds: Sequence[Mapping[str, Any]], problems: str) -> list[str]:
    """Return in words which sites were missing in some rounds and are named in no problem."""
    found: list[str] = []
    why: dict[tuple[str, str], list[str]] = {}
    for entry in rounds:
        for site, reason in entry.get("missing", {}).items():
            why.setdefault((site, reason), []).append(str(entry["round"] + 1))
    for (site, reason), missed in why.items():
        found.append(f"{site} is not in round{'s' if len(missed) > 1 else ''} {', '.join(missed)}: {reason}")
    return [words for words in sorted(found) if not names(problems, words.split()[0])]


def conclusion(page: Path) -> list[str]:
    """Return the last lines of a run's log, from the report.json beside its page; a page without one: its path."""
    file = page.with_name("report.json")
    if not file.is_file():
        return [f"open this: {page}"]
    return ending(json.loads(file.read_text(encoding="utf-8")), page)


def absent(missing: Mapping[str, str]) -> str:
    """Return in words who is missing and why."""
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(missing.items())) or "nobody is missing"


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that were told."""
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None


def _shown(value: float | None) -> str:
    return "not told" if value is None else f"{value:.3f}"
