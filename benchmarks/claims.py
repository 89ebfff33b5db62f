"""The claims of the two papers behind this project, one by one: claimed, measured, at the same
work or not, interval, verdict.

PPPML-HMI: Per-FedAvg with homomorphic encryption. MM-PFL-ADP: KL masks with adaptive noise
(Scientific Reports 2026, doi 10.1038/s41598-026-49896-z). Everything is computed from the parts
of other scripts; this file measures nothing. A verdict is

    holds                      the interval of the effect lies above 0 (or, of a cost, within the margin)
    does not hold              the interval excludes the claimed size
    not reported from chance       neither
    cannot be tested           for the reason that is given
    not measured yet           the parts are not there; the script that makes them is named

Its rows are printed on docs/results.md by `python benchmarks/render.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import compression
import epsilon_dice_hospital
import joining_tables
import to_target
from common import Part, Parts, Table, table
from paired import Gain, Scores, gain
from wardround.reports.intervals import Interval

HOLDS, FAILS, CHANCE = "holds", "**does not hold**", "not reported from chance"
PER_FEDAVG, ELSEWHERE, ROUNDS, ACCURACY_LOST = 0.05, 0.18, 47 / 85, 0.03


@dataclass(frozen=True)
class Found:
    """What was measured: in words, at the same work or not, its interval in words, and the verdict."""

    measured: str
    same_work: str
    interval: str
    verdict: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how it is answered from the parts of a script; None without parts."""

    words: str
    paper: str
    claimed: str
    script: str
    answer: Callable[[Sequence[Part]], Found | None]


def verdict(found: Interval, claimed: float) -> str:
    """Return the verdict on an effect that is claimed to be `claimed`, above 0."""
    if found.low is None or found.high is None:
        return CHANCE
    if found.low > 0:
        return HOLDS if found.high >= claimed else f"{HOLDS}, and is smaller than claimed"
    return FAILS if found.high < claimed else CHANCE


def effect(found: Gain | None, words: str, claimed: float, parts: Sequence[Part]) -> Found | None:
    """Return the answer of a paired difference."""
    if found is None:
        return None
    whole = found.whole
    bounds = "-" if whole.low is None else f"[{whole.low:+.3f}, {whole.high:+.3f}]"
    more = "" if found.complete else "; not all parts are there"
    return Found(
        f"{words} {whole.value:+.3f} ({whole.cases} patients{more})",
        "yes",
        bounds,
        verdict(whole, claimed),
        parts,
    )


def inside(parts: Sequence[Part]) -> list[Part]:
    """Return the parts of joining.py with the plain recipe, from scratch, once the work, inside the hospitals."""
    wanted = {"recipe": "plain", "start": "scratch", "work": 1}
    return [p for p in parts if "sites" in p.numbers and all(p.key[name] == value for name, value in wanted.items())]


def against(one: str, other: str, words: str) -> Callable[[Sequence[Part]], Found | None]:
    """Return the answer "row one less row other" of joining.py."""

    def answer(parts: Sequence[Part]) -> Found | None:
        rows = joining_tables.rows_of(inside(parts))
        empty: Scores = {}
        return effect(gain(rows.get(one, empty), rows.get(other, empty)), words, PER_FEDAVG, inside(parts))

    return answer


def elsewhere(parts: Sequence[Part]) -> Found | None:
    """Return a hospital's own local model less another hospital's, on the same patients."""
    outside = [p for p in parts if "unseen" in p.numbers and p.key["recipe"] == "plain" and p.key["start"] == "scratch"]
    own = joining_tables.rows_of(inside(parts)).get("local", {})
    theirs: dict[str, Mapping[int, Mapping[str, float]]] = {}
    mine: dict[str, Mapping[int, Mapping[str, float]]] = {}
    for site, labels in joining_tables.unseen_scores(outside).items():
        for label, scores in labels.items():
            if label.startswith("local ") and site in own:
                theirs[f"{label} at {site}"], mine[f"{label} at {site}"] = scores[site], own[site]
    return effect(gain(mine, theirs), "own local model less another's", ELSEWHERE, [*inside(parts), *outside])


def secure_sum(parts: Sequence[Part]) -> Found | None:
    """Return the test Dice of FedAvg through the masked or encrypted sum of 8 bits less float32's."""
    rows = [one for one in compression.rows_of(parts) if one["arm"] == "secure_8"] if parts else []
    if not rows:
        return None
    row = rows[0]
    bounds = f"[{row['low']:+.4f}, {row['high']:+.4f}] (90 %)"
    said = HOLDS if row["equivalent"] else FAILS if row["high"] < -compression.MARGIN else CHANCE
    words = f"Dice {row['difference']:+.4f}, {row['seeds']} seed{'s' * (row['seeds'] != 1)}"
    used = [part for part in parts if part.key["arm"] in ("fedavg", "secure_8")]
    return Found(f"{words} (margin {compression.MARGIN})", "yes", bounds, said, used)


def adaptive(parts: Sequence[Part]) -> Found | None:
    """Return the loss that is left with scales a federation can have, over that of uniform noise."""
    ratios = [
        (part.key["case"], arm, part.numbers["arms"][arm]["against_isotropic"])
        for part in parts
        for arm in ("lagged", "bought")
    ]
    if not ratios:
        return None
    better = sum(one["high"] < 1 for _, _, one in ratios)
    values = [one["ratio"] for _, _, one in ratios]
    words = (
        f"loss {min(values):.2f} to {max(values):.2f} of uniform noise's; below it in {better} of {len(ratios)} cases"
    )
    return Found(words, "yes", "each with its own", HOLDS if better == len(ratios) else FAILS, parts)


def rounds(parts: Sequence[Part]) -> Found | None:
    """Return the rounds to the mark of the personal methods over FedAvg's."""
    rows = {one["arm"]: one for one in to_target.rows_of(parts) if one["start"] == "scratch"}
    mine = {arm: rows[arm]["rounds_share"] for arm in ("klmask", "perfedavg_fo") if arm in rows}
    if not mine:
        return None
    words = ", ".join(f"{arm} {'never' if share is None else f'{share:.2f}'}" for arm, share in mine.items())
    good = any(share is not None and share <= ROUNDS for share in mine.values())
    return Found(f"rounds over FedAvg's: {words}", "yes", "-", HOLDS if good else FAILS, parts)


def strong_privacy(parts: Sequence[Part]) -> Found | None:
    """Return private less local of the hospital level, all weights shared, few hospitals."""
    mine = [part for part in parts if part.key.get("level") == "hospital"]
    rows = [one for one in epsilon_dice_hospital.summary_hospital(mine) if one["share"] == "all"] if mine else []
    if not rows:
        return None
    row = min(rows, key=lambda one: one["n"])
    mean, low, high = row["private - local"]
    bounds = "-" if low is None else f"[{low:+.3f}, {high:+.3f}]"
    said = FAILS if high is not None and high < -ACCURACY_LOST else HOLDS if (low or -1) > -ACCURACY_LOST else CHANCE
    return Found(f"private - local {mean:+.3f} at {row['n']} hospitals", "yes", bounds, said, mine)


CLAIMS = (
    Claim(
        "Per-FedAvg is better than FedAvg at hospitals that differ",
        "PPPML-HMI",
        "+.05 mean Dice",
        "joining",
        against("perfedavg_fo", "fedavg", "FO less FedAvg"),
    ),
    Claim(
        "the same against FedAvg with fine-tuning, which the paper does not show",
        "PPPML-HMI",
        "+.05",
        "joining",
        against("perfedavg_fo+tuned", "fedavg+tuned", "FO less FedAvg, both fine-tuned"),
    ),
    Claim(
        "with the second-order term",
        "PPPML-HMI",
        "+.05",
        "joining",
        against("perfedavg_hf+tuned", "fedavg+tuned", "HF less FedAvg, both fine-tuned"),
    ),
    Claim(
        "a model from one hospital fails at another",
        "PPPML-HMI",
        "Dice .28 for .46",
        "joining",
        elsewhere,
    ),
    Claim("secure aggregation costs no accuracy", "PPPML-HMI", "none", "compression", secure_sum),
    Claim(
        "masks chosen by KL divergence are better than FedAvg",
        "MM-PFL-ADP",
        "+.05",
        "joining",
        against("klmask", "fedavg", "KL masks less FedAvg"),
    ),
    Claim(
        "they are better than blocks chosen at random (our control)",
        "MM-PFL-ADP",
        "not shown",
        "joining",
        against("klmask", "klmask_random", "KL masks less random blocks"),
    ),
    Claim(
        "noise adapted by Fisher information beats uniform noise",
        "MM-PFL-ADP",
        "at equal epsilon",
        "adaptive_noise",
        adaptive,
    ),
    Claim("47 rounds in place of 85", "MM-PFL-ADP", ".55 of the rounds", "to_target", rounds),
    Claim(
        "97 % at strong hospital-level privacy, few sites",
        "MM-PFL-ADP",
        "no loss",
        "epsilon_dice",
        strong_privacy,
    ),
)
# What no part can answer, with the reason.
UNTESTED = (
    (
        "secure aggregation blocks the inversion of gradients (iDLG)",
        "PPPML-HMI",
        "blocked",
        "a sum hides single updates by construction, but that of few one-image gradients can still be inverted; noise stops that",
    ),
    (
        "accuracy is kept under extreme label skew",
        "MM-PFL-ADP",
        "kept",
        "says nothing without local-only models, which it does not show; ours are in `tumour_types.skew`",
    ),
)


def tables_from(results: Path) -> dict[str, Table]:
    """Return the table of all claims, from the parts of the scripts that it names."""
    lines, used = [], []
    for claim in CLAIMS:
        found = claim.answer(Parts(results / claim.script).read())
        head = [claim.words, claim.paper, claim.claimed]
        if found is None:
            lines.append([*head, "-", "-", "-", f"not measured yet: `{claim.script}.py`"])
            continue
        lines.append([*head, found.measured, found.same_work, found.interval, found.verdict])
        used += list(found.parts)
    lines += [
        [words, paper, claimed, "-", "-", "-", f"cannot be tested: {why}"] for words, paper, claimed, why in UNTESTED
    ]
    return {
        "all": table(
            ["claim", "paper", "claimed", "measured", "same work", "interval", "verdict"],
            lines,
            used,
        )
    }
