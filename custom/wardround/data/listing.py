"""What lies in a folder of a data set: names that can be read, images, and what a
person needs to hear about them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from wardround.core.errors import DataRefused

# Left by operating systems, network storage and archives; never a patient's.
_JUNK = re.compile(
    r"[.~].*|__.*|[@#](ea|recycle|recently|tmp|snapshot|sharebin).*|\$recycle\.bin|system volume information|"
    r"lost\+found|thumbs\.db|desktop\.ini|icon\r?|.*@syno.*",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NIFTI = re.compile(r"(.+?)\.nii(\.gz)?", re.IGNORECASE)
# ending: what to do with an image that is no NIfTI file
_OTHER = {
    ".dcm": "DICOM: convert it to NIfTI, for example with dcm2niix",
    ".dicom": "DICOM: convert it to NIfTI, for example with dcm2niix",
    ".ima": "DICOM: convert it to NIfTI, for example with dcm2niix",
    **dict.fromkeys(
        (".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".hdr", ".img"),
        "convert it to NIfTI",
    ),
    ".nii.zip": "unpack it, and compress it as .nii.gz or not at all",
    ".nii.bz2": "unpack it, and compress it as .nii.gz or not at all",
    ".nii.xz": "unpack it, and compress it as .nii.gz or not at all",
    ".nii.zst": "unpack it, and compress it as .nii.gz or not at all",
}
_DICOM_AT = 128
_DICOM = b"DICM"


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted. Hidden names, and those that systems leave
    behind (@eaDir, __MACOSX), are left out.

    A folder that cannot be listed, and a name that is not UTF-8, are refused with
    DataRefused.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if not _JUNK.fullmatch(path.name))
    except OSError as error:
        raise DataRefused(
            f"the folder {shown(folder)}",
            found=error.strerror or type(error).__name__,
            expected="a folder that this process may list",
            fix="correct the path or its permissions",
        ) from error
    require_utf8(folder, names)
    return [folder / name for name in names]


def require_utf8(folder: Path, names: Iterable[str]) -> None:
    """Raise DataRefused if a name, or the folder's path, cannot be written to any
    result: it is not UTF-8, or has control characters (an end of line, an escape
    sequence).
    """
    every = (str(folder), *names)
    wrong = [name for name in every if not _is_utf8(name)]
    controlled = [name for name in every if _CONTROL.search(name)]
    if controlled and not wrong:
        raise DataRefused(
            f"the folder {shown(folder)}",
            found=f"the name {shown(controlled[0])} with control characters, as \\x..",
            expected="names of letters, digits and plain signs",
            fix="rename it",
        )
    if wrong:
        first = "the folder" if wrong[0] == str(folder) else f"{len(wrong)} names, first"
        raise DataRefused(
            f"the folder {shown(folder)}",
            found=f"{first} {shown(wrong[0])}: not UTF-8, bytes of an older encoding as \\x..",
            expected="names in UTF-8 (plain letters and digits are safest)",
            fix="rename it, or convert all names at once with convmv, for example: convmv -f latin1 -t utf8 -r --notest FOLDER",
        )


def shown(path: Path | str) -> str:
    r"""Return a path that can be printed: bytes that are not UTF-8, and control
    characters, as \x.. escapes.
    """
    text = os.fsencode(str(path)).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def nifti_stem(path: Path) -> str | None:
    """Return the name without .nii or .nii.gz, or None if it is not that of a NIfTI
    file.
    """
    match = _NIFTI.fullmatch(path.name)
    return match[1] if match else None


def other_image(path: Path) -> str | None:
    """Return what to do with a medical image that is not NIfTI (by its ending, or the
    mark of DICOM), or None for other files.
    """
    name = path.name.lower()
    advice = next(
        (advice for ending, advice in _OTHER.items() if name.endswith(ending)),
        None,
    )
    if advice is None and not path.suffix.isalpha() and path.is_file():
        return _OTHER[".dcm"] if _has_dicom_mark(path) else None
    return advice


def is_image(path: Path) -> bool:
    """Return whether a file is a medical image: NIfTI, or one that would have to be
    converted.
    """
    return nifti_stem(path) is not None or other_image(path) is not None


def held(paths: Sequence[Path]) -> str:
    """Return in words what lies in a folder, such as `2 .mha, 1 .txt, 3 folders`, or
    `nothing`.
    """
    folders = sum(path.is_dir() for path in paths)
    endings = Counter(path.suffix.lower() or "files without an ending" for path in paths if not path.is_dir())
    words = [f"{count} {ending}" for ending, count in sorted(endings.items())]
    words += [f"{folders} folder{'s' if folders > 1 else ''}"] if folders else []
    return ", ".join(words) or "nothing"


def _has_dicom_mark(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            stream.seek(_DICOM_AT)
            return stream.read(len(_DICOM)) == _DICOM
    except OSError:
        return False


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
