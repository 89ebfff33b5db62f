"""What every task of a site does: turn failures into codes, keep its numbers at home,
and stream those that travel anyway.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo

from wardround.algorithms.base import Algorithm
from wardround.algorithms.federation import begin
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import Sharing
from wardround.core.errors import ConfigRefused, Refusal
from wardround.core.paths import disk_refused, no_room
from wardround.flare import few_patients, plaintext_messages, workspaces
from wardround.flare.made_with import require_made_with
from wardround.messages import plaintext

REASONS = "refusals.txt"
SETTINGS = "the settings of training"
OWN_ROUNDS = "own_rounds.jsonl"
# One write of a short line at the end of the file is whole: lines of two processes do
# not mix.
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def guarded(component: FLComponent, fl_ctx: FLContext, work: Callable[[], Shareable]) -> Shareable:
    """Return work(), done by the wardround that the job was made with. A refusal or a
    failure becomes a reply with its code only.

    The reason, which can name a patient's folder, goes to `refusals.txt` in the site's
    private folder. It is not logged, because by default NVFlare streams a site's error
    log to the server. The simulator, where everything is on one machine, logs it too.
    """
    try:
        require_made_with(fl_ctx)
        return work()
    except Refusal as refusal:
        _tell(component, fl_ctx, f"REFUSED by {fl_ctx.get_identity_name()} ({refusal.code})", str(refusal))
        return plaintext_messages.refusal_message(refusal.code)
    except OSError as error:
        words = f"FAILED at {fl_ctx.get_identity_name()}: {type(error).__name__}"
        full = str(disk_refused(workspaces.run_folder(fl_ctx), "what this site writes")) if no_room(error) else ""
        _tell(component, fl_ctx, words, full or traceback.format_exc())
        return plaintext_messages.refusal_message(plaintext_messages.FAILURE)
    except MemoryError:
        component.log_error(
            fl_ctx, "REFUSED (memory): this site ran out of memory; lower `patch` or `batch` in the job"
        )
        return plaintext_messages.refusal_message(plaintext_messages.MEMORY)
    except Exception as error:  # noqa: BLE001 - a dead process would end the job of every hospital
        _tell(
            component,
            fl_ctx,
            f"FAILED at {fl_ctx.get_identity_name()}: {type(error).__name__}",
            traceback.format_exc(),
        )
        return plaintext_messages.refusal_message(plaintext_messages.FAILURE)


def _tell(component: FLComponent, fl_ctx: FLContext, words: str, reason: str) -> None:
    """Write the reason into the site's private folder, and log that it lies there."""
    file = workspaces.private_folder(fl_ctx) / REASONS
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(f"{words}: {reason}\n")
        where = f"the reason is in {file.name} in this site's private folder"
    except OSError as error:
        where = f"the reason could not be written to {file.name} ({error.strerror or type(error).__name__})"
    shown = reason if workspaces.in_simulator(fl_ctx) else where
    component.log_error(fl_ctx, f"{words}: {shown}")


def require_given(**settings: Any) -> None:
    """Raise ConfigRefused when one of the job's settings is missing: NVFlare turns an
    unknown variable into None.
    """
    absent = [name for name, value in settings.items() if value is None]
    if absent:
        raise ConfigRefused(
            "the job's site settings",
            found=f"no {', '.join(absent)}",
            expected="every one",
            fix="print the job again with `wardround jobs write`",
        )


def require_started(algorithm: Algorithm, sharing: Sharing, schedule: Schedule) -> None:
    """Raise ConfigRefused where the algorithm cannot use the schedule's work, or does
    not fit with what stays at home.
    """
    begin(algorithm, sharing, schedule.steps(0))


def shown(number: float | None) -> str:
    """Return a loss or a score for a line of the log, which NVFlare can be made to send
    to the server.
    """
    return "not reported" if number is None else f"{number:.3g}"


def tell(
    component: FLComponent,
    numbers: Mapping[str, float | None],
    round_: int,
    fl_ctx: FLContext,
    *,
    silent: bool = False,
    timed: bool = True,
) -> dict[str, float | None]:
    """Keep the exact numbers of a round at home, stream those that may leave, and
    return these.

    At home they are one line of `own_rounds.jsonl` in the site's own run folder,
    whatever leaves.

    silent: nothing may leave; then all returned numbers are None.
    timed: whether seconds may leave.
    """
    line = json.dumps({"round": round_ + 1, **numbers}) + "\n"
    with os.fdopen(os.open(workspaces.run_folder(fl_ctx) / OWN_ROUNDS, _APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write(line)
    told = few_patients.numbers(numbers, few_patients.known(fl_ctx)) if not silent else dict.fromkeys(numbers)
    told = told if timed else plaintext.without_time(told)
    stream(component, told, round_, fl_ctx)
    return told


def stream(component: FLComponent, numbers: Mapping[str, float | None], round_: int, fl_ctx: FLContext) -> None:
    """Send numbers that may leave to NVFlare's analytics receiver (TensorBoard), where
    rounds count from 1 as in reports.
    """
    for tag, value in numbers.items():
        if value is None:
            continue
        dxo = create_analytic_dxo(tag, float(value), AnalyticsDataType.SCALAR, global_step=round_ + 1)
        send_analytic_dxo(component, dxo, fl_ctx)
