"""What does one setting of a sweep give, for the federation and every site alone?

Both do equal local work and are scored on test patients.

    local      each site alone: the job's schedule, num_rounds x work gradient
               evaluations, as the job's own local candidate
    federated  the site's model after the last round, as it comes
    tuned      that model after k steps on the site's own patients; k is chosen on
               validation from the job's `model_selection`

Nothing is chosen on test. Scores are the job's: mean Dice, or the balanced accuracy
over the classes PRESENT in a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from wardround.algorithms.base import Algorithm
from wardround.algorithms.federation import FederationResult, local_only
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.algorithms.sharing import Sharing
from wardround.data.splits import PARTS
from wardround.models.flat import first_weights
from wardround.models.nets import Network
from wardround.reports.summary import main_metric
from wardround.research.in_process import InProcessFederation
from wardround.research.sweep_sites import Cell, Source
from wardround.training.evaluation import ModelSelection, fine_tuned
from wardround.training.splitting import split_of
from wardround.training.task import Rows, TaskSampling, TaskSite

Json = dict[str, Any]
Say = Callable[[str], None]


@final
@dataclass(frozen=True)
class Setup:
    """What a job trains, built from its recipe."""

    algorithm: Algorithm
    sharing: Sharing
    server_optimizer: ServerOptimizer
    schedule: Schedule
    model: Network
    sampling: TaskSampling
    model_selection: ModelSelection


def one_run(setup: Setup, source: Source, cell: Cell, seed: int, place: Path, say: Say) -> Json:
    """Return {"cell", "seed", "moved", "sites"} of one run.

    Each site has patients and classes by part, lost cases, scores and gains.
    seed: The seed of the deal, the split, the first weights and the batches.
    place: An empty folder. What is written there are patients' data.
    """
    dealt = source.write(cell, seed, place / "sites")
    sites: dict[str, TaskSite] = {}
    for name, config in dealt.configs.items():
        # Everything is written below `place`, which the caller removes.
        cohort = setup.sampling.cohort(config, place / "cache" / name, lambda words: None)
        sites[name] = setup.sampling.open(
            name,
            cohort,
            split_of(cohort, seed),
            setup.model,
            seed,
            "cpu",
        )
    initial = first_weights(setup.model, seed)
    local = {}
    for name, site in sites.items():
        local[name] = local_only(site.objective("local"), setup.schedule.of_hospital(site.train_patients), initial)
        say(f"  {name}: local model trained on {site.train_patients} patients")
    consortium = InProcessFederation(
        sites,
        setup.algorithm,
        setup.server_optimizer,
        setup.schedule,
        sharing=setup.sharing,
    )

    def told(round_: int, result: FederationResult) -> None:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in result.history[-1].items())
        say(f"  round {round_ + 1}/{setup.schedule.num_rounds}, loss: {losses}")

    shared = consortium.models(consortium.run(initial, told))
    rows = {name: _judged(site, local[name], shared[name], setup.model_selection) for name, site in sites.items()}
    for name, lost in dealt.lost.items():
        rows[name]["lost_cases"] = lost
    return {"cell": cell.as_json(), "seed": seed, "moved": dealt.moved, "sites": rows}


def _judged(
    site: TaskSite,
    local: Tensor,
    shared: Tensor,
    model_selection: ModelSelection,
) -> Json:
    options = fine_tuned(site, shared, model_selection)
    tuned = max(options, key=lambda option: option.val)
    models = {"alone": local, "plain": options[0].model, "best": tuned.model}
    alone, plain, best = site.rows_of(models, site.split.test).values()
    vals = {
        "local": site.score(local, site.split.val),
        "federated": options[0].val,
        "tuned": tuned.val,
    }
    return {
        "patients": {part: len(_patients(site, part)) for part in PARTS},
        "classes": _classes(site),
        "k": tuned.k,
        "val": vals,
        "test": {name: _score(site, rows) for name, rows in (("local", alone), ("federated", plain), ("tuned", best))},
        "gain": {"federated": site.gain(plain, alone), "tuned": site.gain(best, alone)},
    }


def _score(site: TaskSite, rows: Rows) -> Json:
    return dict(main_metric({"test": site.summary(rows)}) or {})


def _patients(site: TaskSite, part: str) -> set[str]:
    cases: Sequence[str] = getattr(site.split, part)
    return {site.cohort.patients[case] for case in cases}


def _classes(site: TaskSite) -> Mapping[str, Mapping[str, int]] | None:
    """Return the patients of each class by part; None for segmentation."""
    cohort: Any = site.cohort
    if cohort.label_kind != "classes":
        return None
    return {part: cohort.class_counts(getattr(site.split, part)) for part in PARTS}
