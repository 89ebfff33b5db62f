"""How are hospitals made that differ on purpose, for one setting of a sweep?

They differ in number, label skew, missing modalities and scanners. There are three
sources: labelled patients that are dealt (also phantoms with a type: one pool, all from
one scanner), phantoms with tumour masks, which are made for each site, and hospitals
that exist already. All are functions of setting and seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.site_config import SiteConfig, read_sites
from wardround.research.skew import (
    LabelledSet,
    deal,
    label_skew,
    rescan,
    without_modalities,
    write_labelled_sites,
)
from wardround.synthetic.hospitals import HOSPITALS, MOST_SITES, Hospital, hospital
from wardround.synthetic.scanner import scanner
from wardround.training.opening import Phantoms

Missing = tuple[tuple[str, tuple[str, ...]], ...]
# One patient for each of training, validation and test.
LEAST = 3


@final
@dataclass(frozen=True)
class Cell:
    """One setting of the grid.

    sites: The number of sites.
    alpha: The alpha of the label skew; inf is an even deal, None if there is nothing to
        skew.
    missing: The sites that lack modalities, and which.
    scanner: Whether sites have other scanners.
    changed: The settings of the job that differ, with values as on the command line.
    """

    sites: int
    alpha: float | None
    missing: Missing
    scanner: bool
    changed: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the form that files hold.

        alpha inf is "inf", since JSON has no such number.
        """
        alpha = str(self.alpha) if self.alpha is not None and math.isinf(self.alpha) else self.alpha
        lacks = {site: list(names) for site, names in self.missing}
        found: dict[str, Any] = {
            "sites": self.sites,
            "alpha": alpha,
            "missing": lacks,
            "scanner": self.scanner,
        }
        return found | ({"set": dict(self.changed)} if self.changed else {})

    def __str__(self) -> str:
        words = [
            f"{self.sites} sites",
            *([] if self.alpha is None else [f"alpha {self.alpha:g}"]),
        ]
        words += [f"{site} lacks {'+'.join(names)}" for site, names in self.missing]
        words += ["other scanners"] if self.scanner else []
        return ", ".join([*words, *(f"{key}={value}" for key, value in self.changed)])


@final
@dataclass(frozen=True)
class Dealt:
    """The hospitals of a setting.

    configs: The configuration of each site.
    moved: How many patients were moved so that every site has enough.
    lost: How many cases of each site had no other modality.
    """

    configs: Mapping[str, SiteConfig]
    moved: int
    lost: Mapping[str, int]


class Source(Protocol):
    """Where the hospitals of a setting come from."""

    def require(self, cell: Cell, seed: int) -> None:
        """Raise a Refusal if this setting cannot be made; nothing is written."""

    def write(self, cell: Cell, seed: int, place: Path) -> Dealt:
        """Write the hospitals below `place`."""


@final
@dataclass(frozen=True)
class LabelledSource:
    """Labelled patients, dealt again for every setting and seed.

    whole: All patients.
    least: The patients of every site before modalities are taken away.
    per_site: Use only so many patients of the whole set for each site, the first by
        name; None uses all.
    """

    whole: LabelledSet
    least: int
    per_site: int | None

    def require(self, cell: Cell, seed: int) -> None:
        self._sites(cell, seed)

    def write(self, cell: Cell, seed: int, place: Path) -> Dealt:
        sites, moved, lost = self._sites(cell, seed)
        if cell.scanner:
            for name in sites:
                sites[name] = rescan(
                    sites[name],
                    place / name / "scanned",
                    scanner(name, seed),
                    seed,
                )
        return Dealt(read_sites(write_labelled_sites(place, sites)), moved, lost)

    def _sites(
        self,
        cell: Cell,
        seed: int,
    ) -> tuple[dict[str, LabelledSet], int, dict[str, int]]:
        labels = dict(sorted(self.whole.labels().items()))
        if self.per_site is not None:
            labels = dict(list(labels.items())[: self.per_site * cell.sites])
        skew = label_skew(
            labels,
            cell.sites,
            math.inf if cell.alpha is None else cell.alpha,
            seed,
            self.least,
        )
        sites, lost = deal(self.whole, skew.sites), {}
        for site, names in cell.missing:
            sites[site], lost[site] = without_modalities(sites[site], names)
            left = len({row.patient for row in sites[site].rows if row.label})
            if left < LEAST:
                raise DataRefused(
                    f"{site} without {', '.join(names)}",
                    found=f"{left} patients",
                    expected=f"at least {LEAST}, for training, validation and test",
                    fix="take less away, use fewer sites or a larger minimum of patients",
                )
        return sites, skew.moved, lost


@final
@dataclass(frozen=True)
class MaskedPhantoms:
    """Phantoms with tumour masks, made for each site.

    Patients are other ones everywhere, with the tumour sizes of the first profile.
    Without `scanner` all sites have the first profile's scanner; with it each has that
    of its own profile (synthetic/hospitals.py).
    """

    phantoms: Phantoms
    patients: int
    seed: int

    def require(self, cell: Cell, seed: int) -> None:
        if not 2 <= cell.sites <= MOST_SITES or self.patients < LEAST:
            raise ConfigRefused(
                "the phantom hospitals",
                found=f"{cell.sites} hospitals of {self.patients} patients",
                expected=f"2 to {MOST_SITES} hospitals of at least {LEAST} patients",
                fix="set --sites and --patients within these limits",
            )
        for index in range(cell.sites):
            self._profile(cell, index)

    def write(self, cell: Cell, seed: int, place: Path) -> Dealt:
        made = replace(self.phantoms, patients=self.patients)
        configs = {}
        for index in range(cell.sites):
            profile = self._profile(cell, index)
            made.write(place / profile.name, profile, self.seed)
            configs[profile.name] = SiteConfig(data=place / profile.name)
        return Dealt(configs, 0, {})

    def _profile(self, cell: Cell, index: int) -> Hospital:
        name, first = f"site-{index + 1}", HOSPITALS[0]
        base = hospital(index) if cell.scanner else first
        missing: Sequence[str] = dict(cell.missing).get(name, ())
        return replace(
            base,
            name=name,
            missing=tuple(missing),
            tumour_radius_mm=first.tumour_radius_mm,
            quiet_every=first.quiet_every,
        )


@final
@dataclass(frozen=True)
class Given:
    """Hospitals that exist already, as a sites file lists them.

    Every setting trains on the same patients.
    """

    configs: Mapping[str, SiteConfig]

    def require(self, cell: Cell, seed: int) -> None:
        """Accept every setting.

        Over given hospitals `wardround sweep` varies nothing but settings of the job.
        """

    def write(self, cell: Cell, seed: int, place: Path) -> Dealt:
        """Return the hospitals as they are; nothing is written."""
        return Dealt(self.configs, 0, {})


def lacking(count: int, sites: int, modalities: Sequence[str]) -> Missing:
    """Return the setting in which the last `count` sites lack one modality each.

    The last site lacks the last modality, the last but one the one before, and so on.
    ConfigRefused is raised for a count below 0 or above `sites`, and if none would be
    left of a single modality.
    """
    if not 0 <= count <= sites or (count and len(modalities) < 2):
        raise ConfigRefused(
            "the sites that lack a modality",
            found=f"{count} of {sites} sites, modalities {', '.join(modalities)}",
            expected="0 or more, at most all sites, and two modalities at least",
            fix="set --missing within these limits",
        )
    order = list(reversed(modalities))
    return tuple((f"site-{sites - count + k + 1}", (order[k % len(order)],)) for k in range(count))
