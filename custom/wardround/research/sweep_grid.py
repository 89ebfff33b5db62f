"""Which settings do the options of `wardround sweep` name?

The options are --alpha, --missing, --scanner, --sites, --over and --seeds.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from wardround.core.errors import ConfigRefused

if TYPE_CHECKING:
    from wardround.jobs.recipes import Job
    from wardround.research.sweep_sites import Cell

ALPHAS, QUICK_ALPHAS = (0.05, 0.1, 0.5, math.inf), (0.1, math.inf)


def _over(options: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Return every combination of the values that --over names.

    Without --over there is one setting, unchanged.
    """
    axes = []
    for option in options:
        key, equals, text = option.partition("=")
        values = re.findall(r"\[[^\]]*\]|[^,\[\]]+", text)
        if not key or not equals or ",".join(values) != text or len(set(values)) < max(1, len(values)):
            raise refused(
                "--over",
                repr(option),
                "SETTING=VALUE,VALUE, each value once: --over lr=.01,.05",
            )
        axes.append([(key, value) for value in values])
    if len({axis[0][0] for axis in axes}) < len(axes):
        raise refused(
            "--over",
            "the same setting twice",
            "each setting once, with all of its values",
        )
    return list(product(*axes))


def grid(args: argparse.Namespace, job: Job) -> list[Cell]:
    """Return every combination of the axes, label skew innermost."""
    from wardround.research.sweep_sites import Cell

    sampling = job.task["sampling"]["args"]
    over = _over(args.over)
    if args.sites_file is not None:
        return _given(args, job, over)
    alphas: Sequence[float | None] = [None]
    if "classes" in sampling:
        alphas = _alphas(args.alpha) if args.alpha else QUICK_ALPHAS if args.quick else ALPHAS
    elif args.alpha:
        raise refused(
            f"--alpha for {job.name}",
            "a job that segments: its patients have no classes, so there is no label skew",
            "--missing, --scanner or --sites; or a job with classes, for example tumour_type_fedavg",
        )
    counts = [_whole("--sites", text, max(2, job.federation["min_clients"])) for text in _words("--sites", args.sites)]
    scanners = [_whole("--scanner", text, 0, 1) == 1 for text in _words("--scanner", args.scanner)]
    modalities = sampling.get("modalities") or list(sampling["task"]["inputs"])
    cells = [
        Cell(sites, alpha, missing, scanner, changed)
        for sites, scanner in product(counts, scanners)
        for missing in _missing(args.missing or ["0"], sites, modalities)
        for changed in over
        for alpha in alphas
    ]
    return list(dict.fromkeys(cells))


def _given(
    args: argparse.Namespace,
    job: Job,
    over: Sequence[tuple[tuple[str, str], ...]],
) -> list[Cell]:
    """Return the settings over hospitals that exist.

    Their patients cannot be dealt, made or scanned another way.
    """
    from wardround.data.site_config import read_sites
    from wardround.research.sweep_sites import Cell

    words = {
        "--alpha": args.alpha,
        "--missing": args.missing,
        "--patients": args.patients,
    }
    named = [option for option, value in words.items() if value] + (["--scanner"] if args.scanner != "0" else [])
    if named:
        raise refused(
            f"{', '.join(named)} with --sites-file",
            "hospitals that exist",
            "--over and --seeds alone",
        )
    count, least = (
        len(read_sites(args.sites_file)),
        max(2, job.federation["min_clients"]),
    )
    if count < least:
        raise refused(
            "--sites-file",
            f"{count} hospitals",
            f"at least {least}, as the job has it",
        )
    return [Cell(count, None, (), False, changed) for changed in over]


def _alphas(text: str) -> list[float]:
    found = []
    for word in _words("--alpha", text):
        try:
            alpha = float(word)
        except ValueError:
            alpha = math.nan
        if not alpha > 0:
            raise refused(
                "--alpha",
                repr(word),
                "numbers above 0, or inf for an even deal, with commas",
            )
        found.append(alpha)
    return found


def _missing(options: Sequence[str], sites: int, modalities: Sequence[str]) -> list[Any]:
    """Return the settings that --missing names for this number of sites."""
    from wardround.research.sweep_sites import lacking

    found = []
    for option in options:
        words = _words("--missing", option)
        if all(":" not in word for word in words):
            found += [lacking(_whole("--missing", word, 0), sites, modalities) for word in words]
            continue
        setting: dict[str, tuple[str, ...]] = {}
        for word in words:
            site, _, names = word.partition(":")
            gone = tuple(names.split("+"))
            known = site in {f"site-{k + 1}" for k in range(sites)} and site not in setting
            if not known or len(set(gone)) < len(gone) or not set(gone) < set(modalities):
                raise refused(
                    "--missing",
                    repr(word),
                    f"each site once, site-1 to site-{sites}, and some of {', '.join(modalities)}, not all: site-2:t1+t2",
                )
            setting[site] = gone
        found.append(tuple(sorted(setting.items())))
    return found


def seeds(args: argparse.Namespace, job: Job) -> list[int]:
    """Return the seeds that --seeds names, by default three from the job's on."""
    first = int(job.task["seed"])
    found = [_whole("--seeds", text, 0) for text in _words("--seeds", args.seeds)] if args.seeds else []
    found = found or [first, first + 1, first + 2]
    return list(dict.fromkeys(found[:1] if args.quick else found))


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise refused(option, repr(text), "one value or more, with commas")
    return words


def _whole(option: str, text: str, low: int, high: float = math.inf) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise refused(
            option,
            repr(text),
            f"whole numbers, {low} or {'more' if high == math.inf else f'{high:g}'}",
        )
    return int(text)


def refused(what: str, found: str, expected: str) -> ConfigRefused:
    """Return the refusal of an option."""
    return ConfigRefused(
        what,
        found=found,
        expected=expected,
        fix="write it like the examples of `wardround sweep --help`",
    )
