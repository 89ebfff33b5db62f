"""NVFlare's own command line as a child process: what an admin types, with its JSON
answers read strictly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused

Json = dict[str, Any]
NO_KIT = "STARTUP_KIT_MISSING"
# The exit code of `nvflare job monitor` for a job that is still running when --timeout
# has passed.
TIMED_OUT = 3


@dataclass(frozen=True)
class Console:
    """NVFlare's command line with one startup kit.

    environment: the environment variables of the child process.
    kit: the admin's startup kit, or None for NVFlare's active one (`nvflare config`).
    """

    environment: Mapping[str, str]
    kit: Path | None = None

    def ask(self, *words: str, patience_s: float = 120) -> Json:
        """Return the `data` of one command's answer. An answer that is not ok, and none
        within `patience_s` seconds, are refused with ConfigRefused.
        """
        command = [
            sys.executable,
            "-m",
            "nvflare.cli",
            "--format",
            "json",
            *self._with_kit(words),
        ]
        try:
            done = subprocess.run(
                command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=patience_s,
            )
        except subprocess.TimeoutExpired as error:
            raise _refused(
                words,
                f"no answer in {patience_s:.0f} s",
                "see that the server runs",
            ) from error
        answer = answer_of(done.stdout)
        if answer.get("error_code") == NO_KIT:
            raise _no_kit(words, self.kit)
        if done.returncode or answer.get("status") != "ok":
            raise _refused(
                words,
                _reason(answer, done),
                str(answer.get("hint") or "read the answer"),
            )
        data: Json = answer["data"]
        return data

    def monitor(self, job_id: str, timeout_s: int, tell: Callable[[Json], None]) -> int:
        """Wait for the end of a job and return NVFlare's exit code: 0 for COMPLETED,
        TIMED_OUT, or that of another end.

        tell: called every few seconds with an event that `nvflare job monitor` prints:
          {"status": ..., "metrics": {...}}.
        """
        words = (
            "job",
            "monitor",
            job_id,
            "--timeout",
            str(timeout_s),
            "--interval",
            "1",
            "--metric",
            "progress",
        )
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "nvflare.cli",
                "--format",
                "jsonl",
                *self._with_kit(words),
            ],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as child:
            try:
                for line in child.stdout or ():
                    tell(answer_of(line))
                return child.wait()
            finally:
                # Also after Ctrl-C here: the monitor would poll the server until its
                # own timeout.
                child.kill()

    def _with_kit(self, words: Sequence[str]) -> list[str]:
        local = words[0] in ("poc", "provision")
        return [*words] if self.kit is None or local else [*words, "--startup-kit", str(self.kit)]


def answer_of(text: str) -> Json:
    """Return the JSON object that a command printed, or {} where there is none."""
    start = text.find("{")
    try:
        found = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(answer: Json, done: subprocess.CompletedProcess[str]) -> str:
    said = str(answer.get("message") or answer.get("error") or "")
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said or (last[-1][:300] if last else f"exit code {done.returncode}")


def _refused(words: Sequence[str], found: str, fix: str) -> ConfigRefused:
    return ConfigRefused(
        f"`nvflare {' '.join(words[:2])}`",
        found=found,
        expected="an answer that is ok",
        fix=fix,
    )


def _no_kit(words: Sequence[str], kit: Path | None) -> ConfigRefused:
    return ConfigRefused(
        f"`nvflare {' '.join(words[:2])}`: whose startup kit?",
        found="no --startup-kit and no active kit" if kit is None else f"{kit}, which is no admin's startup kit",
        expected="the folder of a lead or an admin that provisioning made, for example .../prod_00/lead@consortium.org",
        fix="name it with `--startup-kit KIT`; on this machine alone, `wardround poc up` makes one and activates it",
    )
