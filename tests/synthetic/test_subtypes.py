"""Subtypes of tumours: as rare as asked, and only the tumour looks different."""

from __future__ import annotations

import numpy as np

from wardround.core.rng import stream
from wardround.synthetic.anatomy import TISSUES
from wardround.synthetic.hospitals import HOSPITALS
from wardround.synthetic.phantom_images import make_images
from wardround.synthetic.phantoms import make_labels
from wardround.synthetic.subtypes import SUBTYPES, subtype_shifts

HEALTHY = [TISSUES.index(name) for name in ("csf", "grey", "white")]


def shifts(chance: float, many: int) -> list[np.ndarray]:
    return [subtype_shifts(chance, stream(0, "test", index)) for index in range(many)]


def test_no_chance_is_no_shift_and_certainty_always_is_one():
    assert not np.any(shifts(0.0, 50))
    assert all(one.any() for one in shifts(1.0, 50))


def test_each_subtype_is_as_likely_as_the_others():
    kinds = [one.tobytes() for one in shifts(0.5, 400)]
    rare = [kind for kind in kinds if np.frombuffer(kind, np.float32).any()]
    # 200 are expected, with a standard deviation of 10; of each kind 40, with 6.
    assert 150 <= len(rare) <= 250
    assert len(set(rare)) == len(SUBTYPES)
    assert all(16 <= rare.count(kind) <= 64 for kind in set(rare))


def test_healthy_tissue_looks_the_same_in_every_subtype():
    assert not np.any([one[:, HEALTHY] for one in shifts(1.0, 50)])
    plain = HOSPITALS[0]
    tissue, _ = make_labels(plain, 2, (24, 24, 24), 0)
    usual = make_images(plain, 2, 0, tissue)
    rare = make_images(plain.with_spread(1.0, 1.0, 0.0, 1.0), 2, 0, tissue)
    changed = np.any([usual[modality] != rare[modality] for modality in usual], axis=0)
    assert changed[tissue > 3].any()
    # Blur carries the change over the border, for two voxels at most.
    from scipy.ndimage import binary_dilation

    assert not changed[~binary_dilation(tissue > 3, iterations=4)].any()
