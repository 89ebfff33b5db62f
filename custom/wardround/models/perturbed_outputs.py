"""What are a network's outputs with a few parameters swapped for others?

Only what follows from those parameters is computed. At w every module with parameters
keeps what it was given and what it returned. After a swap, a module none of whose
parameters changed returns what it returned if it is given the same values again;
everything else runs. Swapping the last of L blocks in a row costs one block, swapping
the first costs all of them: on average half of a forward pass. The numbers are those of
`FlatModel.outputs`, bit for bit on a CPU: nothing is approximated. Memory: the
activations of one batch, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from wardround.models.flat import FlatModel


@dataclass(frozen=True)
class _Call:
    """One call of a module at w.

    versions: PyTorch's counters of changes in place, which show whether a tensor is
        intact.
    """

    given: tuple[Any, ...]
    returned: Tensor
    versions: tuple[int, ...]

    @staticmethod
    def of(given: tuple[Any, ...], returned: Tensor) -> _Call:
        return _Call(given, returned, _versions(given, returned))

    def answers(self, given: tuple[Any, ...]) -> bool:
        """Return whether this call was given the same values, all still unchanged."""
        same = len(given) == len(self.given) and all(map(_same, given, self.given))
        return same and self.versions == _versions(self.given, self.returned)


@final
class PerturbedOutputs:
    """The network's outputs for these images, as a function of parameter names.

    The parameters of these names are those of `other`, all others those of w. Names
    that the network does not have are ignored. A module that is given something other
    than tensors, numbers, texts and None, or returns no tensor, runs every time. The
    network may be used for other things in between. ModelRefused is raised for w or
    other of another length.
    """

    def __init__(self, model: FlatModel, w: Tensor, other: Tensor, images: Tensor) -> None:
        model.load(other)
        self._model = model
        # A copy: the caller may change w while outputs are asked for.
        self._w = w.detach().clone()
        self._images = images
        sizes = list(model.layout.sizes)
        into, from_ = (
            torch.split(model.vector, sizes),
            torch.split(other.detach(), sizes),
        )
        self._swaps = dict(zip(model.layout.names, zip(into, from_, strict=True), strict=True))
        self._calls: dict[nn.Module, list[_Call]] = {}
        names = {id(block): name for name, block in model.module.named_parameters()}
        owned = {part: frozenset(names[id(p)] for p in part.parameters()) for part in model.module.modules()}
        self._owned = {part: mine for part, mine in owned.items() if mine}
        with self._answering(self._record):
            self._first = model.outputs(self._w, images)

    def __call__(self, names: Collection[str] = ()) -> Tensor:
        """Return the outputs, float32; without names those at w."""
        changed = self._swaps.keys() & names
        if not changed:
            return self._first.clone()
        self._model.load(self._w)
        for name in changed:
            into, from_ = self._swaps[name]
            into.copy_(from_)

        def answer(part: nn.Module, run: Callable[..., Any], *given: Any, **named: Any) -> Any:
            if not self._owned[part] & changed:
                key = _key(given, named)
                for call in self._calls.get(part, ()):
                    if call.answers(key):
                        return call.returned
            return run(*given, **named)

        with self._answering(answer):
            return self._model.outputs(self._model.vector, self._images)

    def _record(
        self,
        part: nn.Module,
        run: Callable[..., Any],
        *given: Any,
        **named: Any,
    ) -> Any:
        returned, key = run(*given, **named), _key(given, named)
        if isinstance(returned, Tensor) and all(isinstance(one, (Tensor, int, float, str, type(None))) for one in key):
            self._calls.setdefault(part, []).append(_Call.of(key, returned))
        return returned

    @contextmanager
    def _answering(self, answer: Callable[..., Any]) -> Iterator[None]:
        """Send calls of modules with parameters to answer(module, its forward, ...)."""
        for part in self._owned:
            part.forward = _bound(answer, part, part.forward)
        try:
            yield
        finally:
            for part in self._owned:
                del part.forward


def _bound(
    answer: Callable[..., Any],
    part: nn.Module,
    run: Callable[..., Any],
) -> Callable[..., Any]:
    return lambda *given, **named: answer(part, run, *given, **named)


def _key(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    return (*given, *(one for pair in sorted(named.items()) for one in pair))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b)))
    return type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b)


def _versions(given: tuple[Any, ...], returned: Tensor) -> tuple[int, ...]:
    return tuple(one._version for one in (*given, returned) if isinstance(one, Tensor))
