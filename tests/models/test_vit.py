"""Any subset of modalities and columns, refusals, roles, gradients of single patients, one step through FlatModel."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from wardround.core.errors import ConfigRefused, DataRefused, ModelRefused
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel, first_weights
from wardround.models.nets import require_federable
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.models.roles import block_roles
from wardround.models.timm_vit import build_vit
from wardround.models.torchvision_adapter import open_torchvision
from wardround.models.vit import ViTFusion

BASE: dict[str, Any] = {
    "name": "test_vit",
    "modalities": 2,
    "size": (32, 32),
    "columns": 3,
    "classes": 4,
    "stems": "shared",
    "depth": 2,
    "fusion_depth": 1,
    "weights": None,
}


def vit(**changed: Any) -> ViTFusion:
    return ViTFusion(**{**BASE, **changed})


SPECS = {
    "2d": vit(),
    "2d, separate stems": vit(stems="separate", fusion_depth=2),
    "3d": vit(size=(3, 16, 32), modalities=3),
    "3d, separate stems": vit(size=(2, 32, 16), stems="separate"),
    "images only": vit(columns=0),
    "one modality": vit(columns=0, modalities=1, classes=2),
    "one slice": vit(size=(1, 32, 32)),
    "table only": vit(modalities=0),
    "mean pooling, layer scales": vit(name="test_vit2"),
    "patches of 8": vit(patch=8, depth=1),
    "tubelets": vit(size=(4, 32, 32), tubelet=2),
    "tubelets, separate stems": vit(size=(3, 16, 32), stems="separate", tubelet=1, patch=8, depth=1),
    "one tubelet deep": vit(size=(3, 32, 32), tubelet=3, columns=0),
    "tubelets and registers": vit(name="vit_little_patch16_reg4_gap_256", depth=1, size=(4, 32, 32), tubelet=2),
    "registers": vit(name="vit_little_patch16_reg4_gap_256", depth=1),
    "convolutions": vit(stem="conv"),
    "convolutions, separate stems": vit(stem="conv", stems="separate", patch=8, depth=1),
    "convolutions, slices": vit(stem="conv", size=(2, 16, 32), patch=4, depth=1),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def promised(file: Path) -> dict[str, str]:
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def drawn(spec: ViTFusion, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Patients of whom everything is there."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, spec.modalities, *spec.size, generator=generator)
    values = torch.randn(count, spec.columns, generator=generator)
    return images, torch.ones(count, spec.modalities), values, torch.ones(count, spec.columns)


def subsets(spec: ViTFusion) -> Tensor:
    """Every non-empty [M + 1] of modalities and table."""
    flags = product((0.0, 1.0), repeat=spec.modalities + (spec.columns > 0))
    return torch.tensor([chosen for chosen in flags if any(chosen)])


def with_subsets(spec: ViTFusion, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One patient for every subset; whoever has the table lacks its last value."""
    chosen = subsets(spec)
    images, presence, values, known = drawn(spec, len(chosen), seed)
    presence = chosen[:, : spec.modalities]
    if spec.columns:
        known = known * chosen[:, -1:]
        known[:, -1] = 0
    return images, presence, values, known


def livened(module: nn.Module) -> nn.Module:
    """Every parameter moved, so that nothing is hidden by what starts at zero."""
    generator = torch.Generator().manual_seed(1)
    for block in module.parameters():
        block.data.add_(0.05 * torch.randn(block.shape, generator=generator))
    return module


@each_spec
def test_one_logit_per_class_for_every_subset(spec: ViTFusion) -> None:
    net = spec.build(0).eval()
    require_federable(net)
    logits = net(spec.case.pack(*with_subsets(spec)))
    assert logits.shape == (len(subsets(spec)), spec.classes)
    assert logits.isfinite().all()


@each_spec
def test_what_stands_in_an_absent_place_changes_nothing(spec: ViTFusion) -> None:
    net = livened(spec.build(0)).eval()
    images, presence, values, known = with_subsets(spec)
    clean = net(spec.case.pack(images, presence, values, known))
    gone = presence.view(*presence.shape, *(1 for _ in spec.size)) == 0
    for filling in (1e6, float("nan")):
        spoiled = images.masked_fill(gone, filling), presence, values.masked_fill(known == 0, filling), known
        raw = torch.cat([part.flatten(1) for part in spoiled], 1)
        assert torch.equal(net(raw), clean)


@each_spec
def test_what_is_present_matters(spec: ViTFusion) -> None:
    net = livened(spec.build(0)).eval()
    parts = drawn(spec, 1)
    base = net(spec.case.pack(*parts))
    others = drawn(spec, 1, seed=5)
    for index in range(spec.modalities):
        images, presence = parts[0].clone(), parts[1].clone()
        images[:, index] = others[0][:, index]
        assert not torch.allclose(net(spec.case.pack(images, *parts[1:])), base, atol=1e-5)
        if spec.modalities + spec.columns > 1:
            presence[:, index] = 0
            assert not torch.allclose(net(spec.case.pack(parts[0], presence, *parts[2:])), base, atol=1e-5)
    for index in range(spec.columns):
        values, known = parts[2].clone(), parts[3].clone()
        values[:, index] += 1
        assert not torch.allclose(net(spec.case.pack(*parts[:2], values, known)), base, atol=1e-5)
        known[:, index] = 0
        assert not torch.allclose(net(spec.case.pack(*parts[:2], parts[2], known)), base, atol=1e-5)


@pytest.mark.parametrize("changed", [{}, {"stems": "separate"}, {"size": (2, 32, 32)}], ids=str)
def test_an_absent_modality_leaves_no_trace_in_attention(changed: dict[str, Any]) -> None:
    """The same image alone, in a network that knows one modality only, gives the same prediction."""
    both = vit(**changed, columns=0)
    one = replace(both, modalities=1)
    net, small = livened(both.build(0)).eval(), one.build(0).eval()
    state = {key: block for key, block in net.state_dict().items() if not key.startswith("stems.1.")}
    state["modality.vector"] = state["modality.vector"][:, :1]
    small.load_state_dict(state)
    images, presence, *table = drawn(both, 2)
    presence[:, 1] = 0
    alone = one.case.pack(images[:, :1], presence[:, :1], *table)
    torch.testing.assert_close(net(both.case.pack(images, presence, *table)), small(alone), rtol=1e-4, atol=1e-5)


def test_modalities_are_told_apart_although_they_share_a_stem() -> None:
    spec = vit(columns=0)
    net = livened(spec.build(0)).eval()
    images, presence, *table = drawn(spec, 1)
    swapped = net(spec.case.pack(images.flip(1), presence, *table))
    assert not torch.allclose(net(spec.case.pack(images, presence, *table)), swapped, atol=1e-5)


def test_slices_are_told_apart() -> None:
    spec = vit(columns=0, modalities=1, size=(3, 32, 32))
    net = livened(spec.build(0)).eval()
    images, *rest = drawn(spec, 1)
    assert not torch.allclose(net(spec.case.pack(images, *rest)), net(spec.case.pack(images.flip(2), *rest)), atol=1e-5)


def test_nothing_at_all_is_refused() -> None:
    spec = vit()
    flat = spec.case.pack(*drawn(spec, 2))
    flat[1] = 0
    with pytest.raises(DataRefused, match="1 of the 2"):
        spec.build(0)(flat)


def test_another_case_is_refused() -> None:
    with pytest.raises(ModelRefused, match="batch of patients"):
        vit().build(0)(torch.zeros(2, 7))


@each_spec
def test_a_row_is_the_gradient_of_its_patient(spec: ViTFusion) -> None:
    model = FlatModel(livened(spec.build(0)))
    flat = spec.case.pack(*with_subsets(spec))
    targets = torch.arange(len(flat)) % spec.classes

    def losses(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets[: len(logits)], reduction="none")

    rows = PerSample(model).gradients(model.vector, flat, losses, len(flat))[1]
    for index, row in enumerate(rows):
        own = targets[index : index + 1]

        def loss(logits: Tensor, own: Tensor = own) -> Tensor:
            return functional.cross_entropy(logits, own)

        truth = model.value_and_grad(model.vector, flat[index : index + 1], loss)[1]
        assert (row - truth).norm() <= TOLERANCE * truth.norm()


@each_spec
def test_patients_are_told_apart(spec: ViTFusion) -> None:
    """Every layer has a formula: no parameter is copied for every row, which slices and modalities would not fit."""
    per_sample = PerSample(FlatModel(livened(spec.build(0))))
    assert per_sample._tokens == {}
    assert per_sample.require_exact(spec.case.pack(*with_subsets(spec))) < TOLERANCE


def test_patients_of_several_rows() -> None:
    spec = vit(size=(2, 32, 32))
    model = FlatModel(livened(spec.build(0)))
    flat = spec.case.pack(*drawn(spec, 4))

    def losses(logits: Tensor) -> Tensor:
        return logits.square().sum(1)

    rows = PerSample(model, pad_multiple=3).gradients(model.vector, flat, losses, 2)[1]
    for row, part in zip(rows, flat.chunk(2), strict=True):
        truth = model.value_and_grad(model.vector, part, lambda logits: losses(logits).mean())[1]
        assert (row - truth).norm() <= TOLERANCE * truth.norm()


@each_spec
def test_roles(spec: ViTFusion) -> None:
    module = spec.build(0)
    roles = block_roles(module)
    assert list(roles) == [key for key, _ in module.named_parameters()]
    assert [key for key, role in roles.items() if role == "head"] == ["head.weight", "head.bias"]
    norms = {f"{place}.{key}" for place, part in module.named_modules() if isinstance(part, nn.LayerNorm | nn.GroupNorm)
             for key, _ in part.named_parameters()}  # fmt: skip
    assert {key for key, role in roles.items() if role == "norm"} == norms
    assert {role for key, role in roles.items() if key not in norms and not key.startswith("head.")} == {"body"}


@each_spec
def test_every_parameter_learns(spec: ViTFusion) -> None:
    model = FlatModel(livened(spec.build(0)))
    flat = spec.case.pack(*drawn(spec, 3))
    weights = torch.linspace(0.5, 1.5, spec.classes)
    model.value_and_grad(model.vector, flat, lambda logits: (logits * weights).sin().sum())
    for name, block in model.module.named_parameters():
        assert block.grad is not None
        assert block.grad.any(), name


def test_a_few_steps_fit_a_batch() -> None:
    spec = vit(classes=2, depth=1)
    model = FlatModel(spec.build(0))
    flat, targets = spec.case.pack(*with_subsets(spec)), torch.arange(7) % 2
    w = model.vector.clone()
    for _ in range(40):
        loss, gradient = model.value_and_grad(w, flat, lambda logits: functional.cross_entropy(logits, targets))
        w = w - 0.3 * gradient / gradient.norm().clamp(min=1)
    assert loss < 0.1


@each_spec
def test_weights_depend_on_the_seed_only_and_leave_the_global_random_state(spec: ViTFusion) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = first_weights(spec, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(first, first_weights(spec, 1))
    assert not torch.equal(first, first_weights(spec, 2))


def test_a_step_is_a_function_of_its_batch_in_train_mode_too() -> None:
    spec = vit(name="vit_tiny_patch16_224")
    net, flat = spec.build(0).train(), spec.case.pack(*drawn(spec, 2))
    assert torch.equal(net(flat), net(flat))
    torch.testing.assert_close(net(flat), net.eval()(flat))
    assert list(net.buffers()) == []


def test_separate_stems_are_drawn_apart_and_read_alike(tmp_path: Path) -> None:
    apart = vit(stems="separate").build(0).stems
    assert not torch.equal(apart[0].proj.weight, apart[1].proj.weight)
    file = tmp_path / "w.pt"
    torch.save(build_vit("test_vit", (32, 32), 2, None).state_dict(), file)
    first, second = (vit(stems="separate", weights=promised(file)).build(seed) for seed in (0, 1))
    assert torch.equal(first.stems[0].proj.weight, first.stems[1].proj.weight)
    for (key, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        if key.startswith(("stems.", "trunk.")):
            assert torch.equal(one, other)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(build_vit("test_vit2", (32, 32), 2, None).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelRefused, match=r"w\.pt"):
        vit(weights=promised(tmp_path / "w.pt")).build(0)


def test_a_file_from_timm_is_what_every_party_starts_from_and_any_other_is_refused(tmp_path: Path) -> None:
    """The file is one that timm itself wrote, of drawn weights; the digest in a job covers its content."""
    torch.manual_seed(3)
    theirs = timm_vit("test_vit")
    file = tmp_path / "from_timm.safetensors"
    save_file(theirs.state_dict(), file)
    spec = vit(depth=0, weights=promised(file))
    one, other = spec.build(0), spec.build(1)
    assert torch.equal(one.trunk.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)
    assert all(torch.equal(a, b) for a, b in zip(one.trunk.parameters(), other.trunk.parameters(), strict=True))
    torch.manual_seed(4)
    save_file(timm_vit("test_vit").state_dict(), file)
    with pytest.raises(ModelRefused, match=r"(?s)SHA-256.*all must start from the same weights"):
        spec.build(0)
    file.unlink()
    with pytest.raises(
        ModelRefused, match=r"(?s)from_timm.*No such file.*copy it there, or `--set model.weights=none`"
    ):
        spec.build(0)


def timm_vit(name: str) -> Any:
    open_torchvision()
    import timm

    return timm.create_model(name, pretrained=False, img_size=32, in_chans=3, num_classes=1000)


def test_bfloat16_is_close() -> None:
    spec = vit()
    net, flat = livened(spec.build(0)).eval(), spec.case.pack(*with_subsets(spec))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(flat).float()
    torch.testing.assert_close(half, net(flat), rtol=0.1, atol=0.1)


def test_architectures_that_differ_have_other_fingerprints() -> None:
    others = [
        vit(name="test_vit2"),
        vit(modalities=1),
        vit(columns=2),
        vit(classes=2),
        vit(stems="separate"),
        vit(depth=1),
        vit(fusion_depth=2),
        vit(size=(1, 32, 32)),
        vit(size=(2, 32, 32)),
        vit(size=(16, 64)),
        vit(size=(64, 16)),
        vit(name="vit_tiny_patch16_224"),
        vit(patch=8),
        vit(size=(2, 32, 32), tubelet=1),
        vit(size=(2, 32, 32), tubelet=2),
        vit(size=(1, 32, 32), tubelet=1),
        vit(stem="conv"),
        vit(stem="conv", patch=8),
    ]
    module = vit().build(0)
    found = [fingerprint(spec) for spec in others] + [fingerprint(module)]
    assert len(set(found)) == len(found)
    assert fingerprint(copy.deepcopy(module)) == fingerprint(vit().build(1)) == found[-1]


def test_the_fusion_has_as_many_heads_as_the_trunk() -> None:
    spec = vit()
    assert [block.heads for block in spec.build(0).fusion] == [2]


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": None},
        {"classes": 1},
        {"classes": 2.0},
        {"classes": True},
        {"columns": -1},
        {"modalities": -1},
        {"modalities": 0, "columns": 0},
        {"size": (32,)},
        {"size": (0, 32)},
        {"stems": "none"},
        {"depth": -1},
        {"depth": None},
        {"fusion_depth": 0},
        {"weights": ""},
        {"weights": 3},
        {"weights": "/w.pt"},
        {"weights": {"file": "/w.pt"}},
        {"weights": {"file": "w.pt", "sha256": "0" * 64}},
        {"weights": {"file": "/w.pt", "sha256": "0" * 63}},
        {"weights": {"file": "/w.pt", "sha256": "A" * 64}},
        {"weights": {"file": "/w.pt", "sha256": "0" * 64, "url": "x"}},
        {"weights": {"file": "/w.pt", "sha256": "0" * 64}, "modalities": 0},
        {"patch": 0},
        {"patch": 8.0},
        {"tubelet": 1},
        {"tubelet": 2, "size": (3, 32, 32)},
        {"tubelet": 0, "size": (3, 32, 32)},
        {"tubelet": True, "size": (3, 32, 32)},
        {"stem": "none"},
        {"stem": "conv", "patch": 6},
        {"stem": "conv", "patch": 1},
        {"stem": "conv", "size": (4, 32, 32), "tubelet": 2},
        {"stem": "conv", "weights": {"file": "/w.pt", "sha256": "0" * 64}},
    ],
    ids=str,
)
def test_nonsense_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused):
        vit(**changed)


def test_what_only_timm_knows_is_refused_when_built() -> None:
    for spec in (
        vit(name="vit_huge"),
        vit(size=(30, 32)),
        vit(name="vit_small_patch14_dinov2", size=(28, 28), stem="conv"),
    ):
        with pytest.raises(ConfigRefused):
            spec.build(0)


def test_a_size_from_json_is_a_list() -> None:
    assert vit(size=[32, 32]) == vit()


def test_timm_is_imported_when_a_network_is_built() -> None:
    code = "import sys, wardround.models.vit, wardround.models.specs; print({'timm', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
