"""The console of a simulator without NVFlare's own lines: its internals are two lines of three there, in every round.

Warnings, errors and our lines stay, and every log file stays complete. Whoever asks for a log configuration (-l) gets that.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from pathlib import Path

from nvflare.fuel.utils.log_utils import LoggerNameFilter, default_log_dict

OURS = ["wardround"]
OPTIONS = ("-l", "--log_config")


def log_config() -> str:
    """Return the text of a log configuration that shows our lines and everybody's warnings, and keeps all log files."""
    config = copy.deepcopy(default_log_dict)
    name_filter = f"{LoggerNameFilter.__module__}.{LoggerNameFilter.__name__}"
    config["filters"]["OursFilter"] = {"()": name_filter, "logger_names": OURS}
    config["handlers"]["consoleHandler"]["filters"] = ["OursFilter"]
    config["formatters"]["consoleFormatter"] |= {"fmt": "%(asctime)s %(levelname)s %(message)s", "datefmt": "%H:%M:%S"}
    return json.dumps(config)


def console(workspace: Path) -> None:
    """Quieten this process, the simulator's own, and the processes of sites that it starts from now on.

    workspace: the simulator's; a site's process reads local/log_config.json in it
    """
    if any(word.startswith(OPTIONS) for word in sys.argv[1:]):
        return
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in terminal:
            handler.addFilter(LoggerNameFilter(OURS))
    file = workspace / "local" / "log_config.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(log_config(), encoding="utf-8")
