"""What do a report's settings mean, in words? Names and values, for people.

The exact name of a setting stands beside its words in every table, because a reviewer
looks it up in report.json and a colleague writes it behind `--set`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = "wardround."
# Settings that are sizes along axes.
EXTENTS = ("patch", "size", "shape", "tubelet")
# Settings whose value is a name with underscores for blanks.
SPOKEN = ("rule", "decay", "final_model", "normalisation", "masks")
NAMES: Mapping[str, str] = {
    "algorithm_class": "class of the method",
    "sharing_class": "what of the model is shared",
    "sharing.home": "blocks that stay at the hospital",
    "sharing.choose": "how a hospital chooses the blocks that it keeps",
    "aggregation_class": "how the updates become one",
    "server_optimizer_class": "how the server applies the mean change",
    "server_optimizer.server_lr": "size of the server's step (1: the mean change itself)",
    "server_optimizer.lr": "learning rate of the server",
    "server_optimizer.momentum": "momentum of the server",
    "model.channels": "channels of the network, level by level",
    "model.residual_units": "residual units on each level",
    "model.norm": "normalisation layers of the network",
    "model.adapter_rank": "rank of the adapters (0: none)",
    "model.ehr_columns": "columns of the patient's table that the network reads",
    "model.in_channels": "inputs of the network",
    "model.out_channels": "outputs of the network",
    "model.weights": "first weights",
    "first weights": "first weights",
    "sampling.patch": "size of the pieces that are trained on, in voxels",
    "sampling.size": "size of the images, in pixels",
    "sampling.batch": "pieces or patients in one step",
    "sampling.tumour_probability": "share of the pieces that are centred on a tumour",
    "sampling.foreground_share": "share of a step's pieces that must show a tumour",
    "sampling.augment": "images are altered at random in training",
    "sampling.augmentation": "strengths of these alterations, where changed",
    "task.inputs": "images that are read",
    "task.outputs": "regions that are learnt, with their label values",
    "task.masks": "how values of masks are read",
    "task.normalisation": "how intensities become comparable",
    "task.augmentation": "strengths of the alterations, where changed",
    "task.metrics": "scores that are computed",
    "task.missed_mm": "distance that counts where a region is missed, in mm",
    "task.mirrored": "mirror images whose predictions are averaged",
    "model_selection.steps": "fine-tuning steps to choose from",
    "model_selection.lr": "learning rate of fine-tuning",
    "model_selection.least_dice": "least Dice of a usable model",
    "model_selection.blend": "shares to choose from for a blend",
    "model_selection.interpolate": "shares to choose from for an interpolated model",
    "model_selection.rule": "rule by which a hospital chooses its model",
    "model_selection.largest_component": "only the largest part of a region may be kept",
    "model_selection.least_volume": "a region that is too small may be dropped",
    "num_rounds": "rounds",
    "work": "gradient evaluations of a hospital in each round",
    "lr": "learning rate",
    "nesterov": "momentum in Nesterov's form",
    "clip_norm": "longest gradient step (0: no limit)",
    "decay": "how the learning rate falls",
    "final_model": "which model ends the run",
    "fedavg_baseline": "FedAvg is trained beside the method",
    "seed": "seed of all reproducible randomness",
    "score": "score by which models are compared",
    "privacy": "protection of the updates",
    "names": "names that may leave a hospital",
    "dp.unit": "differential privacy protects one",
    "dp.epsilon": "epsilon",
    "dp.epsilon_by_opacus": "epsilon by a second accountant, Opacus PRV",
    "dp.delta": "delta",
    "dp.mu": "mu",
    "dp.target_epsilon": "epsilon that was asked for",
    "dp.noise_multiplier": "noise, as a multiple of the clip",
    "dp.max_grad_norm": "clip of a patient's gradient",
    "dp.max_update_norm": "clip of a hospital's update",
    "dp.sample_rate": "share of the patients in one step",
    "dp.reference_patients": "patients that the noise is computed for",
    "dp.colluders": "hospitals that may reveal their share of the noise",
    "dp.attack_accuracy": "best guess that is possible, share that is right",
    "dp.attack_tpr_at_1_percent": "share that the best attack finds, at 1 % false alarms",
    "dp.normalised": "shorter gradients are stretched to the clip",
    "dp.max_patients": "most training patients of one hospital",
    "dp.epsilon_all_honest": "epsilon if all hospitals are honest",
    "dp.epsilon_one_without_noise": "epsilon if one hospital adds no noise",
    "dp.epsilon_patient_replaced": "epsilon where one patient is replaced by another",
    "algorithm_settings.patches": "pieces of a patient that are averaged before the clip",
    "sharing_settings.train": "blocks that are trained",
    "secagg.sites": "most hospitals in a sum",
    "secagg.bits": "bits of a number in the sum",
    "secagg.weights": "how hospitals are weighted in the sum",
    "secagg.reference_patients": "patients that count as weight 1",
    "secagg.masks": "updates are masked",
    "secagg.encryption": "updates are encrypted",
    "secagg.ring": "the sum passes from hospital to hospital",
    "secagg.threshold": "hospitals that must help to open a sum (0: the default)",
    "secagg.min_clients": "fewest hospitals in a sum",
}


def words_of(name: str) -> str:
    """Return what a setting is, in words. A name that nobody listed is written with
    blanks: `algorithm.home_share` as "algorithm: home share".
    """
    return NAMES.get(name) or name.replace(".", ": ").replace("_", " ")


def value_words(name: str, value: Any) -> str:
    """Return the value of a setting in words.

    Sizes along axes are "32 x 32 x 32", other lists have commas, an empty one is "none",
    switches are yes and no. Of a class of wardround only the name is given; the path of
    another class stays whole, because a reviewer must see whose code ran.
    """
    last = name.rpartition(".")[2]
    if isinstance(value, list):
        return (" x " if last in EXTENTS else ", ").join(value_words(name, one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    words = str(value)
    if last.endswith("class") and words.startswith(OURS):
        return words.rpartition(".")[2]
    return words.replace("_", " ") if last in SPOKEN else words or "none"
