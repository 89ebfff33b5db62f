"""Where the drills are played: a provisioned consortium with mutual TLS on loopback, real processes, small synthetic hospitals.

Every party is set up as docs/operations.md says: the server with `Rejoin`, everybody with a folder for state.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))
from consortium import SERVER, SITES, Consortium, started  # noqa: E402

REJOIN = {"id": "rejoin", "path": "wardround.flare.rejoin.Rejoin", "args": {}}
STATE = {"folder": "kept"}
JOB = "brats_scaffold"
ALL = list(SITES)


class Line:
    """A wire between a site and the server: what comes in at `port` goes on to the server, until it is cut."""

    def __init__(self) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self.server_port = 0
        self.whole = True
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection and accept none."""
        self.whole = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def mend(self) -> None:
        self.whole = True

    def _serve(self) -> None:
        while True:
            near, _ = self._door.accept()
            if not self.whole:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.server_port))
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def equip(made: Consortium, line: Line | None = None) -> None:
    """Write what the operations guide asks every party to write."""
    if line is not None:
        line.server_port = made.port
    path = made.kits / SERVER / "local" / "resources.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"components": [*said["components"], REJOIN]}, indent=2))
    for party in (SERVER, *SITES):
        (made.kits / party / "local" / "wardround_state.json").write_text(json.dumps(STATE))
    made.environment["NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT"] = "10"


@contextmanager
def stage(root: Path, line: Line | None = None) -> Iterator[Consortium]:
    """Bring everybody up, and down again. line: what site-2's connection passes through."""
    through = {} if line is None else {"site-2": line.port}
    with started(root, REPOSITORY, lambda made: equip(made, line), through) as made:
        yield made


def say(words: str) -> None:
    print(f"    {words}", flush=True)


def lines(text: str, *words: str) -> list[str]:
    """Return the lines of a log that hold one of these words, from that word on."""
    found = []
    for line in text.splitlines():
        for word in words:
            if word in line:
                found.append(line[line.index(word) :].strip())
                break
    return found


def tell(made: Consortium, job_id: str, report: dict[str, Any]) -> None:
    """Print what a lead saw: the server's lines, and the report's."""
    for line in lines(made.server_log(job_id), "MISSING", "RETURNED", "LOST", "LATE:", "DROPPED", "RESUMED"):
        say(f"server's log: {line}")
    for words in report["problems"]:
        say(f"report, problem: {words}")
    for words in report.get("remarks") or []:
        say(f"report, remark: {words}")
    say(f"report: {report['outcome'].upper()}, {len(report['rounds'])} rounds, judged by {', '.join(report['final'])}")
