"""The server's last resort: one answer, one round or one drawing that breaks must not
end the run of all sites.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from wardround.core.errors import Refusal
from wardround.flare.plaintext_messages import FAILURE


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    code: the code for the run's problems.
    words: one line for the report.
    details: the text for the server's own log.
    """

    code: str
    words: str
    details: str


def tried(work: Callable[[], object]) -> Failure | None:
    """Do the work; return what went wrong, or None when nothing did.

    A Refusal is reported in its own words. Any other exception is a fault of ours: the
    report names its type alone, because its text may repeat what a site sent.
    """
    try:
        work()
    except Refusal as refusal:
        return Failure(refusal.code, f"{refusal.what} ({refusal.found})", str(refusal))
    except Exception as error:  # noqa: BLE001 - NVFlare would end the task, or the run, of every hospital
        words = f"a fault of wardround at the server ({type(error).__name__}); please report it with the server's log"
        return Failure(FAILURE, words, traceback.format_exc())
    return None
