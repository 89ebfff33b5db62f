"""The record beside patches: one vector per patient, whatever is cropped, flipped or hidden; it changes what is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import first_variables
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.errors import ConfigRefused
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.dp.dp_sgd import PatientDP
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.synthetic.phantom_ehr import COLUMNS
from wardround.synthetic.phantoms import RECORD
from wardround.tasks.augment import Augment
from wardround.tasks.loss import dice_bce
from wardround.training.client import Hospital
from wardround.training.dp_training import DPSite, PatientPatches
from wardround.training.patch_objective import forced
from wardround.training.segmentation import Sampling, SegmentationSite

WEST, F = 3, len(COLUMNS.features)
SPEC = UNet3d(channels=(4, 8), ehr_columns=F)
SAMPLING = Sampling((8, 8, 8), 2, 0.5, True, [column.as_json() for column in COLUMNS.columns])
Site = Callable[..., SegmentationSite]


@pytest.fixture
def site(cohorts: dict[int, Path]) -> Site:
    """site(spec=SPEC, record=its own, **changed sampling) -> west with its record"""

    def make(spec: Any = SPEC, record: Path | None = None, **changed: Any) -> SegmentationSite:
        sampling = replace(SAMPLING, **changed)
        config = SiteConfig(data=cohorts[WEST], record=record or cohorts[WEST] / RECORD)
        cohort = sampling.cohort(config, cohorts[WEST].parent / f"cache-{WEST}", lambda words: None)
        return sampling.open("site-1", cohort, split_patients(cohort.patients), spec, 0, "cpu")

    return make


def awake(site: SegmentationSite) -> torch.Tensor:
    """Weights at which the record matters: its branch starts at zero."""
    return site.model.vector + 0.1 * torch.randn(site.model.vector.shape, generator=torch.Generator().manual_seed(0))


def test_the_record_is_the_patients_own_everywhere_in_every_patch(site: Site) -> None:
    made = site()
    made.augment = Augment(drop=0.9, flip=0.5)
    places = set()
    for batch in made.objective("x").sample(12):
        assert batch.images.shape == (2, 8 + 2 * F, 8, 8, 8)
        for image, who in zip(batch.images, batch.patients, strict=True):
            wanted = torch.from_numpy(made.cohort.record[who])
            assert torch.equal(image[8:], wanted[:, None, None, None].expand(-1, 8, 8, 8))
            places.add(image[:4].numpy().tobytes())
    assert len(places) == 24


def test_images_targets_and_places_are_those_of_a_job_without_a_record(site: Site) -> None:
    with_, without = site(), site(spec=UNet3d(channels=(4, 8)), columns=[])
    for one, two in zip(with_.objective("x").sample(3), without.objective("x").sample(3), strict=True):
        assert torch.equal(one.images[:, :8], two.images)
        assert torch.equal(one.targets, two.targets)
        assert (one.patients, one.seed) == (two.patients, two.seed)
    assert torch.equal(with_.made_up(3)[:, :8], without.made_up(3))
    case = without.split.test[0]
    start = with_.model.vector.clone()
    np.testing.assert_array_equal(with_.predict(start, case), without.predict(start[: len(without.model.vector)], case))


def test_logits_follow_the_record_and_not_where_it_is_read(site: Site) -> None:
    made = site()
    w, (batch,) = awake(made), made.objective("x").sample(1)
    base = made.model.outputs(w, batch.images).clone()
    rolled = batch.images.clone()
    rolled[:, 8:] = batch.images[:, 8:].roll((3, 1, 2), (2, 3, 4))
    assert torch.equal(made.model.outputs(w, rolled), base)
    other = batch.images.clone()
    other[:, 8:] = batch.images.flip(0)[:, 8:]
    assert not torch.allclose(made.model.outputs(w, other), base, atol=1e-4)
    blind = batch.images.clone()
    blind[:, 8:] = 0
    nothing = made.model.outputs(w, blind).clone()
    blind[:, 8 : 8 + F] = 5  # values that are flagged as missing
    assert torch.equal(made.model.outputs(w, blind), nothing)


def test_a_whole_case_is_predicted_with_its_record(site: Site) -> None:
    made = site()
    w, case = awake(made), made.split.test[0]
    patient = made.cohort.patients[case]
    base = made.predict(w, case)
    made.cohort = replace(made.cohort, record={patient: -made.cohort.record[patient]})
    assert (made.predict(w, case) != base).any()


def test_rows_of_single_patients_are_exact(site: Site) -> None:
    """The oracle of patient-level DP: a patient's row is autograd's gradient on the patient alone, record included."""
    home = DPSite(site(), PatientDP(0.5, 1.0, 0.5, 6))
    source, w = PatientPatches(home, "train"), awake(home.site)  # type: ignore[arg-type]
    batches = source.sample(source.patients)
    rows = torch.cat(list(source.gradients(w, batches)))
    film = home.site.layout.mask([name for name in home.site.layout.names if name.startswith("film.")])
    errors = []
    for batch, row in zip(batches, rows, strict=True):
        _, alone = home.site.model.value_and_grad(w, batch.images, lambda o, b=batch: dice_bce(o, b.targets, b.known))
        errors.append(float((row - alone).norm() / alone.norm()))
        assert row[torch.from_numpy(film)].any()
    assert np.median(errors) < 1e-4
    assert max(errors) < 0.05


def test_patients_without_a_row_take_part(site: Site, cohorts: dict[int, Path], tmp_path: Path) -> None:
    lines = (cohorts[WEST] / RECORD).read_text().splitlines()
    (tmp_path / "half.csv").write_text("\n".join(lines[:4]) + "\n")
    made = site(record=tmp_path / "half.csv")
    assert len(made.cohort.cases) == 8
    assert sum(not vector.any() for vector in made.cohort.record.values()) == 5
    assert np.isfinite(made.score(awake(made), made.cohort.cases))


@pytest.mark.parametrize(
    ("spec", "columns", "numbers"),
    [
        (UNet3d((4, 8), ehr_columns=F - 1), SAMPLING.columns, ("reads 4 numbers", "5, which the 4 columns")),
        (UNet3d((4, 8)), SAMPLING.columns, ("reads 0 numbers", "5, which the 4 columns")),
        (SegResNet3d(4), SAMPLING.columns, ("reads 0 numbers", "5, which the 4 columns")),
        (SPEC, [], ("reads 5 numbers", "0, which the 0 columns")),
    ],
)
def test_network_and_record_must_agree(site: Site, spec: Any, columns: Any, numbers: tuple[str, str]) -> None:
    with pytest.raises(ConfigRefused) as refusal:
        site(spec=spec, columns=columns)
    assert numbers[0] in refusal.value.found
    assert numbers[1] in refusal.value.expected


@pytest.mark.parametrize("column", [{"name": "age"}, {"name": "age", "kind": "numeric", "low": 0, "high": 1}, 3])
def test_senseless_columns_are_refused(column: Any) -> None:
    with pytest.raises(ConfigRefused, match="column"):
        replace(SAMPLING, columns=[column])


@pytest.mark.parametrize(
    "sharing", [EVERYTHING, KLMask("kl", (), 1, 0, 0.5, 1.0, 0.5, 0.6, 1)], ids=lambda one: type(one).__name__
)
def test_a_hospital_through_two_rounds(settings: Callable[..., SimpleNamespace], tmp_path: Path, sharing: Any) -> None:
    promises = settings(sharing=sharing, model=SPEC, sampling=SAMPLING)
    hospital = Hospital.open(
        "site-4", tmp_path, tmp_path / "states", simulator=True, settings=promises, say=lambda words: None
    )
    weights = first_variables(FedAvg(), hospital.site.layout.unflatten(hospital.initial.numpy().copy()))
    for round_ in range(2):
        delta, loss = hospital.train(weights, round_)
        assert loss is not None
        assert np.isfinite(loss)
        weights = {name: block + delta[name] if name in delta else block for name, block in weights.items()}
    assert any(delta[name].any() for name in delta if "film." in name)
    evaluation = hospital.evaluate(weights, 2)
    hospital.keep(evaluation, tmp_path / "out", "brats_ehr_fedavg")
    from wardround.training.prediction import read_weights

    assert read_weights(tmp_path / "out" / "deploy_model.npz").table == COLUMNS


@pytest.mark.parametrize(
    ("patches", "share", "number"),
    [(4, 1 / 3, 1), (3, 1 / 3, 1), (2, 1 / 3, 1), (1, 1 / 3, 0), (6, 1 / 3, 2), (4, 0.0, 0), (4, 1.0, 4), (8, 0.5, 4)],
)
def test_the_number_of_patches_with_foreground_is_that_of_nnunet(patches: int, share: float, number: int) -> None:
    assert forced(patches, share) == number


def test_a_share_of_every_batch_holds_foreground_for_certain(site: Site) -> None:
    """With probability 0 nothing but the share is drawn near tumour."""
    made = site(batch=4, tumour_probability=0.0, foreground_share=0.5, augment=False, patch=(4, 4, 4))
    plain = site(batch=4, tumour_probability=0.0, foreground_share=0.0, augment=False, patch=(4, 4, 4))
    hits = np.zeros(4)
    for batch, other in zip(made.objective("x").sample(30), plain.objective("x").sample(30), strict=True):
        tumour = batch.targets.flatten(1).any(1).numpy()
        assert tumour[:2].all()
        assert batch.patients == other.patients
        hits += tumour
    assert (hits[2:] < 30).all(), "the others are drawn from everywhere"


def test_a_single_patient_of_private_training_is_never_forced(site: Site) -> None:
    """Under patient-level DP a batch is one patient: its patch must not depend on the share."""
    with_, without = site(foreground_share=0.33), site()
    for who in with_.objective("x").patients[:3]:
        one, two = (made.drawn(made.split.train, "dp", who).batch((who,)) for made in (with_, without))
        assert torch.equal(one.images, two.images)


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="foreground_share"):
        replace(SAMPLING, foreground_share=1.5)
