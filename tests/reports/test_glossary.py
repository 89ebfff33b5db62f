import copy
from typing import Any

import pytest

from wardround.reports.glossary import WORDS, text_of, used
from wardround.reports.page import render
from wardround.reports.schema import build


def explained(run: dict[str, Any]) -> list[str]:
    """The headings of the last section of a run's page, in their order."""
    page = render(build(run))
    words = page.partition("<h2>Words</h2>")[2].partition("</section>")[0]
    return [part.partition("</dt>")[0] for part in words.split("<dt>")[1:]]


def test_a_segmentation_explains_its_own_words_first_and_no_others(run: dict[str, Any]) -> None:
    found = explained(run)
    assert found[:3] == ["Dice", "HD95", "ET, TC, WT"]
    assert {"Local", "FedAvg", "Fine-tuning", "Personalised", "95 % interval", "Gain"} <= set(found)
    assert not {"Balanced accuracy", "AUROC", "Calibration error", "Epsilon, delta", "Mu", "Blend"} & set(found)


def test_a_classification_begins_with_its_score(run: dict[str, Any]) -> None:
    run["settings"]["score"] = "balanced accuracy"
    for site in run["sites"].values():
        site["label_kind"] = "classes"
    for final in run["final"].values():
        for candidate in final["candidates"].values():
            value = candidate["test"]["dice_mean"]
            candidate["test"] = {"balanced_accuracy": value, "auroc": copy.deepcopy(value)}
    found = explained(run)
    assert found[:2] == ["Balanced accuracy", "AUROC"]
    assert not {"Dice", "HD95", "ET, TC, WT"} & set(found)


def test_privacy_and_mixed_models_are_explained_where_they_are_named(run: dict[str, Any]) -> None:
    final = run["final"]["site-1"]
    final["candidates"]["blend"] = final["candidates"].pop("personalised")
    final["candidates"]["interpolated"] = final["candidates"].pop("fedavg_finetuned")
    final["deploy"] = "blend"
    assert {"Blend", "Interpolated"} <= set(explained(run))
    run["settings"] |= {"dp.epsilon": 1.0, "dp.delta": 1e-5, "dp.mu": 0.3, "dp.unit": "patient"}
    run["settings"] |= {"first weights": "the weights of a file"}
    assert {"Differential privacy", "Epsilon, delta", "Mu", "Warm start"} <= set(explained(run))


def test_words_of_an_explanation_are_explained_too() -> None:
    names = [name for name, _ in used("<p>the blend</p>")]
    assert names == ["Blend", "Training, validation, test"]
    assert used("<p>nothing of that</p>") == []


@pytest.mark.parametrize(
    ("text", "named"),
    [("epsilon 8", "Epsilon, delta"), ("MU and mules", None), ("at mu 0.30", "Mu"), ("dice_mean", None), ("wt", None)],
)
def test_a_word_counts_as_a_whole(text: str, named: str | None) -> None:
    found = [word.name for word in WORDS if word.used_in(text)]
    assert found == ([] if named is None else [named])


def test_styles_drawings_and_tags_are_no_words() -> None:
    page = '<head><style>.gap{}</style></head><p title="gap">a &lt; b</p><svg aria-label="gap"><text>gap</text></svg>'
    assert text_of(page) == "a < b"
