"""Which words do files and tables use for a sequence or a tumour mask?

The words are those of the public sets and of scanners: t1n (BraTS 2023), T1w
(Decathlon, BIDS), T1GD (UPENN-GBM), T1c (UCSF-PDGM), ce-gadolinium_T1w (BIDS), t2f, fl,
... Upper and lower case and the separators - _ . and blank do not matter. A word that
is not here means nothing: the file is passed over, and listed as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MODALITIES = ("t1", "t1ce", "t2", "flair")
SEG = "seg"

_AGENT = r"(?:ce|c|gd|gad|gado|gadolinium|post|postgd|postcontrast|contrast|contrastenhanced|enhanced|km)"
# Matched after the separators are taken out. In front of T1 only what can mean nothing
# but contrast agent: `post_T1` may be the T1 after an operation.
_WORDS = {
    "t1ce": rf"t1(?:w|wi|weighted)?{_AGENT}"
    r"|(?:ce|gd|gad|cegd|cegad|cegadolinium|gadolinium|postcontrast|postgd|contrastenhanced)t1(?:w|wi|weighted)?",
    "t1": r"(?:precontrast|noncontrast|native)t1(?:w|wi|weighted)?"
    r"|t1(?:w|wi|weighted)?(?:n|nativ|native|pre|precontrast|noncontrast|plain)?",
    "t2": r"t2(?:w|wi|weighted)?",
    "flair": r"(?:t2(?:w|wi|weighted)?)?(?:flair|flr)|fl|t2f|flairw?",
    SEG: r"(?:brats)?(?:tumou?r|lesion)?(?:seg|segm|segmentation)|(?:tumou?r|lesion|seg|segmentation)(?:mask|label|labels)"
    r"|glistrboostmanuallycorrected"  # TCGA-GBM and TCGA-LGG; GlistrBoost alone is a machine's
    r"|label|labels|gt|groundtruth",
}
_ROLES = {role: re.compile(pattern) for role, pattern in _WORDS.items()}
_PERHAPS_AGENT = re.compile(rf".*[-_. ]{_AGENT}|{_AGENT}", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-_. ]+")


def role_of(word: str) -> str | None:
    """Return the sequence (one of MODALITIES) or `seg` that a word means, or None for
    any other word.
    """
    plain = _SEPARATORS.sub("", word.casefold())
    return next(
        (role for role, pattern in _ROLES.items() if pattern.fullmatch(plain)),
        None,
    )


def split_name(
    stem: str,
    role_of: Callable[[str], str | None] = role_of,
) -> tuple[str, str] | None:
    """Return (case, role) of a file's name without its ending: `P1_T1-ce` gives ("P1",
    "t1ce"), `flair` gives ("", "flair").

    role_of: returns what a word means, or None.

    The longest ending that is a word counts: `P_t2_flair` is FLAIR of P, not FLAIR of
    P_t2. A name with no such word, or with two of them, gives None: `P_T1_FLAIR` (a T1
    with inversion) is no FLAIR, and `P_t2_seg` is perhaps no mask of the tumour.
    """
    if role := role_of(stem):
        return "", role
    for gap in _SEPARATORS.finditer(stem):
        role = role_of(stem[gap.end() :]) if gap.start() else None
        if role:
            case = stem[: gap.start()]
            unsure = role == "t1" and _PERHAPS_AGENT.fullmatch(
                case,
            )  # `P_post_T1`: after contrast, or after an operation?
            return None if unsure or split_name(case, role_of) else (case, role)
    return None
