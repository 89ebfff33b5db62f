"""What goes together in one job? The answer is computed from the traits of its parts.
Pure: values in, words out.

A job has one option of every axis: which blocks are shared, how the algorithm trains,
whether FedAvg is trained beside it, differential privacy, compression, secure
aggregation or plaintext updates, and the aggregation. `core.traits.require_fit` says
whether they fit, when a job is printed and when it is loaded. This file asks it about
every combination.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.geometric import GeometricMedian
from wardround.aggregation.krum import Krum
from wardround.aggregation.mean import WeightedMean
from wardround.aggregation.median import CoordinateMedian
from wardround.aggregation.mixing import Mixed
from wardround.aggregation.trimmed import TrimmedMean
from wardround.algorithms.base import BESIDE
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.algorithms.server_optimizers import part_of as server_part
from wardround.algorithms.sharing import Everything, Roles, parts
from wardround.compression.half import Half
from wardround.compression.low_rank import LowRank
from wardround.compression.quantise import Quantise
from wardround.compression.rand_k import RandK
from wardround.compression.top_k import TopK
from wardround.core.traits import Fitting, Misfit, Part, leaving, misfit
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.joint_dp import JointDP
from wardround.dp.patient_dp import PatientDP
from wardround.secagg.spec import SecAggSpec

# In the order in which the parts meet an update. The first option of an axis is what a
# job has that asks for nothing.
AXES = ("sharing", "algorithm", "beside", "dp", "compression", "secagg", "aggregation")
BASE = ("secagg", "dp")
"""The axes of the rows of the table: which of them go together is no matter of single options."""
NOTHING = {
    "beside": "one model",
    "dp": "no differential privacy",
    "compression": "no compression",
    "secagg": "the server opens every update",
}
"""What the first option of an axis is, where it is nothing."""
Cell = Mapping[str, str]


def chain(
    algorithm: Any,
    sharing: Any,
    *,
    beside: bool,
    dp: Fitting | None,
    compression: Fitting | None,
    secagg: Fitting | None,
    aggregation: Fitting,
    validation: Fitting | None = None,
    server_optimizer: ServerOptimizer | None = None,
    work_by_patients: Fitting | None = None,
) -> list[Fitting]:
    """Return the parts of one job in the order in which they meet an update.

    server_optimizer: None stands for one that takes what the algorithm sends.
    """
    found: list[Fitting] = [
        *parts(algorithm, sharing, beside),
        *leaving(dp, compression, secagg),
    ]
    # The sum of a hidden job is its mean: there a weighted mean reads nothing beside
    # it.
    if secagg is None or not isinstance(aggregation, WeightedMean):
        found.append(Part(aggregation.name, aggregation.traits, "--set aggregation=mean"))
    if validation is not None:
        found.append(Part(validation.name, validation.traits, "--set validation=none"))
    if server_optimizer is not None:
        found.append(server_part(server_optimizer))
    if work_by_patients is not None:
        found.append(work_by_patients)
    return found


@lru_cache
def options() -> Mapping[str, Mapping[str, Any]]:
    """Return, for each axis, one value of every kind that a job can name, by its short
    name and with the smallest settings.
    """
    masks: dict[str, Any] = {
        "every": 1,
        "warm_up": 1,
        "rho": 0.8,
        "enter": 1.5,
        "leave": 0.75,
        "most": 0.3,
        "batches": 1,
    }
    return {
        "sharing": {
            "everything": Everything(),
            "roles": Roles(("norm",)),
            "same_masks": KLMask(choose="head", home=(), **masks),
            "klmask": KLMask(choose="kl", home=(), **masks),
        },
        "algorithm": {"fedavg": FedAvg(), "scaffold": Scaffold()},
        "beside": {"alone": None, "beside": BESIDE},
        "dp": {"no_dp": None, "patient": PatientDP, "hospital": HospitalDP, "joint": JointDP},
        "compression": {
            "none": None,
            "half": Half,
            "quantise": Quantise,
            "top_k": TopK,
            "rand_k": RandK,
            "low_rank": LowRank,
        },
        "secagg": {
            "plaintext": None,
            "fixed": _sum(),
            "masked": _sum(masks=True),
            "he": _sum(encryption=True),
            "he_masks": _sum(masks=True, encryption=True),
            "ring": _sum(masks=True, encryption=True, ring=True),
            "weighted": _sum(masks=True, weights="patients_in_sum"),
        },
        "aggregation": {
            "mean": WeightedMean(),
            "clipped_mean": ClippedMean(1),
            "median": CoordinateMedian(1),
            "trimmed_mean": TrimmedMean(1),
            "krum": Krum(1),
            "multi_krum": Krum(1, keep=3),
            "rfa": GeometricMedian(1),
            "mixed_trimmed_mean": Mixed(TrimmedMean(1)),
        },
    }


def default() -> dict[str, str]:
    """Return the cell of a job that asks for nothing beyond the first option of every
    axis.
    """
    return {axis: next(iter(found)) for axis, found in options().items()}


def cells() -> Iterator[Cell]:
    """Yield every combination as a mapping of axis to option."""
    for names in product(*(options()[axis] for axis in AXES)):
        yield dict(zip(AXES, names, strict=True))


def cell_of(names: Sequence[str]) -> Cell:
    """Return the cell with these options, and the first option on every other axis."""
    axes = {name: axis for axis in AXES for name in options()[axis]}
    return default() | {axes[name]: name for name in names}


def parts_of(cell: Cell) -> list[Fitting]:
    """Return the chain of parts that a cell stands for."""
    found = {axis: options()[axis][name] for axis, name in cell.items()}
    return chain(
        found["algorithm"],
        found["sharing"],
        beside=found["beside"] is not None,
        dp=found["dp"],
        compression=found["compression"],
        secagg=found["secagg"],
        aggregation=found["aggregation"],
    )


def why_not(cell: Cell) -> Misfit | None:
    """Return what does not fit in a combination, or None where its parts go together."""
    return misfit(parts_of(cell))


def rows() -> list[tuple[str, str]]:
    """Return every pair (secagg, dp)."""
    secagg, dp = (options()[axis] for axis in BASE)
    return list(product(secagg, dp))


def row_misfit(row: tuple[str, str]) -> Misfit | None:
    """Return why this kind of sum and this kind of differential privacy do not go
    together, or None where they do.
    """
    return why_not(default() | dict(zip(BASE, row, strict=True)))


@dataclass(frozen=True)
class Conflict:
    """Options that do not go together in some rows of the table, though every smaller
    set of them does there.

    rows: the pairs (secagg, dp) in which they conflict.
    """

    names: tuple[str, ...]
    found: str
    expected: str
    rows: tuple[tuple[str, str], ...]

    def within(self, cell: Cell) -> bool:
        """Return whether a cell has all of these options, in one of the rows."""
        return (cell["secagg"], cell["dp"]) in self.rows and set(self.names) <= set(
            cell.values(),
        )


@lru_cache
def conflicts() -> tuple[Conflict, ...]:
    """Return the smallest sets of options that are refused in rows that are allowed as
    such.
    """
    found: dict[tuple[tuple[str, ...], str, str], list[tuple[str, str]]] = {}
    plain = default()
    for cell in cells():
        wrong = why_not(cell)
        changed = [axis for axis in AXES if axis not in BASE and cell[axis] != plain[axis]]
        smaller = ({**cell, axis: plain[axis]} for axis in changed)
        if wrong is None or not changed or any(why_not(one) is not None for one in smaller):
            continue
        key = (tuple(cell[axis] for axis in changed), wrong.found, wrong.expected)
        found.setdefault(key, []).append((cell["secagg"], cell["dp"]))
    return tuple(Conflict(*key, tuple(where)) for key, where in found.items())


def title_of(axis: str, name: str) -> str:
    """Return what an option is, in the words of its part."""
    return title(axis, options()[axis][name])


def title(axis: str, value: Any) -> str:
    """Return what a value of an axis is, in the words of its part."""
    if value is None:
        return NOTHING.get(axis, f"no {axis}")
    unnamed = "all blocks" if axis == "sharing" else type(value).__name__
    return str(getattr(value, "title", "") or getattr(value, "name", "") or unnamed)


def _sum(**switches: Any) -> SecAggSpec:
    """Return the settings of a secure sum over three sites or more."""
    given: dict[str, Any] = {
        "masks": False,
        "encryption": False,
        "ring": False,
        "weights": "equal",
    } | switches
    return SecAggSpec(
        sites=4,
        min_clients=3,
        bits=8,
        reference_patients=1,
        threshold=0,
        **given,
    )
