"""The door in a process of its own: a healthy torchvision, one without its compiled operators, other failures."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

DECLARED = "import torch; from wardround.models import torchvision_adapter as door\n"
BROKEN = 'import torch\ntorch.library.register_fake("torchvision::{name}")(lambda dets, scores, iou: dets)\n'


def run(code: str, path: Path) -> list[str]:
    """Return the printed lines of `code`, run with `path` before everything installed."""
    places = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, "-c", DECLARED + code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def stub(tmp_path: Path, source: str) -> Path:
    (tmp_path / "torchvision.py").write_text(source)
    return tmp_path


def test_a_healthy_install_is_only_imported(tmp_path: Path) -> None:
    healthy = 'import torch\nown = torch.library.Library("torchvision", "DEF")\nown.define("nms(Tensor a) -> Tensor")\n'
    code = """
print(door.open_torchvision(), door.open_torchvision(), door._declared)
print(torch.ops.torchvision.nms.default._schema, hasattr(torch.ops.torchvision, "qnms"))
"""
    assert run(code, stub(tmp_path, healthy)) == ["False False []", "torchvision::nms(Tensor a) -> Tensor False"]


def test_the_installed_one_without_its_operators(tmp_path: Path) -> None:
    """Real breakage: the installed files but for the compiled operators, after another import has already failed."""
    installed = importlib.util.find_spec("torchvision")
    assert installed is not None
    assert installed.origin is not None
    (tmp_path / "torchvision").mkdir()
    for file in Path(installed.origin).parent.iterdir():
        if not file.name.startswith(("_C", "__pycache__")):
            (tmp_path / "torchvision" / file.name).symlink_to(file)
    code = """
import gc
try:
    import torchvision
except RuntimeError as error:
    print(error)
print(door.open_torchvision(), door.open_torchvision(), len(door._declared))
gc.collect()
torch._C._dispatch_find_schema_or_throw("torchvision::nms", "")
import timm, torchvision
print(timm.create_model("test_vit", pretrained=False, num_classes=0).embed_dim)
try:
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except RuntimeError as error:
    print(str(error)[:33])
"""
    assert run(code, tmp_path) == [
        "operator torchvision::nms does not exist",
        "True True 1",
        "64",
        "Couldn't load custom C++ ops. Thi",
    ]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("raise RuntimeError('operator torchvision::roi_align does not exist')", "RuntimeError"),
        ("raise RuntimeError('CUDA is not what it was')", "RuntimeError"),
        ("raise ImportError('libjpeg.so: operator torchvision::nms does not exist')", "ImportError"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
    ],
)
def test_other_failures_are_not_ours(tmp_path: Path, source: str, kind: str) -> None:
    code = """
try:
    door.open_torchvision()
except (RuntimeError, ImportError) as error:
    print(type(error).__name__, door._declared)
"""
    assert run(code, stub(tmp_path, source)) == [f"{kind} []"]


def test_a_failure_that_declaring_does_not_mend_is_told_and_not_tried_again(tmp_path: Path) -> None:
    code = """
for _ in range(2):
    try:
        door.open_torchvision()
    except RuntimeError as error:
        print(error, len(door._declared))
"""
    line = "operator torchvision::nms does not exist 1"
    assert run(code, stub(tmp_path, "raise RuntimeError('operator torchvision::nms does not exist')")) == [line] * 2


@pytest.mark.parametrize("name", ["nms", "qnms"])
def test_each_of_the_two_is_declared(tmp_path: Path, name: str) -> None:
    assert run("print(door.open_torchvision())", stub(tmp_path, BROKEN.format(name=name))) == ["True"]
