from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wardround.algorithms.federation import local_only
from wardround.algorithms.schedule import Schedule
from wardround.core.errors import ConfigRefused
from wardround.data.site_config import SiteConfig
from wardround.models.flat import first_weights
from wardround.models.nets import UNet3d
from wardround.research import baselines
from wardround.research.pooled_objective import PooledObjective
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort
from wardround.training.evaluation import ModelSelection, evaluate
from wardround.training.prediction import read_weights
from wardround.training.segmentation import Sampling, SegmentationSite

SPEC = UNet3d(channels=(4, 8))
SAMPLING = Sampling(patch=(8, 8, 8), batch=2, tumour_probability=0.5, augment=True)
SCHEDULE = Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SegmentationSite]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("baselines")
    for name, index in (("a", 0), ("b", 1)):
        write_cohort(root / name, hospital(index), 0, (14, 14, 14), 5)
    configs = {name: SiteConfig(data=root / name, device="cpu") for name in ("a", "b")}
    configs["b"] = replace(configs["b"], cache=root / "own")
    opened = baselines.open_sites(configs, SPEC, SAMPLING, 0, root / "cache", lambda text: None, patient_dp=False)
    assert (root / "own" / "cases").is_dir()
    assert not (root / "cache" / "b").exists()
    return opened


def test_first_weights_are_the_jobs_own(sites: dict[str, SegmentationSite]) -> None:
    first = sites["a"].layout.unflatten(first_weights(SPEC, 0).numpy())
    for name, block in SPEC.build(0).named_parameters():
        np.testing.assert_array_equal(first[name], block.detach().numpy())


def test_local_is_the_local_candidate_of_the_judgement(sites: dict[str, SegmentationSite]) -> None:
    initial, lines = first_weights(SPEC, 0), []
    models = baselines.train_local(sites, SCHEDULE, initial, lines.append)
    judged = evaluate(sites["a"], {}, initial, SCHEDULE, ModelSelection((0, 1), 0.01))
    torch.testing.assert_close(models["a"], judged.weights["local"], rtol=0, atol=0)
    assert baselines.score(sites["a"], models["a"])["test"] == judged.numbers["candidates"]["local"]["test"]
    assert not torch.equal(models["a"], models["b"])
    assert [line.split(",")[0] for line in lines] == ["a: round 1/2", "a: round 2/2", "b: round 1/2", "b: round 2/2"]


def test_central_descends_on_the_pooled_patients(sites: dict[str, SegmentationSite], tmp_path: Path) -> None:
    initial = first_weights(SPEC, 0)
    found = baselines.train_central(sites, SCHEDULE, initial, lambda text: None)
    expected = local_only(PooledObjective(list(sites.values()), "central"), SCHEDULE, initial)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    file = baselines.keep(tmp_path / "central.npz", found, SPEC, list(sites.values()), {"job": "x"})
    kept = read_weights(file)
    assert kept.spec == SPEC
    np.testing.assert_array_equal(sites["a"].layout.flatten(kept.arrays), found.numpy())
    assert kept.meta["label_kind"] == "brats"
    assert kept.meta["trained_on"] == {"data": "phantoms", "sites": {"phantoms": 2}}


def test_a_score_is_a_mean_over_test_patients(sites: dict[str, SegmentationSite]) -> None:
    site, w = sites["b"], first_weights(SPEC, 0)
    rows = site.scores(w, site.split.test, with_hd95=False)
    found = baselines.score(site, w)
    assert found["cases"] == len(rows)
    assert found["test"]["dice_WT"]["value"] == pytest.approx(np.mean([row["dice_WT"] for row in rows]))
    assert found["val"] == pytest.approx(site.score(w, site.split.val))


def test_the_ensemble_has_the_mean_probability_of_all_local_models(sites: dict[str, SegmentationSite]) -> None:
    models = baselines.train_local(sites, SCHEDULE, first_weights(SPEC, 0), lambda text: None)
    models["c"] = models["a"] + 0.05
    together = baselines.ensemble(models)
    site = sites["a"]
    for case in site.split.test:
        chances = [1 / (1 + np.exp(-site.logits(w, case).astype(np.float64))) for w in models.values()]
        mean = np.mean(chances, axis=0)
        sure = np.abs(mean - 0.5) > 1e-5
        wanted = site.task.outputs.nested(mean > 0.5)
        assert ((site.predict(together, case) == wanted) | ~sure.all(0)).all()
    scored = baselines.score(site, together)
    assert scored["cases"] == len(site.split.test)
    assert 0 <= scored["val"] <= 1
    with pytest.raises(ConfigRefused, match="two networks or more"):
        baselines.ensemble({"a": models["a"]})
    with pytest.raises(ConfigRefused, match="two networks or more"):
        baselines.ensemble({})
