"""How does a network start from a file of weights instead of drawn ones?

The network is drawn from the job's seed as always; then every parameter that the file
has in the same shape takes the file's numbers. Three differences are foreseen, and
every other one is refused, so that a file of another network cannot half fit:

    head     with another number of outputs its blocks stay as drawn, all of them
    inputs   with another number of images, the kernels that read the input get the mean
             over the file's images, and over its flags, times (file's number / own):
             what all images together contribute stays the same, as timm does for colours
    extras   adapters and the branch that reads a record stay as drawn (they start as
             nothing)

Source: Wightman 2019 (timm), the adaption of input kernels.
Deviations: 1. Images and flags, the two halves of an input (tasks/inputs.py), are
averaged apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from wardround.core.bounded import parse_json
from wardround.models.blocks import blocks_of
from wardround.models.roles import block_roles
from wardround.models.weights_file import WeightsFile

TAKEN, AVERAGED, DRAWN = "taken", "taken, mean over images", "drawn from the seed"
# Settings that change how a network is trained, its first or last layer, or what is
# added to it: weights fit whatever they are.
FREE = ("in_channels", "out_channels", "dropout", "dropout_prob", "adapter_rank", "ehr_columns", "weights")
EXTRAS = ("film.",)
# The largest number of inputs, images and their flags, over which a file's is averaged.
MOST_INPUTS = 128
Made = TypeVar("Made", bound=nn.Module)


@final
@dataclass(frozen=True)
class Row:
    """What became of one block: its name, the number of its values, and how it starts."""

    block: str
    values: int
    start: str


def started(module: Made, spec: Any) -> Made:
    """Return the network with the weights that its settings name, or as it was drawn.

    It is changed in place.

    ConfigRefused is raised for `weights` that are no promise (weights_file.py), and
    ModelRefused for a file that is missing, has another digest, or is of another
    network.
    """
    if spec.weights is None:
        return module
    file = WeightsFile.of(spec.weights)
    tensors, words = file.tensors()
    _require_kind(file, words, spec)
    own = dict(module.named_parameters())
    starts = _starts(module, tensors, _inputs(spec))
    if wrong := _wrong(own, tensors, starts):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise file.unfit(
            "; ".join(wrong[:3]) + more,
            f"the blocks of the job's network ({sum(block.numel() for block in own.values())} parameters)",
        )
    with torch.no_grad():
        for name, start in starts.items():
            if start == TAKEN:
                own[name].copy_(tensors[name])
            elif start == AVERAGED:
                own[name].copy_(_averaged(tensors[name].float(), own[name].shape[1]))
    return module


def mapping(spec: Any, seed: int) -> list[Row]:
    """Return what becomes of every block of the network, in its order.

    Without weights every block is drawn.
    """
    module = spec.build(seed)
    blocks = blocks_of(module)
    starts = dict.fromkeys(blocks, DRAWN)
    if spec.weights is not None:
        starts = _starts(module, WeightsFile.of(spec.weights).tensors()[0], _inputs(spec))
    rows: dict[tuple[str, str], int] = {}
    for name, parameter in module.named_parameters():
        key = blocks[name], starts[name]
        rows[key] = rows.get(key, 0) + parameter.numel()
    return [Row(block, values, start) for (block, start), values in rows.items()]


def told(spec: Any, seed: int) -> str:
    """Return in one line for a log how a network starts."""
    given = spec.weights
    if given is None:
        return "the first weights are drawn from the job's seed"
    rows = mapping(spec, seed)
    drawn = [row.block for row in rows if row.start == DRAWN]
    averaged = [row.block for row in rows if row.start == AVERAGED]
    taken = sum(row.values for row in rows if row.start != DRAWN)
    words = f"the first weights are those of {source(given)}: {taken} of {sum(row.values for row in rows)} values"
    words += f"; mean over images in {', '.join(averaged)}" if averaged else ""
    return words + (f"; {', '.join(drawn)} drawn from the job's seed" if drawn else "")


def source(given: Mapping[str, Any]) -> str:
    """Return the name and the digest of the weights that a job names."""
    name = given["shipped"] if "shipped" in given else str(given["file"]).rpartition("/")[2]
    return f"{name} (SHA-256 {given['sha256']})"


def words_about(spec: Any) -> dict[str, str]:
    """Return what a file of weights says of its own network, for `_require_kind`."""
    return {"network": json.dumps(_kind(spec), sort_keys=True)}


def _inputs(spec: Any) -> int | None:
    """Return how many channels a network reads; None where its settings do not say it."""
    found = spec.args.get("in_channels") if hasattr(spec, "args") else spec.in_channels
    return found if type(found) is int else None


def _starts(module: nn.Module, tensors: Mapping[str, Tensor], inputs: int | None) -> dict[str, str]:
    """Return how every parameter starts; what does not fit is TAKEN all the same."""
    blocks, roles = blocks_of(module), block_roles(module)
    own = {name: tuple(block.shape) for name, block in module.named_parameters()}
    head = {blocks[name] for name, role in roles.items() if role == "head"}
    # One layer more or less in the head is another head too.
    other_head = any(
        own[name] != _shape(tensors.get(name)) for name in own if blocks[name] in head and not _extra(name, roles)
    )
    # The first kernel in the network's own order reads the input; a file has no order.
    entry = next((_shape(tensors.get(name)) for name, shape in own.items() if len(shape) > 2), None)
    starts = {}
    for name, shape in own.items():
        found = _shape(tensors.get(name))
        if (_extra(name, roles) and found is None) or (other_head and blocks[name] in head):
            starts[name] = DRAWN
        elif found != shape and _reads_input(shape, found, inputs, entry[1] if entry and len(entry) > 2 else None):
            starts[name] = AVERAGED
        else:
            starts[name] = TAKEN
    return starts


def _extra(name: str, roles: Mapping[str, str]) -> bool:
    return roles[name] == "adapter" or name.startswith(EXTRAS)


def _shape(block: Tensor | None) -> tuple[int, ...] | None:
    return None if block is None else tuple(block.shape)


def _reads_input(
    own: tuple[int, ...],
    found: tuple[int, ...] | None,
    inputs: int | None,
    theirs: int | None,
) -> bool:
    """Return whether two kernels differ in the number of the network's inputs alone.

    Both numbers are even: images, and a flag for each. The file's is from 2 to
    MOST_INPUTS.
    """
    if found is None or inputs is None or theirs is None or len(own) != len(found) or len(own) < 3:
        return False
    if not 2 <= theirs <= MOST_INPUTS:
        return False
    elsewhere = own[:1] + own[2:] == found[:1] + found[2:]
    return elsewhere and (own[1], found[1]) == (inputs, theirs) and not (own[1] % 2 or found[1] % 2)


def _averaged(kernels: Tensor, inputs: int) -> Tensor:
    """Return kernels [O, inputs, ...] of kernels [O, I, ...]."""
    factor = kernels.shape[1] / inputs
    halves = [half.mean(1, keepdim=True) * factor for half in kernels.chunk(2, 1)]
    return torch.cat([half.expand(-1, inputs // 2, *half.shape[2:]) for half in halves], 1)


def _wrong(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], starts: Mapping[str, str]) -> list[str]:
    """Return what does not fit, in words."""
    wrong = [f"{name} is missing" for name, start in starts.items() if start != DRAWN and name not in tensors]
    wrong += [f"{name} is too much" for name in tensors if name not in own]
    return wrong + [
        f"{name} has shape {_shape(tensors[name])}, not {tuple(block.shape)}"
        for name, block in own.items()
        if starts[name] == TAKEN and name in tensors and tensors[name].shape != block.shape
    ]


def _kind(spec: Any) -> dict[str, Any]:
    """Return the settings that make a network the one it is, without its two ends."""
    args = {key: value for key, value in asdict(spec).items() if key not in FREE}
    if isinstance(args.get("args"), Mapping):
        args["args"] = {key: value for key, value in args["args"].items() if key not in FREE}
    # Through JSON: a tuple and a list are the same setting.
    kept: dict[str, Any] = json.loads(json.dumps({"path": type(spec).__qualname__, "args": args}))
    return kept


def _require_kind(file: WeightsFile, words: Mapping[str, str], spec: Any) -> None:
    """Raise ModelRefused where a file says that it is of another network.

    Shapes alone do not show every setting, such as the groups of a norm. A file that
    says nothing is judged by its blocks.
    """
    said = words.get("network")
    if said is None:
        return
    try:
        theirs = parse_json(said)
    except ValueError:
        theirs = None
    if theirs != _kind(spec):
        raise file.unfit(f"weights of the network {said}", f"those of {json.dumps(_kind(spec), sort_keys=True)}")
