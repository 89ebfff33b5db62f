"""The table and the picture of a sweep, from the runs of its settings: means over
sites, intervals over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from wardround.reports.intervals import over_seeds

Json = dict[str, Any]
MODELS = {
    "local": "local only",
    "federated": "federated",
    "tuned": "federated + fine-tuning",
}
GAPS = ("federated", "tuned")
# categorical, told apart without red and green; markers differ as well
COLOURS = ("#0b5c8a", "#b35900", "#5e3c99", "#1d6b3f", "#9c2b23", "#55626e")
MARKERS = "osD^vP"


def summary(runs: Sequence[Json]) -> Json:
    """Return one setting's row from its runs, one per seed: means over sites, the worst
    site, paired differences.

    For every seed the unweighted mean over sites is taken (for `worst`, the lowest
    site); then the mean and its 95 % t-interval over seeds. With one seed there is no
    interval: low and high are None.
    """
    scores = {name: [_scores(run, name) for run in runs] for name in MODELS}
    row: Json = {"cell": runs[0]["cell"], "seeds": [run["seed"] for run in runs]}
    row["mean"] = {name: _interval([fmean(one) for one in found]) for name, found in scores.items()}
    row["worst"] = {name: _interval([min(one) for one in found]) for name, found in scores.items()}
    row["minus_local"] = {
        name: _interval(
            [fmean(a) - fmean(b) for a, b in zip(scores[name], scores["local"], strict=True)],
        )
        for name in GAPS
    }
    return row


def table(rows: Sequence[Json], runs: Sequence[Sequence[Json]], score: str) -> str:
    """Return Markdown: the table, what its columns mean, and the patients by class of
    every run.
    """
    first = [words for key, words in _AXES.items() if _shown(rows, key)]
    heads = [*first, *MODELS.values(), "fine-tuned - local [95 %]"]
    classes = next(iter(runs[0][0]["sites"].values()))["classes"]
    what = "test patients" if classes is None else "classes tested"
    heads += ["worst site: local", "federated", "+ fine-tuning", f"{what}, by site"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row, mine in zip(rows, runs, strict=True):
        cells = [_axis(row, key) for key in _AXES if _shown(rows, key)]
        cells += [_cell(row["mean"][name]) for name in MODELS] + [
            _cell(row["minus_local"]["tuned"], "+"),
        ]
        cells += [f"{row['worst'][name]['value']:.3f}" for name in MODELS]
        lines.append(
            "| " + " | ".join([*cells, " / ".join(_tested(run) for run in mine)]) + " |",
        )
    seeds = len(rows[0]["seeds"])
    words = f"Test {score}, mean over sites, {seeds} {'seed' if seeds == 1 else 'seeds'}" + (
        ": no interval." if seeds == 1 else " with 95 % t-intervals over seeds; differences are paired by seed."
    )
    support = _support(rows, runs)
    notes = [
        words,
        "Worst site: the lowest site of each seed, mean over seeds. By seed: separated by /.",
    ]
    notes += [BEWARE] if support else []
    return "\n".join([*lines, "", *notes, *support]) + "\n"


BEWARE = (
    "A site that tests one class is right by always saying it: its score there is no achievement of any model. Balanced accuracy "
    "is over the classes that a site tests, so settings with other classes tested are not comparable as such."
)


def draw(rows: Sequence[Json], score: str, title: str, path: Path) -> Path:
    """Write a PNG: the score against the first axis that varies (label skew if it
    does).

    Federated + fine-tuning is solid, local is dashed, and each setting of the other
    axes has one colour. Bars are 95 % t-intervals over seeds; one seed has none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    along = next(
        (key for key in ("alpha", "missing", "scanner", "set", "sites") if _varies(rows, key)),
        "sites",
    )
    rest = [key for key in _AXES if key != along and _varies(rows, key)]
    places = list(dict.fromkeys(_axis(row, along) for row in rows))
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(
            "; ".join(f"{_AXES[key]} {_axis(row, key)}" for key in rest),
            [],
        ).append(row)
    canvas: Any = Figure(figsize=(7.2, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(canvas)
    axes: Any = canvas.add_subplot()
    lines = [(words, mine, name) for words, mine in groups.items() for name in ("tuned", "local")]
    for number, (words, mine, name) in enumerate(lines):
        colour, mark = (
            COLOURS[number // 2 % len(COLOURS)],
            MARKERS[number // 2 % len(MARKERS)],
        )
        shift = 0.06 * (number - (len(lines) - 1) / 2) / max(1, len(lines) / 4)
        values = [row["mean"][name] for row in mine]
        x = [places.index(_axis(row, along)) + shift for row in mine]
        half = [0.0 if one["high"] is None else one["high"] - one["value"] for one in values]
        axes.errorbar(
            x,
            [one["value"] for one in values],
            yerr=half if any(half) else None,
            color=colour,
            marker=mark,
            markersize=5,
            markerfacecolor=colour if name == "tuned" else "white",
            linestyle="-" if name == "tuned" else "--",
            linewidth=1.6,
            elinewidth=1.1,
            capsize=3,
            label=MODELS[name] + (f" ({words})" if words else ""),
        )
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.4, len(places) - 0.6)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.05), min(high, 1.05))
    axes.set_xlabel(_LONG[along])
    axes.set_ylabel(f"test {score}, mean over sites")
    axes.grid(axis="y", color="#d5dce2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    canvas.legend(
        loc="outside lower center",
        ncols=2 if len(lines) > 1 else 1,
        fontsize=8,
        frameon=False,
        handlelength=3.5,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, format="png", metadata={"Software": None})
    return path


_AXES = {
    "alpha": "alpha",
    "missing": "lacking",
    "scanner": "scanners",
    "set": "settings",
    "sites": "sites",
}
_LONG = {
    "alpha": "label skew: Dirichlet alpha (small: uneven, inf: even)",
    "missing": "sites that lack a modality",
    "scanner": "scanners of the sites",
    "set": "settings of the job",
    "sites": "number of sites",
}


def _axis(row: Json, key: str) -> str:
    if key == "set":
        return ", ".join(f"{name}={text}" for name, text in row["cell"].get("set", {}).items()) or "-"
    value = row["cell"][key]
    if key == "missing":
        return ", ".join(f"{site}: {'+'.join(names)}" for site, names in value.items()) or "none"
    if key == "scanner":
        return "differ" if value else "alike"
    return "-" if value is None else str(value)


def _varies(rows: Sequence[Json], key: str) -> bool:
    return len({_axis(row, key) for row in rows}) > 1


def _shown(rows: Sequence[Json], key: str) -> bool:
    return key == "sites" or _varies(rows, key) or _axis(rows[0], key) not in ("none", "alike", "-")


def _scores(run: Json, name: str) -> list[float]:
    return [float(site["test"][name]["value"]) for site in run["sites"].values()]


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    mean, low, high = over_seeds(values)
    return {"value": mean, "low": low, "high": high}


def _cell(found: Mapping[str, float | None], sign: str = "") -> str:
    if found["low"] is None:
        return f"{found['value']:{sign}.3f}"
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


def _tested(run: Json) -> str:
    """Return how many classes each site has in its test part; for segmentation, how
    many patients.
    """
    sites = run["sites"].values()
    if any(site["classes"] is None for site in sites):
        return " ".join(str(site["patients"]["test"]) for site in sites)
    return " ".join(str(sum(count > 0 for count in site["classes"]["test"].values())) for site in sites)


def _support(rows: Sequence[Json], runs: Sequence[Sequence[Json]]) -> list[str]:
    """Return the table of patients by class: training / validation / test."""
    first = next(iter(runs[0][0]["sites"].values()))
    if first["classes"] is None:
        return []
    keys = [key for key in _AXES if _shown(rows, key)]
    names = list(first["classes"]["test"])
    heads = [*(_AXES[key] for key in keys), "seed", "site", *names, "lost cases"]
    lines = ["", "Patients by class: training / validation / test.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row, mine in zip(rows, runs, strict=True):
        for run in mine:
            for site, one in run["sites"].items():
                counts = ["/".join(str(part[name]) for part in one["classes"].values()) for name in names]
                where = [_axis(row, key) for key in keys]
                lines.append(
                    f"| {' | '.join([*where, str(run['seed']), site, *counts, str(one.get('lost_cases', 0))])} |"
                )
    return lines
