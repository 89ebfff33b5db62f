"""Play the drills of docs/operations.md on this machine.

    python tests/support/run_drills.py                 all of them, 10 to 20 minutes on two cores
    python tests/support/run_drills.py site_killed     some of them
    python tests/support/run_drills.py --list

Each prints what was done, what the server's log and the report say, and ends as PASSED or FAILED with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> int:
    from drills import DRILLS
    from stage import Line, stage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="DRILL", help=f"default: all of {', '.join(DRILLS)}")
    parser.add_argument("--list", action="store_true", help="say what each of them does")
    args = parser.parse_args()
    if strangers := [name for name in args.names if name not in DRILLS]:
        parser.error(f"no such drill: {', '.join(strangers)}; there are {', '.join(DRILLS)}")
    if args.list:
        for name, drill in DRILLS.items():
            print(f"{name}: {drill.__doc__}")
        return 0
    failed, line = [], Line()
    print("a consortium of one server and four sites is provisioned and started", flush=True)
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder), line) as made:
        for name in args.names or DRILLS:
            begun = time.monotonic()
            print(f"\n{name}: {DRILLS[name].__doc__}", flush=True)
            try:
                DRILLS[name](made, *([line] if name == "network_cut" else []))
            except Exception:  # noqa: BLE001 - the next drill is played all the same
                failed.append(name)
                traceback.print_exc(file=sys.stdout)
            word = "FAILED" if name in failed else "PASSED"
            print(f"  {word} {name} in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"\n{len(args.names or DRILLS) - len(failed)} drills passed, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
