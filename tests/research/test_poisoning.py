from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.research import poisoning
from wardround.research.poisoning import Backdoor, Seen

PACKAGE = Path(poisoning.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Batch:
    images: Tensor
    targets: Tensor
    labels: Tensor
    seed: int


def batch(count: int = 4, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 8, size, size, size, generator=generator)
    images[:, 1] = 0.0  # a modality that the site lacks
    images[:, 4:] = torch.tensor([1.0, 0, 1, 1])[None, :, None, None, None]
    targets = torch.randint(0, 2, (count, 3, size, size, size), generator=generator)
    return Batch(images, targets, torch.tensor([0, 1, 2, 2]), 5)


def seen(n: int = 6) -> Seen:
    rng = np.random.default_rng(0)
    return Seen(rng.normal(size=(n, 12)), rng.normal(size=12), (10.0, 20.0, 30.0), 20.0)


def test_the_numbers_of_byzfl(byzfl):
    """Its ALIE adds z sd where ours subtracts."""
    now = seen()
    np.testing.assert_allclose(poisoning.inner_product(2.5).forge(now), byzfl.InnerProductManipulation(2.5)(now.honest))
    np.testing.assert_allclose(poisoning.alie(1.5).forge(now), byzfl.ALittleIsEnough(-1.5)(now.honest), rtol=1e-12)


def test_the_z_of_the_paper():
    """n = 50, f = 24 of Baruch et al.: s = 2, so 24 of the 26 honest lie beyond: Phi(z) = 24 / 26."""
    assert poisoning.alie_z(50, 24) == pytest.approx(1.4261, abs=1e-4)
    assert poisoning.alie_z(4, 1) < 0
    with pytest.raises(ConfigRefused):
        poisoning.alie_z(2, 1)


def test_a_flipped_sign_and_a_replaced_model():
    now = seen()
    np.testing.assert_array_equal(poisoning.sign_flip(2.0).forge(now), -2 * now.own)
    forged = poisoning.replacement(poisoning.empty_regions).forge(now)
    others = np.zeros(12)
    mean = (10 * others + 20 * forged + 30 * others) / 60
    np.testing.assert_allclose(mean, now.own)
    np.testing.assert_array_equal(poisoning.backdoor(Backdoor()).forge(now), forged)
    assert poisoning.backdoor(Backdoor(), boost=False).forge is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(value):
    np.testing.assert_array_equal(poisoning.not_finite(value).forge(seen()), np.full(12, value))


def test_flipped_labels_leave_the_images_alone():
    clean = batch()
    for flip in (poisoning.empty_regions, poisoning.permuted_regions, lambda b: poisoning.flip_classes(b, 3)):
        assert torch.equal(flip(clean).images, clean.images)
    assert not poisoning.empty_regions(clean).targets.any()
    assert torch.equal(poisoning.permuted_regions(clean).targets[:, 0], clean.targets[:, 2])
    assert poisoning.flip_classes(clean, 3).labels.tolist() == [2, 1, 0, 0]
    assert clean.targets.any()


def test_the_trigger_is_a_cube_in_the_images_that_exist_and_empties_the_mask():
    clean, trigger = batch(), Backdoor(side=3, bright=6.0, share=0.5)
    marked = trigger.batch(clean)
    changed = marked.images != clean.images
    assert changed[:2].flatten(2).sum(2).tolist() == [[27, 0, 27, 27, 0, 0, 0, 0]] * 2
    assert not changed[2:].any()
    places = [torch.nonzero(one[0]).float() for one in changed[:2]]
    assert all((p.max(0).values - p.min(0).values).tolist() == [2.0] * 3 for p in places)
    assert not torch.equal(places[0], places[1])
    assert (marked.images[changed] == 6.0).all()
    assert not marked.targets[:2].any()
    assert torch.equal(marked.targets[2:], clean.targets[2:])
    assert torch.equal(trigger.batch(clean).images, marked.images)


def test_hostile_sites_are_some_and_leave_two_honest_ones():
    poisoning.require_attackers(["c"], ["a", "b", "c"])
    with pytest.raises(ConfigRefused, match="d"):
        poisoning.require_attackers(["d"], ["a", "b", "c"])
    with pytest.raises(ConfigRefused, match="2 of 3"):
        poisoning.require_attackers(["b", "c"], ["a", "b", "c"])


def imported(file: Path) -> set[str]:
    """Return the modules of the package that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name.removeprefix("wardround.") for name in names if name.startswith("wardround.")}


def closure(begin: list[Path]) -> set[Path]:
    """Return everything in the package that these files lead to."""
    found, ahead = set(begin), list(begin)
    while ahead:
        for name in imported(ahead.pop()):
            for path in (PACKAGE / f"{name.replace('.', '/')}.py", PACKAGE / name.replace(".", "/") / "__init__.py"):
                if path.is_file() and path not in found:
                    found.add(path)
                    ahead.append(path)
    return found


def test_nothing_at_a_provisioned_party_leads_to_the_attacks(repository):
    """Neither what NVFlare's parties import, nor what a printed job names; the check sees real paths."""
    attacks = {PACKAGE / "research" / name for name in ("poisoning.py", "attacked.py")}
    assert all(path.is_file() for path in attacks)
    assert attacks & closure([PACKAGE / "research" / "attacked.py"]) == attacks
    for room in ("flare", "aggregation"):
        assert not attacks & closure(sorted((PACKAGE / room).glob("*.py"))), room
    configs = sorted((repository / "jobs").glob("*/app/config/*.json"))
    assert configs
    assert not [path for path in configs if "wardround.research" in path.read_text(encoding="utf-8")]
