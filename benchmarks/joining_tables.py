"""The tables of joining.py, from its parts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from common import Part, Table, known, met_or_not, one_settings, table
from learners import ALONE, title
from paired import Gain, Scores, above, gain, means, merged, span

PATIENTS = {"DU": 45, "HT": 34, "FG": 14}
SMALLEST = "FG"
LEAST, LEAST_SMALLEST, LOSS, MEAN, CENTRAL = 0.03, 0.05, 0.005, 0.74, 0.01
# Candidates that cost no training; the part of `deployed` has their scores.
MIXED = ("interpolated", "blend")
CHOSEN_NEVER = ("ensemble", "deployed", *MIXED, *ALONE)
Rows = Mapping[str, Scores]


def all_of(parts: Sequence[Part], methods: Sequence[str]) -> dict[str, Table]:
    """Return every table, by recipe and start; parts of other settings than one another: ConfigRefused."""
    known(parts, "method", methods)
    made: dict[str, Table] = {}
    for recipe, start in sorted({(part.key["recipe"], part.key["start"]) for part in parts}):
        mine = [part for part in parts if (part.key["recipe"], part.key["start"]) == (recipe, start)]
        one_settings(mine)
        name = f"{recipe}-{start}"
        inside = [part for part in mine if "sites" in part.numbers]
        once = [part for part in inside if part.key["work"] == 1]
        if once:
            made |= {
                f"{name}-dice": dice(once),
                f"{name}-gain": gains(once),
                f"{name}-goals": goals(mine),
            }
        if {part.key["work"] for part in inside} - {1}:
            made[f"{name}-work"] = work(inside)
        if outside := [part for part in mine if "unseen" in part.numbers]:
            made[f"{name}-unseen"] = unseen(outside)
    return made


def rows_of(parts: Sequence[Part], part_of: str = "test") -> dict[str, Scores]:
    """Return label -> scores; a method's models after fine-tuning are METHOD+tuned.

    part_of: "test" or "val". Validation patients come in several folds, so each fold counts as a seed of its own.
    """
    found: dict[str, list[tuple[str, int, Mapping[str, float]]]] = {}
    for part in parts:
        seed, fold = int(part.key["seed"]), int(part.key["fold"])
        for site, row in part.numbers["sites"].items():
            method = part.key["method"]
            by_rule = {f"{method}:{rule}": one for rule, one in by_rules(row).items()}
            by_rule |= {name: row.get("candidates", {}).get(name) for name in MIXED}
            for label, one in ({method: row, f"{method}+tuned": row.get("tuned")} | by_rule).items():
                if one is not None:
                    found.setdefault(label, []).append(
                        (site, seed if part_of == "test" else 100 * seed + fold, one[part_of])
                    )
    return {label: merged(rows) for label, rows in found.items()}


def by_rules(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return rule -> the scores of the candidate that it chooses on validation; a row without candidates: nothing.

    The rules are those of reports/choice.py.
    """
    from wardround.messages.allowed_names import CANDIDATES
    from wardround.reports.choice import RULES, choose_by

    models = {}
    for name, one in row.get("candidates", {}).items():
        if name in CANDIDATES:
            patients = [one["val"][who] for who in sorted(one["val"])]
            models[name] = SimpleNamespace(value=sum(patients) / len(patients), patients=patients)
    return {rule: row["candidates"][choose_by(rule, models)] for rule in RULES} if models else {}


def mean(scores: Scores) -> float:
    """Return the unweighted mean over hospitals."""
    by_site = means(scores)
    return sum(by_site.values()) / len(by_site)


def dice(parts: Sequence[Part]) -> Table:
    """Return the test Dice of every row, the best mean first."""
    rows, val = rows_of(parts), rows_of(parts, "val")
    sites = list(next(iter(rows.values())))
    lines = []
    for label in sorted(rows, key=lambda label: -mean(rows[label])):
        by_site = means(rows[label])
        counts = [sum(map(len, rows[label][site].values())) for site in by_site]
        cells = [f"{by_site[site]:.3f}" if site in by_site else "-" for site in sites]
        lines.append(
            [
                title(label),
                *cells,
                f"{mean(rows[label]):.3f}",
                f"{mean(val[label]):.3f}",
                sum(counts),
            ]
        )
    return table(["method", *sites, "mean", "validation", "tests"], lines, parts)


def gains(parts: Sequence[Part]) -> Table:
    """Return every row less the local model, paired by patient."""
    rows = rows_of(parts)
    local = rows.get("local", {})
    sites = list(next(iter(rows.values())))
    lines = []
    found = {label: gain(scores, local) for label, scores in rows.items() if label != "local"}
    for label, one in sorted(found.items(), key=lambda item: -item[1].whole.value if item[1] else 1.0):
        if one is None:
            lines.append([title(label), *("-" for _ in sites), "-", "-"])
            continue
        cells = [span(one.sites[site]) if site in one.sites else "-" for site in sites]
        lines.append([title(label), *cells, span(one.whole), f"{one.worst[0]} {one.worst[1].value:+.3f}"])
    return table(["less local only", *sites, "mean", "worst"], lines, parts)


def chosen(parts: Sequence[Part]) -> str | None:
    """Return the federated row with the best mean validation Dice: what "shared" means in the goals."""
    val = rows_of(parts, "val")
    able = {label: mean(scores) for label, scores in val.items() if not label.startswith(CHOSEN_NEVER)}
    return max(able, key=lambda label: able[label]) if able else None


def comparisons(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the pre-registered comparisons of one recipe and start: name -> Gain or None, and the name of "shared"."""
    once = [part for part in parts if "sites" in part.numbers and part.key["work"] == 1]
    rows, shared = rows_of(once), chosen(once)
    local = rows.get("local")
    empty: Scores = {}

    def less(label: str | None, other: str) -> Gain | None:
        return gain(rows.get(label or "", empty), rows.get(other, empty))

    return {
        "shared_is": shared,
        "shared": less(shared, "local"),
        "deployed": less("deployed", "local"),
        "central": less(shared, "central_all"),
        "mean": max((mean(rows[label]) for label in (shared, "deployed") if label in rows), default=None),
        "local": None if local is None else mean(local),
    }


def goals(parts: Sequence[Part]) -> Table:
    """Return the goals of the docstring, what was found, and whether they are met."""
    found = comparisons(parts)
    shared, deployed, central = found["shared"], found["deployed"], found["central"]
    both = [one for one in (shared, deployed) if one is not None]
    best = max(both, key=lambda one: one.whole.value, default=None)
    lines = [["shared is", title(found["shared_is"]) if found["shared_is"] else "-", ""]]
    lines.append(_line("shared - local", shared, None))
    lines.append(_line("deployed - local", deployed, None))
    met = None if best is None else above(best.whole, LEAST)
    lines.append(_line(f"the better of both >= +{LEAST}, interval above 0", best, met))
    small = None if best is None else best.sites.get(SMALLEST)
    words = "-" if small is None else span(small)
    lines.append(
        [
            f"at {SMALLEST} >= +{LEAST_SMALLEST}",
            words,
            met_or_not(None if small is None else small.value >= LEAST_SMALLEST),
        ]
    )
    worst = None if deployed is None else deployed.worst
    words = "-" if worst is None else f"{worst[0]} {span(worst[1])}"
    lines.append(
        [
            f"deployed nowhere more than {LOSS} below local",
            words,
            met_or_not(None if worst is None else worst[1].value >= -LOSS),
        ]
    )
    whole = found["mean"]
    lines.append(
        [
            f"mean Dice >= {MEAN}",
            "-" if whole is None else f"{whole:.3f}",
            met_or_not(None if whole is None else whole >= MEAN),
        ]
    )
    close = None if central is None else central.whole.value >= -CENTRAL
    lines.append(_line(f"shared within {CENTRAL} of centralised, work of all", central, close))
    outside = [part for part in parts if "unseen" in part.numbers]
    best_of = unseen_gains(outside)
    words = ", ".join(f"{site} {value:+.3f}" for site, value in best_of.items()) or "-"
    met = all(value > 0 for value in best_of.values()) if best_of else None
    lines.append(["unseen hospital: FedAvg above every local model", words, met_or_not(met)])
    return table(["goal", "found", ""], lines, parts)


def _line(words: str, found: Gain | None, met: bool | None) -> list[str]:
    if found is None:
        return [words, "-", "not measured yet"]
    part = "" if found.complete else " (not all parts are there)"
    return [words, span(found.whole) + part, "" if met is None else met_or_not(met)]


def work(parts: Sequence[Part]) -> Table:
    """Return the mean Dice of every row over the multiples of work."""
    works = sorted({part.key["work"] for part in parts})
    each = {one: rows_of([part for part in parts if part.key["work"] == one]) for one in works}
    labels = dict.fromkeys(label for rows in each.values() for label in rows)
    lines = [
        [
            title(label),
            *(f"{mean(each[one][label]):.3f}" if label in each[one] else "-" for one in works),
        ]
        for label in labels
    ]
    tested = ["patients tested", *(str(len(_patients(each[one]))) for one in works)]
    return table(["method", *(f"work x {one:g}" for one in works)], [tested, *lines], parts)


def _patients(rows: Mapping[str, Scores]) -> set[tuple[str, str]]:
    """Return (hospital, number) of every patient that some row was scored on."""
    every = [(site, found) for scores in rows.values() for site, seeds in scores.items() for found in seeds.values()]
    return {(site, who) for site, found in every for who in found}


def unseen_scores(parts: Sequence[Part]) -> dict[str, dict[str, Scores]]:
    """Return hospital left out -> row -> scores; local models are "local DU"."""
    found: dict[str, dict[str, list[tuple[str, int, Mapping[str, float]]]]] = {}
    for part in parts:
        for site, models in part.numbers["unseen"].items():
            for name, patients in models.items():
                label = part.key["method"] if name == "shared" else f"{part.key['method']} {name}"
                found.setdefault(site, {}).setdefault(label, []).append((site, int(part.key["seed"]), patients))
    return {site: {label: merged(rows) for label, rows in labels.items()} for site, labels in found.items()}


def unseen_gains(parts: Sequence[Part]) -> dict[str, float]:
    """Return at each unseen hospital the Dice of FedAvg less that of the best local model."""
    best = {}
    for site, labels in unseen_scores(parts).items():
        local = [mean(scores) for label, scores in labels.items() if label.startswith("local ")]
        if local and "fedavg" in labels:
            best[site] = mean(labels["fedavg"]) - max(local)
    return best


def unseen(parts: Sequence[Part]) -> Table:
    """Return the Dice at every hospital that took no part; and FedAvg less each local model, paired."""
    lines = []
    for site, labels in unseen_scores(parts).items():
        for label, scores in sorted(labels.items(), key=lambda item: -mean(item[1])):
            less = gain(labels["fedavg"], scores) if "fedavg" in labels and label != "fedavg" else None
            method, _, trained_at = label.partition(" ")
            words = f"local model of {trained_at}" if trained_at else title(method)
            lines.append([site, words, f"{mean(scores):.3f}", "-" if less is None else span(less.whole)])
    return table(["unseen hospital", "model", "Dice", "FedAvg less this"], lines, parts)


def summary(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the comparisons and the mean Dice of every row, for --json."""
    found: dict[str, Any] = {}
    for recipe, start in sorted({(part.key["recipe"], part.key["start"]) for part in parts}):
        mine = [part for part in parts if (part.key["recipe"], part.key["start"]) == (recipe, start)]
        once = [part for part in mine if "sites" in part.numbers and part.key["work"] == 1]
        if once:
            compared = comparisons(mine)
            told = {name: one for name, one in compared.items() if not isinstance(one, Gain)}
            told |= {name: _numbers(one) for name, one in compared.items() if isinstance(one, Gain)}
            found[f"{recipe}-{start}"] = told | {"dice": {label: means(one) for label, one in rows_of(once).items()}}
    return found


def _numbers(found: Gain) -> dict[str, Any]:
    each = {"mean": found.whole} | dict(found.sites)
    return {
        site: {"value": one.value, "low": one.low, "high": one.high, "patients": one.cases}
        for site, one in each.items()
    }
