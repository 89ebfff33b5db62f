"""The console of a simulator without NVFlare's own lines, which are two lines of three
there, in every round.

Warnings, errors and our lines stay, and every log file stays complete. Whoever asks for
a log configuration (-l) gets that configuration.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys

from nvflare.fuel.utils.log_utils import LoggerNameFilter, default_log_dict

OURS = ["wardround"]
OPTIONS = ("-l", "--log_config")
VARIABLE = "WARDROUND_QUIET"


def log_config() -> str:
    """Return the text of a log configuration that shows our lines and all warnings, and
    keeps all log files.
    """
    config = copy.deepcopy(default_log_dict)
    name_filter = f"{LoggerNameFilter.__module__}.{LoggerNameFilter.__name__}"
    config["filters"]["OursFilter"] = {"()": name_filter, "logger_names": OURS}
    config["handlers"]["consoleHandler"]["filters"] = ["OursFilter"]
    config["formatters"]["consoleFormatter"] |= {"fmt": "%(asctime)s %(levelname)s %(message)s", "datefmt": "%H:%M:%S"}
    return json.dumps(config)


def console() -> None:
    """Quieten the simulator's own process and, through a variable, the processes of
    sites that it starts from now on.
    """
    if not any(word.startswith(OPTIONS) for word in sys.argv[1:]):
        os.environ[VARIABLE] = "1"
        site_console()


def site_console() -> None:
    """Quieten this process if the simulator that started it is quiet."""
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in logging.getLogger().handlers if VARIABLE in os.environ else ():
        if isinstance(handler, logging.StreamHandler) and handler.stream in terminal:
            handler.addFilter(LoggerNameFilter(OURS))
