"""Which folders and file names are cases, and what do they hold?

    BraTS          <case>/<case>_t1.nii.gz, also _t1ce _t2 _flair _seg, and the other
    words of sequences.py
    BraTS 2023     <case>/<case>-t1n.nii.gz, also -t1c -t2w -t2f -seg
    imagesTr       the Decathlon and nnU-Net: task_folder.py

.nii is as good as .nii.gz. Names that begin with a dot, and what systems leave behind,
are ignored. An image whose name says no sequence is passed over; `unused_files` and
`passed_over` name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.core.errors import DataRefused
from wardround.data.case_names import (
    DEPTH,
    TASK,
    case_of,
    images_below,
    role_in,
    said_in,
    unused_files,
)
from wardround.data.conventions import Convention
from wardround.data.listing import held, is_image, nifti_stem, other_image, shown, visible
from wardround.data.sequences import MODALITIES, SEG
from wardround.data.source import BRAIN_MRI, Channels, Source

__all__ = [
    "MODALITIES",
    "UNDERSTOOD",
    "CaseFiles",
    "case_places",
    "passed_over",
    "patient_folder",
    "unused_files",
]

UNDERSTOOD = (
    "<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz, <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz, "
    "or imagesTr/<case>.nii.gz with labelsTr/<case>.nii.gz"
)
# Folders that people keep beside cases; without an image in them they are no case that
# got lost.
_NO_CASE = re.compile(r"(docs?|read_?me|code|scripts?|logs?|info|meta(data)?|tables?|lists?|splits?|results?|tmp|temp)")


def understood_of(source: Source) -> str:
    """Return in words how the files of a source must be called."""
    return UNDERSTOOD if source == BRAIN_MRI else source.understood


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    images: the file of each modality.
    channel: the index of each modality in a 4-D file, or None for a 3-D file.
    labels: the "labels" of dataset.json beside the case, or None.
    described: that file, or where it should be; None for a layout without one.
    convention: how the values of `seg` are read, once that is decided (conventions.py).
    source: which images a case may have, and how they are read.
    """

    case: str
    patient: str
    images: Mapping[str, Path]
    channel: Mapping[str, int | None]
    seg: Path | None
    labels: object = None
    described: Path | None = None
    convention: Convention | None = None
    source: Source = BRAIN_MRI

    @property
    def decathlon(self) -> bool:
        """Whether the images are channels of one 4-D file, as in the Decathlon."""
        return any(index is not None for index in self.channel.values())


@dataclass(frozen=True)
class Place:
    """A folder and what it is: `patient`, `task` (imagesTr), or `empty`, without a
    NIfTI file for the reason in `why`.
    """

    folder: Path
    layout: str
    why: str = ""


def case_places(root: Path, channels: Channels = BRAIN_MRI.channels) -> list[Place | DataRefused]:
    """Return the places below root, which may itself be a case, and what cannot be
    listed.

    A folder with neither cases nor files of cases is searched in turn, DEPTH deep (HGG/
    and LGG/ of older BraTS years). An empty folder stays in the list where it may be a
    lost case: nothing else is there, it holds images of another kind, or its name is
    like those of the cases. Others are passed over (see `passed_over`).
    """
    found = list(_walk(root, DEPTH, channels))
    cases = [one for one in found if isinstance(one, Place) and one.layout != "empty"]
    names = {_like(one.folder.name) for one in cases if one.layout == "patient"}
    return [one for one in found if not (isinstance(one, Place) and cases and _beside(one, names))]


def _walk(folder: Path, depth: int, channels: Channels) -> Iterator[Place | DataRefused]:
    try:
        inside = visible(folder)
    except DataRefused as problem:
        yield problem
        return
    if any(path.name == TASK for path in inside):
        yield Place(folder, "task")
        return
    scans = [path for path in inside if nifti_stem(path) is not None]
    lost = [path for path in inside if path.is_symlink() and not path.exists() and path not in scans]
    yield from (Place(path, "empty", "a link to nothing: is its disk mounted?") for path in lost)
    inner = [path for path in inside if nifti_stem(path) is None and path.is_dir()]
    roles = [role_in(folder.name, nifti_stem(path) or "", channels) for path in scans]
    if any(case for case, _ in filter(None, roles)) or (scans and not inner):
        yield Place(folder, "patient")
    elif not inner:
        yield Place(folder, "empty", _why_empty(inside))
    elif depth == 0:
        yield Place(folder, "empty", f"folders in folders, more than {DEPTH} deep")
    else:
        for path in inner:
            yield from _walk(path, depth - 1, channels)


def _why_empty(inside: list[Path]) -> str:
    others = [path for path in inside if other_image(path)]
    if not inside:
        return "an empty folder"
    advice = f". {others[0].name}: {other_image(others[0])}" if others else ""
    return f"no NIfTI file; it holds {held(inside)}{advice}"


def _beside(place: Place, names: set[str]) -> bool:
    """Return whether an empty folder is no case that was lost."""
    inside = visible(place.folder) if place.folder.exists() else []
    if place.layout != "empty" or any(other_image(path) for path in inside):
        return False
    return bool(_NO_CASE.fullmatch(place.folder.name.casefold())) or _like(place.folder.name) not in names


def _like(name: str) -> str:
    """Return the form of a name: P007 and P012 are alike, P007 and docs are not."""
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d+", "0", name))


def patient_folder(folder: Path, require_seg: bool, source: Source = BRAIN_MRI) -> CaseFiles:
    """Return the case in a folder of the first two layouts. Its `patient` is still the
    case id.

    A file of another case, two files for one modality, no modality, and a missing mask
    that is required are refused with DataRefused.
    """
    case = case_of(folder, source.channels)
    understood = understood_of(source)
    found: dict[str, Path] = {}
    others = sorted(
        {said[0] for said in said_in(folder, case, source.channels).values() if said[0] not in ("", case)},
    )
    _require_one_case(folder, case, others, source)
    if len(others) > 1:
        raise DataRefused(
            f"the folder {folder}",
            found=f"files of {len(others)} cases in one folder",
            expected=f"a folder for each case: {understood}",
            fix="make a folder of its name for each case, and put its files there",
        )
    for path, (other, role) in said_in(folder, case, source.channels).items():
        if other not in ("", case):
            raise DataRefused(
                f"case {case!r}, file {path.name}",
                found=f"a file of {other!r} in the folder {folder}",
                expected=f"only files that begin with {case!r}",
                fix="move the file to the folder of its patient, or give folder and files the same name",
            )
        if role in found:
            raise DataRefused(
                f"case {case!r}, file {path.name}",
                found=f"two files for {role}: {found[role].name} and {path.name}",
                expected=f"one file for {role}",
                fix=f"move the one that is not meant out of {folder}, to a folder outside the data",
            )
        found[role] = path
    seg = found.pop(SEG, None)
    if not found:
        names = ", ".join(path.name for path in visible(folder)[:8])
        raise DataRefused(
            f"case {case!r}, folder {folder}",
            found=f"no modality; the folder holds {names}",
            expected=f"at least one of {', '.join(source.names)}, named {understood}",
            fix=_how_to_name(case, folder, source.names[0], source),
        )
    if seg is None and require_seg:
        raise no_seg(
            case,
            folder,
            f"no mask beside {', '.join(path.name for path in found.values())}",
            source,
        )
    images = {name: found[name] for name in source.names if name in found}
    return CaseFiles(case, case, images, dict.fromkeys(images), seg, source=source)


def _require_one_case(folder: Path, case: str, others: Sequence[str], source: Source) -> None:
    """Raise DataRefused for what looks like a case and is another thing: stray files,
    masks alone, all images of a set.
    """
    said = said_in(folder, case, source.channels)
    inner = [path for path in visible(folder) if path.is_dir() and images_below(path, DEPTH)]
    stray = [path.name for path, (other, _) in said.items() if other in others]
    images = [path.name for path in visible(folder) if nifti_stem(path) is not None]
    found = None
    if others and inner:
        found = f"{stray[0]} beside the folders of cases ({inner[0].name}, ...)"
        fix = "move it into the folder of its case, or out of the data folder"
    elif len(others) > 1 and all(role == SEG for _, role in said.values()):
        found = f"masks of {len(others)} cases and no image"
        fix = "copy every mask into the folder with the images of its case"
    elif not said and len(images) > 1:
        found = f"{len(images)} NIfTI files whose names say no sequence, first {images[0]}"
        fix = "name the sequence of each; or, where each is a case of its own: put them into imagesTr and their masks into labelsTr"
    if found:
        raise DataRefused(
            f"the folder {folder}",
            found=found,
            expected=f"cases, named {understood_of(source)}",
            fix=fix,
        )


def no_seg(case: str, folder: Path, found: str, source: Source = BRAIN_MRI) -> DataRefused:
    """Return the refusal of a case without a mask. It names the images that are not
    used, because one may be the mask.
    """
    unused = unused_files(folder, source.channels)
    listed = f"; not used: {', '.join(unused[:8])}" if unused else ""
    return DataRefused(
        f"case {case!r}, folder {folder}",
        found=f"{found}: seg is missing{listed}",
        expected=f"a mask, named {understood_of(source)}",
        fix=f'{_how_to_name(case, folder, SEG, source)}; or list only cases with a mask under "cases" in the site\'s file',
    )


def _how_to_name(case: str, folder: Path, role: str, source: Source) -> str:
    others = [path for path in visible(folder) if other_image(path)]
    if others:
        return f"{others[0].name}: {other_image(others[0])}"
    unused = unused_files(folder, source.channels)
    what = "mask" if role == SEG else "image"
    named_so = f"{case}_{role}.nii.gz"
    return f"if {unused[0]} is the {what}, name it {named_so}" if unused else f"add the {what} as {named_so}"


def passed_over(root: Path, channels: Channels = BRAIN_MRI.channels) -> tuple[str, ...]:
    """Return the images, and the folders without any, that `case_places` and the cases
    below root do not use; relative to root.
    """
    root = root.resolve()
    kept = {one.folder for one in case_places(root, channels) if isinstance(one, Place)}
    left: list[str] = []
    above: set[Path] = set()
    for place in (one for one in _walk(root, DEPTH, channels) if isinstance(one, Place)):
        where = place.folder.relative_to(root)
        if place.layout == "empty" and place.folder not in kept:
            left.append(f"{shown(where)}/ ({place.why})")
        elif place.layout != "empty":
            inside = place.folder / TASK if place.layout == "task" else place.folder
            left += [str(inside.relative_to(root) / name) for name in unused_files(inside, channels)]
            left += _beside_task(place.folder, where) if place.layout == "task" else []
        above |= (
            {folder for folder in place.folder.parents if folder.is_relative_to(root)}
            if place.folder != root
            else set()
        )
    for folder in sorted(above):
        left += [shown(path.relative_to(root)) for path in visible(folder) if is_image(path) and not path.is_dir()]
    return tuple(dict.fromkeys(left))


def _beside_task(folder: Path, where: Path) -> list[str]:
    """Return the folders with images beside imagesTr and labelsTr (imagesTs, ...), with
    the number of images.
    """
    others = [path for path in visible(folder) if path.is_dir() and path.name not in (TASK, "labelsTr")]
    counts = {path.name: len(images_below(path, DEPTH)) for path in others}
    return [f"{where / name}/ ({count} images)" for name, count in counts.items() if count]
