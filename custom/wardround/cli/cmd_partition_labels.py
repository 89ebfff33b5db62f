"""`wardround partition labels` splits a labelled data set into sites that differ in
their classes, modalities or scanners.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.terminal import DONE, command, existing, folder, positive, say

if TYPE_CHECKING:
    from wardround.data.description import Description
    from wardround.research.presets import Preset
    from wardround.research.skew import LabelledSet, Skew

PRESETS = ("cheng", "lgg", "mhh")
TEXT = """
Split a labelled data set into sites, by patient. The patients of each class are distributed by Dirichlet(alpha): alpha inf is
even, and 0.05 leaves most classes at one or two sites. The command prints the patients of every class at every site, how many
patients were moved so that each site has --min-patients, and how many cases were lost.

  wardround partition labels cheng /data/cheng OUT --sites 4 --alpha 0.5      three tumour types
  wardround partition labels lgg /data/lgg OUT                                its own hospitals: DU, FG, HT
  wardround partition labels /data/ours OUT --drop site-2:t1ce --scanner      a folder with dataset.json (docs/data.md)

OUT then holds sites.json, <site>/wardround.json, <site>/data (dataset.json and cases.csv) and partition.csv. The images stay
where they are, except with --scanner: it writes altered COPIES to <site>/scanned, which are patient images like the originals.

To use it: wardround jobs run tumour_type_fedavg --sites-file OUT/sites.json --like OUT/site-1/data (with a record:
ehr_fusion_fedavg). The job's `sampling` and `model` must have the classes, modalities, columns and size of the set. --like
takes them from the folder, and the command also prints them as --set options.
"""


def add(methods: Any) -> None:
    """Declare the command beside the other methods of `wardround partition`."""
    parser = command(methods, "labels", "deal a labelled data set, by class", TEXT, run)
    parser.add_argument("data", metavar="PRESET|FOLDER", help=f"{', '.join(PRESETS)}; or a folder with dataset.json")
    parser.add_argument("folder", nargs="?", type=existing, metavar="FOLDER", help="the preset's folder, as published")
    parser.add_argument("out", type=folder, metavar="OUT", help="folder for the partition, outside the data")
    parser.add_argument("--sites", type=positive, metavar="N", help="number of sites; default 4")
    parser.add_argument(
        "--alpha",
        type=float,
        metavar="A",
        help="0.1 very uneven, inf even; default: the preset's own hospitals, if it has any, else 0.5",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same sites; default 0")
    parser.add_argument(
        "--min-patients",
        type=positive,
        default=3,
        metavar="M",
        help="a site with fewer gets patients of the largest site's most frequent class; default 3",
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="SITE:MODALITY[,MODALITY]",
        help="this site never acquired these; cases without another are lost; may be repeated",
    )
    parser.add_argument(
        "--scanner", action="store_true", help="every site's images as another scanner shows them: COPIES"
    )
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="side of the images; default: what the set says"
    )


def run(args: argparse.Namespace) -> int:
    """Distribute the patients, change the sites as asked, write them, and print what
    every site has.
    """
    from wardround.data.splits import PARTS
    from wardround.research.partition_files import require_new
    from wardround.research.skew import Skew, class_table, deal, rescan, write_labelled_sites
    from wardround.synthetic.scanner import scanner

    preset = opened(args.data, args.folder, args.size)
    require_outside(args.out, preset.data)
    skew = _dealt(args, preset)
    sites, lost = _dropped(deal(preset.data, skew.sites), args.drop)
    kept = {name: tuple(sorted({row.patient for row in site.rows})) for name, site in sites.items()}
    _require_patients(kept, args.min_patients)
    keys = require_new(args.out, {name: [row.case for row in site.rows] for name, site in sites.items()})
    if args.scanner:
        for name, site in sites.items():
            say(f"{name}: copies of its images as another scanner shows them")
            sites[name] = rescan(site, args.out / keys[name] / "scanned", scanner(name, args.seed), args.seed)
    file = write_labelled_sites(args.out, sites)
    print(f"patients by class:\n{Skew(skew.sites, class_table(preset.data.labels(), kept), skew.moved)}")
    for name, site in sites.items():
        label = name if keys[name] == name else f"{keys[name]} ({name})"
        gone = f"; lost: {lost[name]} cases without another modality" if name in lost else ""
        print(f"{label}: {len(site.rows)} cases, {len(kept[name])} patients{gone}")
    for reason, count in preset.left_out.items():
        print(f"left out: {count} {reason}")
    print(f"written: {file}")
    words = ["--sites-file", quote(str(file)), *(f"--set {quote(one)}" for one in settings_for(preset.data))]
    few = [keys[name] for name in sites if len(kept[name]) < len(PARTS)]
    if few:
        print(
            f"{', '.join(few)}: fewer than {len(PARTS)} patients, every job refuses such a site; write it again with fewer sites"
        )
        return DONE
    job = "ehr_fusion_fedavg" if preset.data.description.spec.table.columns else "tumour_type_fedavg"
    print(f"use it: wardround jobs run {job} {' '.join(words)}")
    first = file.parent / keys[next(iter(sites))] / "data"
    print(f"shorter: wardround jobs run {job} --sites-file {quote(str(file))} --like {quote(str(first))}")
    return DONE


def settings_for(whole: LabelledSet) -> list[str]:
    """Return the settings that give a job the classes, modalities, columns and image
    size of this set.
    """
    spec = whole.description.spec
    values = {
        "sampling.classes": spec.classes,
        "sampling.modalities": spec.modalities,
        "sampling.columns": [column.as_json() for column in spec.table.columns],
        "sampling.size": spec.grid.size,
        "sampling.depth": spec.grid.depth,
        "sampling.span": spec.grid.span,
        "model.classes": len(spec.classes),
        "model.modalities": len(spec.modalities),
        "model.size": spec.grid.shape,
    }
    return [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in values.items()]


def opened(data: str, where: Path | None, size: int | None) -> Preset:
    """Return the set that `--data` names: a preset in its folder, or what a folder with
    dataset.json describes.

    size: the side of its images in pixels; None keeps the set's own.
    """
    from wardround.research import presets

    made: Mapping[str, Any] = presets.PRESETS
    found: Preset
    if where is None and data not in made:
        found = _described(Path(data).expanduser())
    elif where is not None and data in made:
        found = made[data](where)
    else:
        raise ConfigRefused(
            "the data set",
            found=f"the preset {data!r} without a folder" if where is None else f"{data!r}",
            expected=f"a preset ({', '.join(PRESETS)}) and its folder, or one folder with dataset.json",
            fix="for example: wardround partition labels cheng /data/cheng OUT",
        )
    spec = found.data.description.spec
    grid = spec.grid if size is None else replace(spec.grid, size=size)
    description = replace(found.data.description, spec=replace(spec, grid=grid))
    return replace(found, data=replace(found.data, description=description))


def _described(where: Path) -> Preset:
    """Return the rows of a folder with dataset.json. Numbers in another unit are
    converted to the column's unit.
    """
    from wardround.data.description import FIXED, Row, read_description, read_rows
    from wardround.research.presets import Preset
    from wardround.research.skew import LabelledSet

    description = read_description(where)
    spec, (header, lines) = description.spec, read_rows(description.table, description.spec.modalities)
    absent = [name for name in (*FIXED, *spec.modalities) if name not in header]
    pairs = set() if absent else {(line["patient"], line["label"]) for line in lines if line["label"]}
    two = len(pairs) - len({patient for patient, _ in pairs})
    strange = sorted({label for _, label in pairs} - set(spec.classes))
    if absent or two or strange:
        raise DataRefused(
            f"the table {description.table}",
            found=f"no column {absent[0]!r}"
            if absent
            else f"{two} patients with two labels, {len(strange)} unknown labels",
            expected=f"the columns {', '.join((*FIXED, *spec.modalities))}, and one class for each patient",
            fix="`wardround data check` says more",
        )
    spec.table.read(lines, header, description.units, str(description.table))
    places = _places(description, header)
    rows = tuple(
        Row(
            line["case"],
            line["patient"],
            line["label"],
            {modality: line[modality] for modality in spec.modalities},
            {name: _converted(line[title], factor) for name, (title, factor) in places.items()},
        )
        for line in lines
    )
    nobody = len({line["patient"] for line in lines}) - len({patient for patient, _ in pairs})
    return Preset(LabelledSet(description, rows), {}, {"patients without a label": nobody} if nobody else {})


def _places(description: Description, header: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Return, for each column, its title in the table and the factor to the column's
    unit. The table was read without a refusal before.
    """
    from wardround.data.ehr_columns import conversion

    found = {}
    for column in description.spec.table.columns:
        wanted = {name.casefold() for name in (column.name, *column.aliases)}
        title = next(title for title in header if title.partition("[")[0].strip().casefold() in wanted)
        stated = title.partition("[")[2].rstrip("] ").strip() or description.units.get(column.name, column.unit)
        factor = 1.0 if column.kind == "categorical" else conversion(stated, column.unit)
        found[column.name] = (title, 1.0 if factor is None else factor)
    return found


def _converted(cell: str, factor: float) -> str:
    try:
        return cell if factor == 1 else repr(float(cell) * factor)
    except ValueError:
        return cell


def _dealt(args: argparse.Namespace, preset: Preset) -> Skew:
    from wardround.research.skew import Skew, class_table, label_skew

    labels = preset.data.labels()
    if args.alpha is None and preset.hospitals:
        if args.sites is not None:
            raise ConfigRefused(
                "the sites",
                found=f"--sites {args.sites} for a set with its own hospitals ({', '.join(preset.hospitals)})",
                expected="no --sites, or --alpha with it",
                fix="give --alpha to distribute the patients of all hospitals again",
            )
        return Skew(preset.hospitals, class_table(labels, preset.hospitals), 0)
    alpha = 0.5 if args.alpha is None else args.alpha
    say(f"alpha {alpha:g}, seed {args.seed}: {len(labels)} patients with a label")
    return label_skew(labels, 4 if args.sites is None else args.sites, alpha, args.seed, args.min_patients)


def _dropped(sites: Mapping[str, LabelledSet], drop: Sequence[str]) -> tuple[dict[str, LabelledSet], dict[str, int]]:
    """Return the sites without the modalities that --drop names, and how many cases
    each of those sites lost.
    """
    from wardround.research.skew import without_modalities

    missing: dict[str, list[str]] = {}
    places = {f"site-{k + 1}": name for k, name in enumerate(sites)}
    for text in drop:
        place, _, names = text.partition(":")
        site = place if place in sites else places.get(place)
        if site is None or not names:
            raise ConfigRefused(
                "--drop",
                found=repr(text),
                expected=f"SITE:MODALITY[,MODALITY], a site of {', '.join(sites)}",
                fix="for example --drop site-2:t1ce",
            )
        missing.setdefault(site, []).extend(name.strip() for name in names.split(","))
    found, lost = dict(sites), {}
    for site, gone in missing.items():
        found[site], lost[site] = without_modalities(sites[site], gone)
    return found, lost


def _require_patients(kept: Mapping[str, Sequence[str]], least: int) -> None:
    for site, patients in kept.items():
        if len(patients) < least:
            raise DataRefused(
                f"the site {site!r}",
                found=f"{len(patients)} patients",
                expected=f"at least {least}, for training, validation and test",
                fix="use fewer sites, drop less, or lower --min-patients, if you know why",
            )


def require_outside(out: Path, whole: LabelledSet) -> None:
    """Raise ConfigRefused if `out` lies inside the folder of the set: written copies
    would become part of it.
    """
    for data in (whole.description.images, whole.description.table.parent):
        if out.resolve().is_relative_to(data.resolve()):
            raise ConfigRefused(
                f"the folder {out}",
                found="inside the data folder",
                expected="a folder elsewhere",
                fix="name another folder",
            )
