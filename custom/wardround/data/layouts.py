"""Floor 2: which folders and file names are cases, and what they hold.

    BraTS          <case>/<case>_t1.nii.gz, also _t1ce _t2 _flair _seg
    BraTS 2023     <case>/<case>-t1n.nii.gz, also -t1c -t2w -t2f -seg
    Decathlon      imagesTr/<case>.nii.gz, 4-D, with labelsTr/<case>.nii.gz; channels FLAIR, T1w, t1gd, T2w, or as the
                   "modality" map of dataset.json beside them says

.nii is as good as .nii.gz; the case of the letters in a suffix does not matter; names that begin with a dot are
ignored, and so is a NIfTI file with another suffix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.bounded import read_json
from wardround.errors import DataRefused

MODALITIES = ("t1", "t1ce", "t2", "flair")
UNDERSTOOD = (
    "<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz, <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz, "
    "or imagesTr/<case>.nii.gz with labelsTr/<case>.nii.gz"
)
DEPTH = 3
_NAME = re.compile(r"(?P<case>.+)(?:_(t1|t1ce|t2|flair|seg)|-(t1n|t1c|t2w|t2f|seg))", re.IGNORECASE)
_ROLE = {name: name for name in (*MODALITIES, "seg")} | {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_DECATHLON_ROLE = _ROLE | {"t1w": "t1", "t1gd": "t1ce"}
_DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: `images` by modality, `channel` the index in a 4-D file or None for a 3-D file."""

    case: str
    patient: str
    images: Mapping[str, Path]
    channel: Mapping[str, int | None]
    seg: Path | None

    @property
    def decathlon(self) -> bool:
        """Whether the images are channels of one 4-D file, whose mask then has the label values of the Decathlon."""
        return any(index is not None for index in self.channel.values())


def case_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (folder, layout) below root, which may itself be a case: layout is patient, decathlon or empty.

    A folder with neither cases nor files of cases is searched in turn, DEPTH deep (HGG/ and LGG/ of older BraTS years).
    """
    return _walk(root, DEPTH)


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    inside = _visible(folder)
    if any(path.name == "imagesTr" for path in inside):
        yield folder, "decathlon"
        return
    scans = [path for path in inside if _stem(path) is not None]
    inner = [path for path in inside if _stem(path) is None and path.is_dir()]
    if any(_NAME.fullmatch(_stem(path) or "") for path in scans) or (scans and not inner):
        yield folder, "patient"
    elif not inner or depth == 0:
        yield folder, "empty"
    else:
        for path in inner:
            yield from _walk(path, depth - 1)


def patient_folder(folder: Path, require_seg: bool) -> CaseFiles:
    """Return the case in a folder of the first two layouts; `patient` is the case id still.

    a file of another case, two files for one modality, no modality, no seg although required: DataRefused
    """
    case = folder.name
    found: dict[str, Path] = {}
    for path in _visible(folder):
        match = _NAME.fullmatch(_stem(path) or "")
        if match is None:
            continue
        if match["case"] != case:
            raise DataRefused(
                f"case {case!r}, file {path.name}",
                found=f"a file of {match['case']!r} in the folder {folder}",
                expected=f"only files that begin with {case!r}",
                fix="move the file to the folder of its patient, or give folder and files the same name",
            )
        role = _ROLE[(match[2] or match[3]).lower()]
        if role in found:
            raise DataRefused(
                f"case {case!r}, file {path.name}",
                found=f"two files for {role}: {found[role].name} and {path.name}",
                expected=f"one file for {role}",
                fix=f"remove one of them from {folder}",
            )
        found[role] = path
    seg = found.pop("seg", None)
    if not found:
        held = ", ".join(path.name for path in _visible(folder)[:8])
        raise DataRefused(
            f"case {case!r}, folder {folder}",
            found=f"no modality; the folder holds {held}",
            expected=f"at least one of {', '.join(MODALITIES)}, named {UNDERSTOOD}",
            fix="name the files so",
        )
    if seg is None and require_seg:
        raise _no_seg(case, folder, f"no mask beside {', '.join(path.name for path in found.values())}")
    images = {modality: found[modality] for modality in MODALITIES if modality in found}
    return CaseFiles(case, case, images, dict.fromkeys(images), seg)


def decathlon_cases(folder: Path, only: frozenset[str] | None, require_seg: bool) -> Iterator[CaseFiles | DataRefused]:
    """Yield every case of imagesTr and labelsTr (that is in `only`), or why it is refused; `patient` is the case id
    still.

    twice the same case, an image without mask although required, a mask without image: a DataRefused is yielded
    unreadable dataset.json, unknown modality in it: DataRefused is raised
    """
    channel = _decathlon_channels(folder / "dataset.json")
    images, masks = _by_case(folder / "imagesTr"), _by_case(folder / "labelsTr")
    for case in sorted((images.keys() | masks.keys()) & (only if only is not None else images.keys() | masks.keys())):
        image, mask = images.get(case, []), masks.get(case, [])
        if len(image) > 1 or len(mask) > 1:
            yield DataRefused(
                f"case {case!r}, folder {folder}",
                found=f"two files: {', '.join(path.name for path in (image if len(image) > 1 else mask))}",
                expected="one file per case in imagesTr and in labelsTr",
                fix="remove one of them",
            )
        elif not image:
            yield DataRefused(
                f"case {case!r}, file {mask[0].name}",
                found=f"a mask in {folder / 'labelsTr'} without an image in imagesTr",
                expected="an image for every mask",
                fix="copy the image again, or remove the mask",
            )
        elif not mask and require_seg:
            yield _no_seg(case, folder, "an image in imagesTr without a mask in labelsTr")
        else:
            yield CaseFiles(case, case, dict.fromkeys(channel, image[0]), channel, mask[0] if mask else None)


def _no_seg(case: str, folder: Path, found: str) -> DataRefused:
    return DataRefused(
        f"case {case!r}, folder {folder}",
        found=f"{found}: seg is missing",
        expected=f"a mask, named {UNDERSTOOD}",
        fix="add the mask, or leave the case out of the data folder or of the site's list of cases",
    )


def _by_case(folder: Path) -> dict[str, list[Path]]:
    cases: dict[str, list[Path]] = {}
    for path in _visible(folder) if folder.is_dir() else ():
        stem = _stem(path)
        if stem is not None:
            cases.setdefault(stem, []).append(path)
    return cases


def _decathlon_channels(description: Path) -> dict[str, int | None]:
    if not description.exists():
        return {modality: _DECATHLON_ORDER.index(modality) for modality in MODALITIES}
    try:
        named = read_json(description)["modality"]
        order = {_DECATHLON_ROLE[name.lower()]: int(index) for index, name in named.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad_description(description, f'no readable "modality" map ({type(error).__name__})') from error
    if "seg" in order or sorted(order.values()) != list(range(len(named))):
        raise _bad_description(description, f"channels {', '.join(sorted(named))}, with gaps or repeated names")
    return {modality: order[modality] for modality in MODALITIES if modality in order}


def _bad_description(description: Path, found: str) -> DataRefused:
    return DataRefused(
        f"the data set's description {description}",
        found=found,
        expected='"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, or another order of these names',
        fix="correct the map, or remove dataset.json if the channels have this order",
    )


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))
    except OSError as error:
        raise DataRefused(
            f"the folder {folder}",
            found=error.strerror or type(error).__name__,
            expected="a folder that this process may list",
            fix="correct the path or its permissions",
        ) from error


def named(file: str) -> tuple[str, str] | None:
    """Return (case, sequence) that a file's name in one of the first two layouts says; case "" where it says `t1.nii`.

    a mask, a hidden file, any other name: None
    """
    stem = _stem(Path(file)) or ""
    match = _NAME.fullmatch(stem)
    case, role = (match["case"], _ROLE[(match[2] or match[3]).lower()]) if match else ("", _ROLE.get(stem.lower()))
    return None if file.startswith(".") or role not in MODALITIES else (case, str(role))


def _stem(path: Path) -> str | None:
    """Return the name without .nii or .nii.gz, None if it is not that of a NIfTI file."""
    match = re.fullmatch(r"(.+?)\.nii(\.gz)?", path.name, re.IGNORECASE)
    return match[1] if match else None
