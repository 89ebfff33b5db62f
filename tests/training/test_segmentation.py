import numpy as np
import pytest
import torch

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.layouts import MODALITIES
from wardround.export.monai_case import CaseInferer
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.models.specs import describe
from wardround.tasks.brain_tumours import DESCRIPTION
from wardround.tasks.inference import predict_logits
from wardround.tasks.inputs import network_input
from wardround.training import prediction
from wardround.training.patch_objective import labels_of
from wardround.training.segmentation import Sampling

T2 = MODALITIES.index("t2")
NORTH, WEST = 0, 3
SPEC = UNet3d(channels=(4, 8), residual_units=1, norm="instance", dropout=0.0)


def first_weights(site):
    return site.model.vector.clone()


def test_batches_of_one_draw_share_no_patient(site):
    """Eight patients, batches of two: four batches name each of them once, and the next four do again."""
    one = site()
    objective = one.drawn(one.cohort.cases)
    for _ in range(3):
        drawn = [patient for batch in objective.sample(4) for patient in batch.patients]
        assert sorted(drawn) == sorted(one.cohort.patients.values())


def test_a_draw_never_joins_the_end_of_one_turn_and_the_start_of_the_next(site):
    """After three of four batches two patients are left: a draw of two batches begins a new turn instead."""
    one = site()
    objective = one.drawn(one.cohort.cases)
    for _ in range(10):
        objective.sample(3)
        drawn = [patient for batch in objective.sample(2) for patient in batch.patients]
        assert len(set(drawn)) == 4


def test_more_than_there_are_patients_repeats_as_late_as_possible(site):
    one = site()
    objective = one.drawn(one.cohort.cases[:3])
    drawn = [patient for batch in objective.sample(3) for patient in batch.patients]
    assert sorted(drawn[:3]) == sorted(drawn[3:]) == sorted(one.cohort.patients[case] for case in one.cohort.cases[:3])


def test_only_training_patients_are_drawn(site):
    one = site()
    objective = one.objective("x")
    seen = {patient for _ in range(20) for batch in objective.sample(2) for patient in batch.patients}
    assert seen == {one.cohort.patients[case] for case in one.split.train}
    assert not seen & {one.cohort.patients[case] for case in (*one.split.val, *one.split.test)}


@pytest.mark.parametrize("augment", [False, True])
def test_the_same_purpose_gives_the_same_batches(site, augment):
    one, two = site(augment=augment), site(augment=augment)
    for a, b in zip(one.objective("train", 3).sample(2), two.objective("train", 3).sample(2), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert (a.patients, a.seed) == (b.patients, b.seed)
    other = one.objective("train", 4).sample(1)[0]
    assert not torch.equal(one.objective("train", 3).sample(1)[0].images, other.images)


def test_a_missing_modality_is_zero_and_marked_absent(site):
    batch = site(WEST).objective("x").sample(1)[0]
    assert batch.images.shape == (2, 8, 8, 8, 8)
    assert not batch.images[:, T2].any()
    present = [0.0 if index == T2 else 1.0 for index in range(4)]
    for index, value in enumerate(present):
        assert torch.equal(batch.images[:, 4 + index], torch.full((2, 8, 8, 8), value))
    whole = site(NORTH).objective("x").sample(1)[0]
    assert torch.equal(whole.images[:, 4:], torch.ones(2, 4, 8, 8, 8))
    assert whole.images[:, T2].any()


def test_patches_are_cut_from_the_volume(site):
    """A patch as large as the volume is the volume: images, and the three regions of its labels."""
    one = site(patch=(16, 16, 16), batch=1)
    batch = one.objective("x").sample(1)[0]
    volume = one.volume(next(case for case, who in one.cohort.patients.items() if who == batch.patients[0]))
    np.testing.assert_array_equal(batch.images[0, :4].numpy(), np.asarray(volume.image, np.float32))
    labels = np.asarray(volume.labels)
    expected = np.stack([labels == 3, np.isin(labels, (1, 3)), labels > 0])
    np.testing.assert_array_equal(batch.targets[0].numpy().astype(bool), expected)
    assert batch.known.tolist() == [[True, True, True]]


def test_the_gradient_is_that_of_autograd(site):
    from wardround.tasks.loss import dice_bce

    one = site()
    objective, w = one.objective("x"), first_weights(one)
    batch = objective.sample(1)[0]
    loss, gradient = objective.value_and_grad(w, batch)
    module = UNet3d(channels=(4, 8), residual_units=1, norm="instance", dropout=0.0).build(0)
    expected = dice_bce(module(batch.images), batch.targets, batch.known)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    flat = torch.cat([block.grad.reshape(-1) for block in module.parameters()])
    torch.testing.assert_close(gradient, flat, rtol=1e-4, atol=1e-6)


def test_scores_of_a_network_that_says_nothing(site):
    """All biases far below zero: every mask is empty, so Dice is 0 where there is tumour and 1 where there is none."""
    one = site()
    w = torch.zeros_like(first_weights(one))
    names = {name: block for name, block in one.model.module.named_parameters()}
    bias = list(names)[-1]
    offset = sum(int(block.numel()) for name, block in list(names.items())[:-1])
    assert bias.endswith("bias")
    w[offset:] = -20.0
    for case, row in zip(one.split.test, one.scores(w, one.split.test, with_hd95=False), strict=True):
        labels = np.asarray(one.volume(case).labels)
        empty = [not (labels == 3).any(), not np.isin(labels, (1, 3)).any(), not (labels > 0).any()]
        assert [row["dice_ET"], row["dice_TC"], row["dice_WT"]] == [float(value) for value in empty]
        assert row["dice_mean"] == pytest.approx(sum(empty) / 3)


def test_no_cases_no_oracle(site):
    with pytest.raises(ConfigRefused, match="training cases"):
        site().drawn([])


def test_a_case_without_a_mask_cannot_be_trained_on(site):
    from dataclasses import replace

    one = site()
    volume = one.volume(one.cohort.cases[0])
    with pytest.raises(DataRefused, match="mask"):
        labels_of(replace(volume, labels=None))


@pytest.mark.parametrize(
    "changed",
    [{"patch": (8, 8)}, {"patch": (2, 8, 8)}, {"batch": 0}, {"tumour_probability": 1.5}, {"patch": (8, 8, 1000)}],
)
def test_senseless_sampling_is_refused(changed):
    with pytest.raises(ConfigRefused, match="sampling"):
        Sampling(**{"patch": (8, 8, 8), "batch": 2, "tumour_probability": 0.5, "augment": False} | changed)


def test_a_model_predicts_in_mirror_images_wherever_it_is_deployed_as_it_was_evaluated(site, tmp_path):
    """The task says it once: evaluation, `wardround predict` (and serve), and MONAI's bundle give the same mask."""
    one, plain = site(task={**DESCRIPTION, "mirrored": 4}), site()
    w = first_weights(one)
    case = one.split.test[0]
    volume, patch, device = one.volume(case), (8, 8, 8), one.device
    image = np.asarray(volume.image, np.float32)
    one.model.load(w)
    logits = predict_logits(one.model.module, image, volume.present, patch, device, 3, mirrored=4)
    found = one.predict(w, case)
    assert np.array_equal(found, one.task.outputs.nested(logits > 0))
    assert (found != plain.predict(w, case)).any()

    meta = {"model": describe(SPEC), **one.about_model()}
    checkpoint.save(tmp_path / "m.npz", one.layout.unflatten(w.numpy()), fingerprint(SPEC), meta)
    weights = prediction.read_weights(tmp_path / "m.npz")
    assert np.array_equal(prediction.regions_of(volume, weights, prediction.ready(weights, "cpu")), found)
    inputs = network_input(torch.from_numpy(image)[None], torch.from_numpy(volume.present))
    again = CaseInferer(patch, "cpu", weights.meta["inputs"]["task"])(inputs, one.model.module)
    np.testing.assert_array_equal(again[0].numpy(), logits)
