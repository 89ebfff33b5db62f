"""What do the stored values of a tumour mask mean? The label conventions, and which of
them a case is read by.

Unified values: 0 background, 1 necrotic, non-enhancing or cystic core, 2 oedema, 3
enhancing; masks of kind whole_tumour have 0 and 1. The published sets give 1, 2, 3 and
4 different meanings, and values alone do not tell them apart. So a convention is stated
(`labels` in the site's file), or proven (the "labels" map of dataset.json, the layout
of the Decathlon), or the ids belong to no set that is known to read them otherwise. Any
other case is refused.

Sources: Menze et al. 2015, doi:10.1109/TMI.2014.2377694 (2012 to 2015); the data pages
  of the BraTS challenges 2017 to 2025 (GLI, MEN, MET, PED, SSA, GoAT, post-treatment)
  and of the Medical Segmentation Decathlon, task 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.core.errors import DataRefused
from wardround.data.label_names import MEANS, meaning_of

BACKGROUND = 0
CORE = 1
OEDEMA = 2
ENHANCING = 3
AUTO = "auto"
DEFAULT_KIND = "brats"
OF_TASK = "task"  # the values as they are stored: a job's task says what they mean


@dataclass(frozen=True)
class Convention:
    """How stored values are read.

    name: what sites and messages call it.
    meaning: the unified value of each stored value. 0 is background in every
      convention.
    kind: brats or whole_tumour; None where the values of all cases of the site decide.
    proven: whether the site's file or dataset.json says so. False means that the layout
      or the ids alone suggest it.
    """

    name: str
    meaning: Mapping[int, int]
    kind: str | None = None
    proven: bool = False

    def words(self) -> str:
        """Return the meanings as a person reads them: `1 core, 2 oedema, 4 enhancing`."""
        if self.name == OF_TASK:
            return f"{', '.join(map(str, sorted(self.meaning)))}, of {self.kind}"
        values: dict[int, list[str]] = {}
        for value, meant in sorted(self.meaning.items()):
            values.setdefault(meant, []).extend([str(value)] if value else [])
        one = "tumour" if self.kind == "whole_tumour" else MEANS[CORE]
        return ", ".join(f"{' or '.join(n)} {one if m == CORE else MEANS[m]}" for m, n in values.items() if n)


_TABLES: dict[str, dict[int, int]] = {
    "brats": {
        1: CORE,
        2: OEDEMA,
        3: ENHANCING,
        4: ENHANCING,
    },  # 3 or 4, one of them in a mask
    "brats2023": {1: CORE, 2: OEDEMA, 3: ENHANCING},
    "brats_post": {1: CORE, 2: OEDEMA, 3: ENHANCING, 4: BACKGROUND},
    "brats_met": {1: CORE, 2: OEDEMA, 3: ENHANCING, 4: BACKGROUND},
    "brats_ped": {1: ENHANCING, 2: CORE, 3: CORE, 4: OEDEMA},
    "brats2015": {1: CORE, 2: OEDEMA, 3: CORE, 4: ENHANCING},
    "decathlon": {1: OEDEMA, 2: CORE, 3: ENHANCING},
    "whole_tumour": {1: CORE},
}
CONVENTIONS = {
    name: Convention(
        name,
        table,
        "whole_tumour" if name == "whole_tumour" else "brats",
        proven=True,
    )
    for name, table in _TABLES.items()
}
NAMES = (AUTO, *CONVENTIONS)
DEFAULT = Convention("brats", _TABLES["brats"])
_DECATHLON = Convention("decathlon", _TABLES["decathlon"])
_THREE_IS_ENHANCING = Convention("brats2023", _TABLES["brats2023"])

# pattern of ids, words about the set, the name to write. These sets read 1 to 4
# otherwise than BraTS 2017 to 2023.
_OTHERWISE = tuple(
    (re.compile(pattern, re.IGNORECASE), words, name)
    for pattern, words, name in (
        (
            r"brats[-_ ]?ped.*",
            "BraTS-PED: 1 enhancing, 2 non-enhancing, 3 cyst, 4 oedema",
            "brats_ped",
        ),
        (
            r"brats[-_ ]?met.*",
            "BraTS-MET: 1 core, 2 oedema, 3 enhancing, 4 resection cavity",
            "brats_met",
        ),
        (
            r"brats[-_ ]?men[-_ ]?rt.*",
            "BraTS-MEN-RT: 1 is the gross tumour volume",
            "whole_tumour",
        ),
        (
            r"(sim)?brats[-_]?(20)?1[2-5](?!\d).*|brats[-_](201[2-5]|tcia)[-_].*|(sim)?brats[-_](hg|lg)\d.*|vsd\..*",
            "BRATS 2012 to 2015: 3 is non-enhancing core, 4 enhancing",
            "brats2015",
        ),
    )
)
_DECATHLON_IDS = re.compile(r"brats_\d{3}", re.IGNORECASE)
_READ_AS_2023 = re.compile(r"brats[-_](gli|men|ssa|goat|africa)[-_].*", re.IGNORECASE)
_BRATS_WORD = re.compile(r"brats-[a-z]+-.*", re.IGNORECASE)
_ANY_BRATS = re.compile(r"brats-[a-z]+-.*|brats(20)?(1[7-9]|2\d)_.*", re.IGNORECASE)


def stated(labels: str | Mapping[str, object], where: str) -> Convention | None:
    """Return the convention that a site's file states: a name of NAMES, or a map of
    values to words. `auto` gives None.

    Another name, and words that are not understood, are refused with DataRefused.
    """
    if not isinstance(labels, str):
        return from_map(labels, where)
    if labels not in NAMES:
        raise DataRefused(
            where,
            found=f"{labels!r}",
            expected=f"one of {', '.join(NAMES)}, or a map",
            fix=how_to_say(),
        )
    return CONVENTIONS.get(labels)


def from_map(labels: object, where: str) -> Convention:
    """Return the convention of a "labels" map, such as {"1": "edema"}, {"edema": 1} or
    regions {"whole tumor": [1, 2, 3], ...}.

    Anything else, a word that is not understood, and meanings that contradict each
    other are refused with DataRefused.
    """
    meaning, whole = meaning_of(labels, where, how_to_say())
    return Convention("map", meaning, "whole_tumour" if whole else "brats", proven=True)


def convention_of(
    case: str,
    decathlon: bool,
    labels: object,
    source: str,
    said: Convention | None,
    needs_map: bool = False,
) -> Convention:
    """Return the convention by which a case is read.

    case: the case id.
    decathlon: whether the case is one 4-D file.
    labels: the "labels" of dataset.json, or None.
    source: that file.
    said: what the site's file states.
    needs_map: whether the layout has no convention of its own (nnU-Net).

    A case is refused with DataRefused where nothing is stated, proven or usual for such
    ids, and where the site's file contradicts dataset.json.
    """
    if labels is not None:
        if said is None:
            return from_map(labels, source)
        _require_same(said, labels, source)
    if said is not None:
        return said
    for pattern, words, name in _OTHERWISE:
        if pattern.fullmatch(case):
            raise _unsaid(case, f"an id of {words}", name)
    if needs_map:
        raise _unsaid(case, f'no "labels" in {source}', "decathlon")
    return _by_layout(case, decathlon)


def _by_layout(case: str, decathlon: bool) -> Convention:
    """Return the convention that layout and id together imply. Where they contradict
    each other, the case is refused with DataRefused.
    """
    if decathlon and _ANY_BRATS.fullmatch(case):
        raise _unsaid(
            case,
            "the layout of the Decathlon (1 oedema, 2 core) with ids of BraTS (1 core, 2 oedema)",
            "brats",
        )
    if decathlon:
        return _DECATHLON
    if _DECATHLON_IDS.fullmatch(case):
        raise _unsaid(
            case,
            "an id of the Decathlon (1 oedema, 2 core) in another layout than its own",
            "decathlon",
        )
    if _READ_AS_2023.fullmatch(case):
        return _THREE_IS_ENHANCING
    if _BRATS_WORD.fullmatch(case):
        raise _unsaid(case, "an id of a BraTS set that is not known here", "brats2023")
    return DEFAULT


def kind_of_site(masks: Sequence[tuple[Convention, frozenset[int]]]) -> str:
    """Return brats or whole_tumour for all masks of a site, each given as (convention,
    stored values).

    Refused with DataRefused, unless the site states its convention: 3 and 4 both used
    for enhancing tumour, by different cases; two layouts that read 1 and 2 differently;
    whole-tumour masks beside sub-regions.
    """
    implied = [(one, values) for one, values in masks if not one.proven and max(values, default=0) > 1]
    decathlon = sum(one is _DECATHLON for one, _ in implied)
    three, four = (sum(n in values for one, values in implied if one is not _DECATHLON) for n in (3, 4))
    kinds = {one.kind for one, _ in masks if one.proven}
    kinds |= {"brats"} if implied else set()
    found = f"{three} cases with the value 3 and {four} with 4" if three and four else ""
    if decathlon and decathlon < len(implied):
        found = f"{decathlon} cases in the layout of the Decathlon (1 oedema, 2 core), {len(implied) - decathlon} in another"
    if len(kinds) > 1:
        found = "masks of sub-regions beside whole-tumour masks, by their own descriptions"
    if found:
        raise DataRefused(
            "the masks of this site",
            found=f"{found}: more than one label convention",
            expected="one convention for all cases of a site",
            fix=f"{how_to_say()}. BRATS 2012 to 2015 writes 3 for non-enhancing core, 4 for enhancing; or list the cases "
            'of one convention under "cases"',
        )
    return str(kinds.pop()) if kinds else "whole_tumour"


def how_to_say() -> str:
    """Return how a site states its convention."""
    listed = "; ".join(f"{name}: {one.words()}" for name, one in CONVENTIONS.items())
    return (
        f'write "labels" into the site\'s file (or --labels): one of {listed}; or a map like '
        '{"1": "necrosis", "2": "edema", "4": "enhancing"}'
    )


def _require_same(said: Convention, labels: object, source: str) -> None:
    try:
        written = from_map(labels, source)
    except DataRefused:
        return  # words that nobody understands: the site's file says what they mean
    differ = [v for v, m in written.meaning.items() if said.meaning.get(v, m) != m]
    if differ or said.kind != written.kind:
        raise DataRefused(
            f"the labels of {source}",
            found=f"{written.words()} in dataset.json, {said.words()} in the site's file ({said.name})",
            expected="one meaning for every value",
            fix="correct the one that is wrong, or leave `labels` out of the site's file",
        )


def _unsaid(case: str, found: str, name: str) -> DataRefused:
    return DataRefused(
        f"the label convention of case {case!r}",
        found=found,
        expected="a site that says what the values of its masks mean, where they are not read as in BraTS 2017 to 2023",
        fix=f'probably "labels": "{name}" ({CONVENTIONS[name].words()}). {how_to_say()}',
    )
