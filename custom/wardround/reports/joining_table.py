"""What joining gave, hospital by hospital, as a table; and what each one deploys, and why."""

from __future__ import annotations

from collections.abc import Sequence

from wardround.core.validate import Json
from wardround.reports.html import DASH, Cell, Table, interval
from wardround.reports.joining import OWN, Joined
from wardround.reports.reasons import reason
from wardround.reports.summary import by_name, candidates_of, score_name, verdict_of
from wardround.reports.verdict import NAMES

# The rule where a job names none.
RULE = "one_standard_error"
# What a hospital chooses by, after "chooses" (choice.py).
_CHOSEN_BY = {
    "one_standard_error": "the simplest model that is as good as the best one, within one standard error",
    "best": "the model with the best mean score",
    "paired": "the simplest model that is as good as the best one, within one paired standard error",
    "shrunk": "the model with the largest gain over its own, where a gain that is unsure counts less",
    "cautious": "the model whose gain over its own is surest",
    "hedged": "the blend, unless another model is clearly better",
}


def joining_table(run: Json, gave: Sequence[Joined]) -> Table | None:
    """Return one row for each hospital: its own model, the model to use, and the gain on
    test; None where no hospital told the score of a model that it uses.
    """
    score = score_name(run)
    rows: list[list[str | int | Cell]] = []
    for one in gave:
        unusable = one.kind == "unusable"
        model = f"{NAMES[one.model]}{', not usable yet' if unusable else ''}" if one.model else DASH
        gain = interval(one.gain) if one.gain else "keeps its own" if one.model == OWN and not unusable else DASH
        cases = (one.chosen or {}).get("cases")
        rows.append([one.site, DASH if cases is None else cases, interval(one.own), model, interval(one.chosen), gain])
    if not any(one.chosen for one in gave):
        return None
    rule = (run.get("settings") or {}).get("model_selection.rule") or RULE
    words = (
        f"On its validation patients each hospital chooses {_CHOSEN_BY.get(rule, f'a model ({rule})')}. Its test patients, "
        f"whom no model has seen, only measure. Test {score} with 95 % intervals."
    )
    return Table(
        words,
        ("Hospital", "Test patients", f"Its own model: {score}", "Model to use", f"That model: {score}", "Gain"),
        rows,
    )


def why_deployed(run: Json) -> list[str]:
    """Return what each hospital deploys and why, in the order of names; "" where it is
    not known.
    """
    return [
        reason(
            candidates_of(run, site),
            verdict_of(run, site).deploy,
            ((run["sites"].get(site) or {}).get("cases") or {}).get("val"),
        )
        for site in by_name(run["sites"] | run["final"])
    ]
