"""Where does a hospital's cohort come from?

The order is fixed: the site's own file, then the simulator's variable, then phantoms
(in the simulator only).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.data.site_config import DEVICE, SiteConfig, from_environment, read_site_config
from wardround.messages.allowed_names import LEAST_PATIENTS
from wardround.synthetic.hospitals import Hospital as Profile
from wardround.synthetic.hospitals import hospital, number_of
from wardround.synthetic.organ_phantoms import write_organs
from wardround.synthetic.parts import patients_of_parts
from wardround.synthetic.phantom_types import write_types
from wardround.synthetic.phantoms import RECORD, are_phantoms, write_cohort
from wardround.training.task import TaskPhantoms, TaskSampling

# `local/` belongs to the site: no job writes there.
SITE_FILE = "local/wardround.json"
# Where a device was typed, and what to type instead.
IN_FILE = 'set "device": "auto" or "cpu" in the site\'s file'
BY_FLAG = "`--device auto` or `--device cpu`"


@dataclass(frozen=True)
class Opened:
    """A hospital's data, its display name and its device.

    cohort: The decoded patients.
    phantoms: Whether the patients are synthetic: generated here, or read from a folder
        of phantoms.
    label: The display name.
    device: The torch device.
    fewest_patients: As in SiteConfig.
    """

    cohort: Any
    phantoms: bool
    label: str
    device: str
    fewest_patients: int = LEAST_PATIENTS


# Smaller brains have no room for a tumour; more voxels or patients than any simulation needs are a slip of the hand.
LEAST_SIDE, MOST_SIDE, MOST_PATIENTS = 8, 512, 10_000


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


@dataclass(frozen=True)
class Phantoms:
    """The size of the simulator's synthetic MRI cohorts.

    shape: Voxels per axis, three whole numbers of LEAST_SIDE to MOST_SIDE.
    patients: Patients per site, MOST_PATIENTS at most, whatever follows; 0 takes what
        follows.
    train, val, test: Patients of each part, one number for each hospital in turn: with
        [12, 4] the first has 12, the second 4, the third 12 again. All three empty
        takes the number of the site's profile, and the split decides; some empty and
        numbers that are not whole or below 1 are a ConfigRefused.
    patients_vary, hospitals_differ, findings, subtypes: As in Hospital.with_spread; 1, 1, 0
        and 0 are the profiles as they stand.
    """

    shape: tuple[int, int, int] | list[int]
    patients: int
    train: Sequence[int] = ()
    val: Sequence[int] = ()
    test: Sequence[int] = ()
    patients_vary: float = 1.0
    hospitals_differ: float = 1.0
    findings: float = 0.0
    subtypes: float = 0.0

    def __post_init__(self) -> None:
        sides = self.shape if isinstance(self.shape, list | tuple) else ()
        sized = len(sides) == 3 and all(_is_whole(side, LEAST_SIDE, MOST_SIDE) for side in sides)
        if not (sized and _is_whole(self.patients, 0, MOST_PATIENTS)):
            raise ConfigRefused(
                "the synthetic patients",
                found=f"shape {self.shape!r}, patients {self.patients!r}",
                expected=f"three sides of {LEAST_SIDE} to {MOST_SIDE} voxels, and 0 to {MOST_PATIENTS} patients",
                fix="for example --set phantoms.shape=[40,40,40] --set phantoms.patients=24",
            )
        parts = self._parts
        whole = all(numbers and all(_is_whole(one, 1, MOST_PATIENTS) for one in numbers) for numbers in parts.values())
        if any(parts.values()) and not whole:
            raise ConfigRefused(
                "the synthetic patients of each part",
                found=", ".join(f"{part} {list(numbers)}" for part, numbers in parts.items()),
                expected="whole numbers above 0 for train, val and test, or none for all three",
                fix="for example --set phantoms.train=[12,8,6,4] --set phantoms.val=[4] --set phantoms.test=[12]",
            )
        # Refused here, when a job is printed, and not by the first hospital that draws its patients.
        self._spread(hospital(0))

    def _spread(self, profile: Profile) -> Profile:
        return profile.with_spread(self.patients_vary, self.hospitals_differ, self.findings, self.subtypes)

    @property
    def _parts(self) -> dict[str, Sequence[int]]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def write(self, root: Path, profile: Profile, seed: int) -> None:
        """Write 3D images with tumour masks, and a record."""
        x, y, z = (int(n) for n in self.shape)
        write_cohort(
            root, self._spread(profile), seed, shape=(x, y, z), patients=self.patients or self._chosen(profile)
        )

    def _chosen(self, profile: Profile) -> Sequence[int] | None:
        """Return the numbers of this hospital's patients; None for those of its profile."""
        if not self.train:
            return None
        hospital_number = number_of(profile)
        wanted = {part: int(numbers[hospital_number % len(numbers)]) for part, numbers in self._parts.items()}
        return patients_of_parts(profile, wanted)


@dataclass(frozen=True)
class OrganPhantoms:
    """The size of the simulator's synthetic CT cohorts with an organ.

    shape, patients: As in Phantoms.
    images: The words by which image files are recognised.
    labels: The values of the mask, the outermost first.
    """

    shape: tuple[int, int, int] | list[int]
    patients: int
    images: Sequence[str]
    labels: Sequence[int]

    def write(self, root: Path, profile: Profile, seed: int) -> None:
        """Write 3D images with masks."""
        x, y, z = (int(n) for n in self.shape)
        labels = [int(value) for value in self.labels]
        write_organs(root, profile, seed, (x, y, z), self.patients or None, self.images, labels)


@dataclass(frozen=True)
class TypePhantoms:
    """The size of the simulator's synthetic cohorts with a tumour type and a record.

    shape, patients: As in Phantoms.
    strength: How much the record reveals about the type, from 0 to 2.
    """

    shape: tuple[int, int, int] | list[int]
    patients: int
    strength: float

    def write(self, root: Path, profile: Profile, seed: int) -> None:
        """Write 2D images, the table and its description."""
        x, y, z = (int(n) for n in self.shape)
        count, strength = self.patients or None, self.strength
        write_types(root, profile, seed, patients=count, shape=(x, y, z), strength=strength)


def find_config(site: str, workspace: Path, environ: Mapping[str, str]) -> SiteConfig | None:
    """Return this site's configuration, None when it has none.

    `local/wardround.json` comes first, then the simulator's variable.
    """
    own = workspace / SITE_FILE
    if own.is_file():
        return read_site_config(own)
    return from_environment(site, environ)


def open_site(
    site: str,
    workspace: Path,
    *,
    simulator: bool,
    phantoms: TaskPhantoms,
    sampling: TaskSampling,
    seed: int,
    say: Callable[[str], None],
) -> Opened:
    """Open this site's data, decoding only what the cache does not hold yet.

    A configured site gets its data. Without a configuration a simulated site gets
    phantoms, with a loud message, and a real site is refused (ConfigRefused).
    """
    config = find_config(site, workspace, os.environ)
    if config is None and not simulator:
        raise ConfigRefused(
            f"site {site!r} has no data",
            found=f"no file {workspace / SITE_FILE}",
            expected="a real site says where its cases are; synthetic patients are for the simulator only",
            fix=f'write {workspace / SITE_FILE}, for example {{"data": "/data/brats"}}, and run `wardround data check`',
        )
    label = config.name if config is not None and config.name else site
    if config is None:
        profile = hospital(site_index(site))
        root = workspace / "phantoms"
        # A simulator with fewer threads than sites opens a site again for every task:
        # it is announced once.
        if not root.is_dir():
            say(
                f"NO DATA CONFIGURED: {site} invents SYNTHETIC patients ('{profile.name}'); no result is about real patients",
            )
        phantoms.write(root, profile, seed)
        record = root / RECORD if (root / RECORD).is_file() else None
        config, label = SiteConfig(data=root, record=record), profile.name
    # A site may lower the limit for public data; its log must say so.
    if config.fewest_patients < LEAST_PATIENTS:
        say(
            f"{site} tells scores over {config.fewest_patients} patients or more: only for data that everybody may see",
        )
    cache = config.cache or workspace / "wardround_cache"
    cohort = sampling.cohort(config, cache, say)
    # A configured folder may hold phantoms too; reports must say so whoever wrote them.
    synthetic = are_phantoms(config.data, cohort.cases)
    if synthetic and config.data != workspace / "phantoms":
        say(
            f"SYNTHETIC PATIENTS: the folder of {site} says that a program generated them; no result is about real patients",
        )
    return Opened(cohort, synthetic, label, pick_device(config.device), config.fewest_patients)


def pick_device(wish: str, fix: str = IN_FILE) -> str:
    """Return the torch device for `auto`, `cpu` or `cuda[:N]`.

    fix: what to do where the wish cannot be met, at the place where it was typed.

    ConfigRefused is raised for another word, and for a GPU that is not there.
    """
    import torch

    if not DEVICE.fullmatch(wish):
        raise ConfigRefused(
            f"device {wish!r}",
            found="no device of that name",
            expected="auto, cpu, cuda or cuda:N",
            fix=fix,
        )
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wish.startswith("cuda"):
        number = int(wish.partition(":")[2] or 0)
        if not torch.cuda.is_available() or number >= torch.cuda.device_count():
            raise ConfigRefused(
                f"device {wish!r}",
                found=f"{torch.cuda.device_count() if torch.cuda.is_available() else 0} usable GPUs",
                expected="a GPU of that number",
                fix=f"{fix}, or mend the driver",
            )
    return wish


def site_index(site: str) -> int:
    """Return the profile number of a site's name: `site-3` gives 2.

    A name without a number gets one from its letters.
    """
    digits = "".join(ch for ch in site if ch.isdigit())
    return int(digits) - 1 if digits and int(digits) > 0 else sum(site.encode()) % 4
