"""What the benchmarks share: arguments, the JSON line, sites from a folder of cases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def arguments(words: str) -> argparse.ArgumentParser:
    """Return a parser with the two flags every benchmark has."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute, to see that it works; numbers mean little"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


def say(text: str) -> None:
    """Print progress to stderr, so that stdout holds results only."""
    print(text, file=sys.stderr, flush=True)


def finish(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the JSON object as the last line of stdout when asked for."""
    if as_json:
        print(json.dumps(result))


def data_root() -> Path:
    """Return the folder of real data beside the repository."""
    return Path(__file__).resolve().parents[2] / "shared" / "data"
