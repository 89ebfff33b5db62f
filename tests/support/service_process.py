"""The service as a process of its own, watched for files that it opens to write; forms."""

from __future__ import annotations

import http.client
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WATCHED = """
import os, sys
from wardround.cli.main import main
def hook(event, args):
    if event == "open" and args[0] is not None and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(2, f"OPENED TO WRITE {args[0]}\\n".encode())
sys.addaudithook(hook)
sys.exit(main(sys.argv[1:]))
"""


FORM = "multipart/form-data; boundary=between"


def form(images: Iterable[tuple[str, bytes]], name: str = "case", more: bytes = b"") -> bytes:
    """Return the body of a form with one file for each (sequence, content); `more`: further headers of every part."""
    parts = [
        f'--between\r\nContent-Disposition: form-data; name="{part}"; filename="{name}_{part}.nii.gz"\r\n'.encode()
        + more
        + b"\r\n"
        + content
        + b"\r\n"
        for part, content in images
    ]
    return b"".join(parts) + b"--between--\r\n"


@dataclass
class Server:
    """A running `wardround serve`; `said()` is all it has printed."""

    process: subprocess.Popen[bytes]
    log: Path
    token: str
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def said(self) -> str:
        return self.log.read_text()


def start(model: Path, root: Path, *options: str) -> Server:
    """Start the service in empty folders (its current and temporary one), and wait until it listens."""
    token, file, log, folder = secrets.token_urlsafe(32), root / "token", root / "log.txt", root / "empty"
    folder.mkdir()
    file.write_text(token + "\n")
    file.chmod(0o600)
    arguments = ["serve", str(model), "--token-file", str(file), "--port", "0", "--device", "cpu", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, *arguments],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    for _ in range(1200):
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())
        if found:
            return Server(process, log, token, int(found[1]), folder)
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    process.kill()
    raise AssertionError(log.read_text())


def stalled(port: int, token: str, body: bytes, keep: int) -> socket.socket:
    """Begin a request and keep back the last bytes."""
    begun = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    begun.sendall(f"{head}Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-keep])
    return begun


def answer(begun: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(begun)
    response.begin()
    return response
