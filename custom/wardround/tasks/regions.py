"""What are the regions of a segmentation task?

The regions say which values of a mask lie in each and which regions lie inside which,
and how masks are made of them again. The order of channels in targets and logits is
`names`. Masks of one kind may tell fewer regions than those of another: a region that a
kind does not tell is unknown at that site, not empty.

The brain tumour task (brain_tumours.py) as a table:

| label            | ET | TC | WT |
|------------------|----|----|----|
| 0 background     |    |    |    |
| 1 necrotic core  |    | x  | x  |
| 2 oedema         |    |    | x  |
| 3 enhancing      | x  | x  | x  |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,23}")
# Labels are stored as uint8.
_MOST = 255
Labels = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Regions:
    """The regions that each kind of masks tells.

    kinds: For each kind of masks, the label values of each of its regions; the first
        kind tells every region.

    A region whose labels are all in another one's lies inside it. Names consist of
    letters and digits; "mean" is taken. ConfigRefused is raised when there is no kind
    or no region, for a name or value that is not valid, and for a region that the first
    kind does not tell.
    """

    kinds: Mapping[str, Mapping[str, tuple[int, ...]]]

    def __post_init__(self) -> None:
        sound = isinstance(self.kinds, Mapping) and bool(self.kinds)
        for kind, regions in self.kinds.items() if sound else ():
            sound = sound and isinstance(kind, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,23}", kind) is not None
            sound = sound and kind != "classes" and isinstance(regions, Mapping) and bool(regions)
            sound = sound and all(_is_region(name, labels) for name, labels in regions.items())
        if not sound or any(set(one) - set(self.names) for one in self.kinds.values()):
            raise ConfigRefused(
                "the regions of the task",
                found=f"{dict(self.kinds) if isinstance(self.kinds, Mapping) else type(self.kinds).__name__}"[:300],
                expected="kind of masks -> region -> label values from 1 to 255; the first kind tells every region",
                fix="for example `task.outputs: {organs: {spleen: [1]}}` in the job's sampling",
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the regions in the order of targets and logits."""
        return tuple(next(iter(self.kinds.values())))

    @property
    def default_kind(self) -> str:
        """Return the kind whose masks tell every region."""
        return next(iter(self.kinds))

    def known(self, kind: str) -> Bools:
        """Return which regions labels of this kind can tell, bool [R].

        ConfigRefused is raised for another kind.
        """
        regions = self._of(kind)
        return np.array([name in regions for name in self.names])

    def targets(self, labels: Labels, kind: str) -> Labels:
        """Return uint8 [R, ...] of 0 and 1 for labels [...].

        Unknown regions are all 0 (see `known`). DataRefused is raised for a label above
        the highest of this kind, ConfigRefused for another kind.
        """
        table = self._table(kind)
        highest = int(labels.max(initial=0))
        if highest >= table.shape[1]:
            raise DataRefused(
                "a label value",
                found=f"{highest}",
                expected=f"0 to {table.shape[1] - 1} for labels of kind {kind!r}",
                fix="map the values of the masks (BraTS label 4 is 3 here), or set the kind of `labels` in this site's file",
            )
        return np.ascontiguousarray(np.take(table, labels, axis=1))

    def nested(self, regions: Bools) -> Bools:
        """Return bool [R, ...] with inner regions cut back to the outer ones.

        The outer ones never change.
        """
        return np.stack(
            [np.logical_and.reduce([regions[j] for j in (i, *self._around[i])]) for i in range(len(regions))]
        )

    def labels(self, regions: Bools, kind: str) -> Labels:
        """Return uint8 labels [...] of bool regions [R, ...].

        The regions are made nested first, and outer ones are written first. Each region
        is written as the smallest of its labels that no region inside it has.
        """
        own = self._of(kind)
        found = self.nested(regions.astype(bool))
        labels = np.zeros(regions.shape[1:], np.uint8)
        for name in sorted(own, key=lambda one: -len(own[one])):
            inner = {value for other in own.values() if set(other) < set(own[name]) for value in other}
            labels[found[self.names.index(name)]] = min(set(own[name]) - inner or own[name])
        return labels

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], ...]:
        """Return, for each region, the indices of those that it lies inside."""
        whole = self._of(self.default_kind)
        return tuple(
            tuple(j for j, other in enumerate(self.names) if set(whole[name]) < set(whole[other]))
            for name in self.names
        )

    @cached_property
    def _tables(self) -> dict[str, Labels]:
        return {kind: self._table_of(regions) for kind, regions in self.kinds.items()}

    def _table_of(self, regions: Mapping[str, tuple[int, ...]]) -> Labels:
        table = np.zeros(
            (len(self.names), 1 + max(max(labels) for labels in regions.values())),
            np.uint8,
        )
        for name, labels in regions.items():
            table[self.names.index(name), list(labels)] = 1
        return table

    def _table(self, kind: str) -> Labels:
        self._of(kind)
        return self._tables[kind]

    def _of(self, kind: str) -> Mapping[str, tuple[int, ...]]:
        if kind not in self.kinds:
            raise ConfigRefused(
                "the kind of labels",
                found=repr(kind),
                expected=" or ".join(self.kinds),
                fix="set `labels` in the site's file to one of these",
            )
        return self.kinds[kind]


def _is_region(name: object, labels: object) -> bool:
    named = isinstance(name, str) and _NAME.fullmatch(name) is not None and name != "mean"
    values = labels if isinstance(labels, list | tuple) else ()
    whole = all(type(n) is int and 1 <= n <= _MOST for n in values)
    return named and whole and len(values) > 0 and len(set(values)) == len(values)
