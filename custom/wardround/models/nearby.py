"""Floor 2: a network's outputs at weights that differ from known ones in a few blocks: only what follows from those is computed.

At w every module with parameters keeps what it was given and what it returned. At another v a module none of whose
parameters changed, given the same values again, returns what it returned; everything else runs. Swapping the last of L
blocks in a row costs one block, the first one all of them: on average half of a forward pass. The numbers are those of
`FlatModel.outputs`, bit for bit on a CPU: nothing is approximated. Memory: the activations of one batch, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from wardround.models.flat import FlatModel


@dataclass(frozen=True)
class _Call:
    """One call of a module at w; versions: PyTorch's counters of changes in place, by which a tensor is known to be intact."""

    given: tuple[Any, ...]
    returned: Tensor
    versions: tuple[int, ...]

    @staticmethod
    def of(given: tuple[Any, ...], returned: Tensor) -> _Call:
        return _Call(given, returned, _versions(given, returned))

    def answers(self, given: tuple[Any, ...]) -> bool:
        """Whether this call was given the same values, and neither they nor the answer were changed since."""
        same = len(given) == len(self.given) and all(map(_same, given, self.given))
        return same and self.versions == _versions(self.given, self.returned)


@final
class Nearby:
    """The function v -> float32 outputs of the network for these images; quick where v differs from w in few blocks.

    a module that is given something other than tensors, numbers and None, or returns no tensor: runs every time
    a network in between that was used for other things, w loaded or not: no matter | another length of v: ModelRefused
    """

    def __init__(self, model: FlatModel, w: Tensor, images: Tensor) -> None:
        self._model, self._w, self._images = model, w.detach().clone(), images
        self._calls: dict[nn.Module, list[_Call]] = {}
        names = {id(block): name for name, block in model.module.named_parameters()}
        owned = {part: frozenset(names[id(p)] for p in part.parameters()) for part in model.module.modules()}
        self._owned = {part: mine for part, mine in owned.items() if mine}
        with self._answering(self._record):
            self.first = model.outputs(self._w, images)

    def __call__(self, v: Tensor) -> Tensor:
        """Return the outputs at v, float32."""
        if v.shape != self._w.shape:
            return self._model.outputs(v, self._images)
        sizes = list(self._model.layout.sizes)
        pairs = zip(self._model.layout.names, torch.split(v, sizes), torch.split(self._w, sizes), strict=True)
        changed = {name for name, new, old in pairs if not torch.equal(new, old)}
        if not changed:
            return self.first.clone()

        def answer(part: nn.Module, run: Callable[..., Any], *given: Any, **named: Any) -> Any:
            if not self._owned[part] & changed:
                key = _key(given, named)
                for call in self._calls.get(part, ()):
                    if call.answers(key):
                        return call.returned
            return run(*given, **named)

        with self._answering(answer):
            return self._model.outputs(v, self._images)

    def _record(self, part: nn.Module, run: Callable[..., Any], *given: Any, **named: Any) -> Any:
        returned, key = run(*given, **named), _key(given, named)
        if isinstance(returned, Tensor) and all(isinstance(one, (Tensor, int, float, str, type(None))) for one in key):
            self._calls.setdefault(part, []).append(_Call.of(key, returned))
        return returned

    @contextmanager
    def _answering(self, answer: Callable[..., Any]) -> Iterator[None]:
        """Within, a call of a module with parameters goes to answer(module, its own forward, ...)."""
        for part in self._owned:
            part.forward = _bound(answer, part, part.forward)
        try:
            yield
        finally:
            for part in self._owned:
                del part.forward


def _bound(answer: Callable[..., Any], part: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: answer(part, run, *given, **named)


def _key(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    return (*given, *(one for pair in sorted(named.items()) for one in pair))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b)))
    return type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b)


def _versions(given: tuple[Any, ...], returned: Tensor) -> tuple[int, ...]:
    return tuple(one._version for one in (*given, returned) if isinstance(one, Tensor))
