"""What do the names of files in one case's folder say? Whose they are, which sequence,
and which of them are not used.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from wardround.data.listing import is_image, nifti_stem, visible
from wardround.data.sequences import split_name
from wardround.data.source import BRAIN_MRI, Channels

TASK = "imagesTr"
# Levels of folders that are searched, below a data folder and within a case's folder.
DEPTH = 3


def role_in(
    case: str,
    stem: str,
    channels: Channels = BRAIN_MRI.channels,
) -> tuple[str, str] | None:
    """Return the (case, role) that a file's name says in the folder `case`, or None.
    The case is "" where the name says the role alone.

    A file of this case with another word says nothing: `P_brain_segmentation` in P is
    no mask of a case P_brain. Names are compared in one spelling of their accents,
    because file systems differ in it.
    """
    own, name = (unicodedata.normalize("NFC", text) for text in (case, stem))
    if name.startswith(own) and re.match(r"[-_. ]", name[len(own) :]):
        role = channels.role_of(name[len(own) :])
        return (case, role) if role else None
    return split_name(stem, channels.role_of)


def said_in(
    folder: Path,
    case: str,
    channels: Channels = BRAIN_MRI.channels,
) -> dict[Path, tuple[str, str]]:
    """Return (case, role), as `role_in` gives it, for each NIfTI file of a folder whose
    name says a role.
    """
    roles = {path: role_in(case, nifti_stem(path) or "", channels) for path in visible(folder)}
    return {path: role for path, role in roles.items() if role is not None}


def case_of(folder: Path, channels: Channels = BRAIN_MRI.channels) -> str:
    """Return the case in a folder, which usually is the folder's name.

    It is what the files agree on where the folder's name only adds a word behind it
    (UCSF-PDGM-0004_nifti), or where the folder is the `anat` of BIDS.
    """
    cases = sorted(
        {case for case, _ in said_in(folder, folder.name, channels).values()},
        key=len,
    )
    if not cases or not cases[0] or not all(re.match(rf"{re.escape(cases[0])}[-_. ]", case) for case in cases[1:]):
        return folder.name
    only = cases[0]
    return only if folder.name == "anat" or re.match(rf"{re.escape(only)}[-_. ]", folder.name) else folder.name


def unused_files(
    folder: Path,
    channels: Channels = BRAIN_MRI.channels,
) -> tuple[str, ...]:
    """Return the sorted names, relative to the folder, of the images in a case's folder
    that wardround does not use.

    A file is used when its name says a sequence or a mask, whether or not the caller
    needs masks. Images are NIfTI files, and files that would have to be converted
    (DICOM, .mha, .nrrd, ...). Folders within are looked into. In imagesTr only what is
    no NIfTI file counts as unused. A folder that cannot be listed is refused with
    DataRefused.
    """
    unused: list[str] = []
    case = case_of(folder, channels)
    for path in visible(folder):
        if path.is_dir() and nifti_stem(path) is None:
            unused += [f"{path.name}/{name}" for name in images_below(path, DEPTH)]
        elif is_image(path):
            stem = nifti_stem(path)
            used = stem is not None and (folder.name == TASK or role_in(case, stem, channels) is not None)
            unused += [] if used else [path.name]
    return tuple(unused)


def images_below(folder: Path, depth: int) -> list[str]:
    """Return the images in a folder and in its folders, `depth` deep, relative to it."""
    names: list[str] = []
    for path in visible(folder) if depth else ():
        if path.is_dir():
            names += [f"{path.name}/{name}" for name in images_below(path, depth - 1)]
        elif is_image(path):
            names.append(path.name)
    return names
