"""The layouts with imagesTr and labelsTr.

    Decathlon   imagesTr/<case>.nii.gz, 4-D; channels FLAIR, T1w, t1gd, T2w, or as
    "modality" says
    nnU-Net     imagesTr/<case>_0000.nii.gz, _0001, ...: one 3-D file per channel

For nnU-Net "channel_names" or "modality" in dataset.json says which channel is which.
labelsTr/<case>.nii.gz is the mask; "labels" of dataset.json says what its values mean
(conventions.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wardround.core.bounded import read_json
from wardround.core.errors import DataRefused
from wardround.data.case_names import TASK
from wardround.data.layouts import CaseFiles
from wardround.data.listing import held, nifti_stem, other_image, visible
from wardround.data.sequences import SEG
from wardround.data.source import BRAIN_MRI, Source

DESCRIPTION = "dataset.json"
_DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def task_cases(
    folder: Path,
    only: frozenset[str] | None,
    require_seg: bool,
    source: Source = BRAIN_MRI,
) -> Iterator[CaseFiles | DataRefused]:
    """Yield every case of imagesTr and labelsTr (that is in `only`), or why it is
    refused. Its `patient` is still the case id.

    A repeated case, an image without a mask that is required, a mask without an image,
    and a channel that dataset.json does not have are yielded as DataRefused. An
    unreadable dataset.json, an unknown sequence in it, and nnU-Net without it raise
    DataRefused.
    """
    file = folder / DESCRIPTION
    described = _read(file)
    files, masks = _by_stem(folder / TASK), _by_stem(folder / "labelsTr")
    if others := [] if files else [path for path in visible(folder / TASK) if other_image(path)]:
        raise DataRefused(
            f"the folder {folder / TASK}",
            found=f"no NIfTI file; it holds {held(visible(folder / TASK))}",
            expected="images as .nii or .nii.gz",
            fix=f"{others[0].name}: {other_image(others[0])}",
        )
    _require_numbered(folder / TASK, files, masks)
    nnunet = _is_nnunet(files, masks, described)
    order = _order(file, described, nnunet, source)
    images = (
        _by_case(files) if nnunet else {stem: dict.fromkeys(order.values(), paths) for stem, paths in files.items()}
    )
    labels = None if described is None else described.get("labels")
    for case in sorted(case for case in images.keys() | masks.keys() if only is None or case in only):
        try:
            found = _case(
                folder,
                case,
                images.get(case, {}),
                masks.get(case, []),
                order,
                require_seg,
            )
        except DataRefused as problem:
            yield problem
            continue
        paths, mask = found
        # The only image of a task is a 3-D file; several are channels of one 4-D file,
        # or files of their own (nnU-Net).
        apart = nnunet or len(source.names) == 1
        channel = {role: None if apart else index for role, index in order.items() if role in paths}
        yield CaseFiles(case, case, paths, channel, mask, labels, file, source=source)


def with_labels(files: CaseFiles, folder: Path, root: Path) -> CaseFiles:
    """Return a case of another layout with the "labels" of the nearest dataset.json, in
    its folder or above it up to root.

    Without such a file, or without "labels" in it, the case stays as it is. An
    unreadable dataset.json is refused with DataRefused.
    """
    for place in (folder, *folder.parents):
        described = _read(place / DESCRIPTION) if place.is_relative_to(root) else None
        if described is not None and "labels" in described:
            return replace(
                files,
                labels=described["labels"],
                described=place / DESCRIPTION,
            )
    return files


def _case(
    folder: Path,
    case: str,
    parts: Mapping[int, list[Path]],
    mask: list[Path],
    order: Mapping[str, int],
    require_seg: bool,
) -> tuple[dict[str, Path], Path | None]:
    twice = next((paths for paths in (*parts.values(), mask) if len(paths) > 1), None)
    if twice is not None:
        raise DataRefused(
            f"case {case!r}, folder {folder}",
            found=f"two files: {', '.join(path.name for path in twice)}",
            expected="one file per case in imagesTr and in labelsTr",
            fix="move the one that is not meant to a folder outside the data",
        )
    if not parts:
        raise DataRefused(
            f"case {case!r}, file {mask[0].name}",
            found=f"a mask in {folder / 'labelsTr'} without an image in imagesTr",
            expected="an image for every mask",
            fix='add the image, or list only the other cases under "cases" in the site\'s file',
        )
    strange = sorted(set(parts) - set(order.values()))
    if strange:
        raise DataRefused(
            f"case {case!r}, folder {folder / TASK}",
            found=f"channel {strange[0]:04d}",
            expected=f"the channels that {DESCRIPTION} names: {', '.join(f'{n:04d}' for n in sorted(order.values()))}",
            fix=f"name the channel in {DESCRIPTION}, or correct the file's name",
        )
    if not mask and require_seg:
        raise DataRefused(
            f"case {case!r}, folder {folder / TASK}",
            found="an image in imagesTr without a mask in labelsTr: seg is missing",
            expected="a mask for every image",
            fix=f'add labelsTr/{case}.nii.gz; or list only cases with a mask under "cases" in the site\'s file',
        )
    paths = {role: parts[order[role]][0] for role in order if order[role] in parts}
    return paths, mask[0] if mask else None


def _require_numbered(
    folder: Path,
    files: Mapping[str, list[Path]],
    masks: Mapping[str, Any],
) -> None:
    """Raise DataRefused for a file without a channel in a set with one file per
    channel: nobody could say what it is.
    """
    cases = {match["case"] for stem in files if (match := _CHANNEL.fullmatch(stem))}
    strays = [stem for stem in files if not _CHANNEL.fullmatch(stem) and stem not in masks]
    if strays and cases & masks.keys() and not files.keys() & masks.keys():
        raise DataRefused(
            f"the folder {folder}",
            found=f"{files[strays[0]][0].name} beside files of one channel each (nnU-Net)",
            expected="names that end with the channel, as CASE_0000.nii.gz",
            fix="name the file so, or move it out of the data folder",
        )


def _is_nnunet(
    files: Mapping[str, Any],
    masks: Mapping[str, Any],
    described: Mapping[str, Any] | None,
) -> bool:
    """Return whether imagesTr holds one file per channel: then no mask has the name of
    an image with its channel.
    """
    if not files or any(stem in masks for stem in files) or not all(_CHANNEL.fullmatch(stem) for stem in files):
        return False
    cases = {match["case"] for stem in files if (match := _CHANNEL.fullmatch(stem))}
    return (
        bool(cases & masks.keys())
        or any(stem.endswith("_0000") for stem in files)
        or "channel_names" in (described or {})
    )


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = {}
    for path in visible(folder) if folder.is_dir() else ():
        stem = nifti_stem(path)
        if stem is not None:
            stems.setdefault(stem, []).append(path)
    return stems


def _by_case(files: Mapping[str, list[Path]]) -> dict[str, dict[int, list[Path]]]:
    cases: dict[str, dict[int, list[Path]]] = {}
    for stem, paths in files.items():
        match = _CHANNEL.fullmatch(stem)
        if match:
            cases.setdefault(match["case"], {})[int(match["channel"])] = paths
    return cases


def _order(
    file: Path,
    described: Mapping[str, Any] | None,
    nnunet: bool,
    source: Source,
) -> dict[str, int]:
    """Return the channel of each sequence, in the order of the source."""
    role_of = source.channels.role_of
    if described is None:
        if nnunet:
            raise _bad(
                file,
                "one file per channel (nnU-Net) and no dataset.json",
                "channel_names",
            )
        usual = _DECATHLON_ORDER if source == BRAIN_MRI else source.names
        return {name: usual.index(name) for name in source.names}
    key = "channel_names" if "channel_names" in described else "modality"
    named = described.get(key)
    if (
        key == "channel_names"
        and "modality" in described
        and _words(described["modality"], source) != _words(named, source)
    ):
        raise _bad(file, '"modality" and "channel_names" that do not say the same', key)
    if not isinstance(named, Mapping) or not named or not all(isinstance(word, str) for word in named.values()):
        raise _bad(file, f'no readable "{key}" map', key)
    unknown = [word for word in named.values() if role_of(word) in (None, SEG)]
    if unknown:
        raise _bad(file, f"unknown sequence {', '.join(map(repr, unknown))}", key)
    channels = [int(index) for index in named if str(index).isdecimal()]
    order = {str(role_of(word)): int(index) for index, word in named.items() if str(index).isdecimal()}
    if len(order) < len(named) or sorted(channels) != list(range(len(named))):
        raise _bad(
            file,
            f"channels {', '.join(sorted(map(str, named)))}, with gaps or repeated sequences",
            key,
        )
    return {name: order[name] for name in source.names if name in order}


def _words(named: object, source: Source) -> object:
    role_of = source.channels.role_of
    return {str(index): role_of(str(word)) for index, word in named.items()} if isinstance(named, Mapping) else named


def _read(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        content = read_json(file)
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(
            file,
            f"not readable ({type(error).__name__})",
            "modality",
        ) from error
    if not isinstance(content, dict):
        raise _bad(file, f"a JSON {type(content).__name__}", "modality")
    return content


def _bad(file: Path, found: str, key: str) -> DataRefused:
    return DataRefused(
        f"the data set's description {file}",
        found=found,
        expected=f'"{key}": {{"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}, or another order of these',
        fix="name every channel by its sequence: T1, T1ce (T1c, T1Gd), T2 or FLAIR",
    )
