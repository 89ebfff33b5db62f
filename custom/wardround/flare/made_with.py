"""Whether the wardround that runs here is the one that a job was made with, checked
before any task is done.

The version is compared and, where the job brings code, the code itself. A job's folder
can hold a copy of the package (`wardround package --with-code`), but Python finds an
installed package first, because NVFlare puts a job's `app/custom` at the end of the
path. So the check is of what runs, not of what the job brings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.server_engine_spec import ServerEngineSpec

from wardround import __version__
from wardround.core.errors import ConfigRefused, VersionRefused
from wardround.flare import quiet, workspaces
from wardround.flare.job_settings import require_told

ID, INSTALLED = "made_with", "installed"
PRINT = "print the job again with `wardround jobs write`"


class MadeWith(FLComponent):  # type: ignore[misc]
    """Component of both sides of every job.

    With another version, or other code than the job brings, every task of a site is
    refused (code `version`), and a server does not start. A job without a version or a
    code is a VersionRefused.

    version: the version of the package that printed the job.
    code: INSTALLED where the job brings no code, so that any installed package of that
        version will do; otherwise the SHA-256 of the code that it brings.
    """

    def __init__(self, version: str, code: str) -> None:
        super().__init__()
        if not version or not code:
            raise _refused("a job that does not say so", "the version that printed the job", PRINT)
        self.version = version
        self.code = code

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Stop a server's run. A site refuses task by task instead, so that the other
        hospitals continue.
        """
        if event_type == EventType.START_RUN and isinstance(fl_ctx.get_engine(), ServerEngineSpec):
            if workspaces.in_simulator(fl_ctx):
                quiet.console()
            try:
                self.require()
                require_told(fl_ctx)
            except (VersionRefused, ConfigRefused) as refusal:
                self.system_panic(f"the run cannot start: {refusal}", fl_ctx)
        elif event_type == EventType.START_RUN:
            quiet.site_console()

    def require(self) -> None:
        """Raise VersionRefused unless the package that runs here is the one that the
        job was made with.
        """
        if self.version != __version__:
            raise _refused(
                f"wardround {__version__} runs here",
                f"wardround {self.version}, with which the job was made",
                f"install it (pip install wardround=={self.version}) and start this party "
                f"again, or print the job with wardround {__version__}",
            )
        if self.code not in (INSTALLED, package_digest()):
            raise _refused(
                f"a wardround {__version__} of other code (sha256 {package_digest()[:16]}...)",
                f"the code that the job brings (sha256 {self.code[:16]}...); an installed package hides it",
                "uninstall wardround at this party, or package the job there with `wardround package --config-only`",
            )


def require_made_with(fl_ctx: FLContext) -> None:
    """Raise VersionRefused unless this run's job says with what it was made, and that
    is what runs here.

    A job whose report would name other settings than this site runs is a ConfigRefused.
    """
    promise = fl_ctx.get_engine().get_component(ID)
    if not isinstance(promise, MadeWith):
        raise _refused(f"a job without the component {ID!r}", "a job that wardround printed", PRINT)
    promise.require()
    require_told(fl_ctx)


def package_files() -> dict[str, Path]:
    """Return the package's own files by relative path, sorted: code, templates and the
    type marker, but no caches.
    """
    root = Path(__file__).resolve().parents[1]
    # NVFlare signs every folder of a job that it deploys, with hidden files of its own
    # in it.
    templates = [path for path in root.glob("*/templates/*") if not path.name.startswith(".")]
    files = [*root.rglob("*.py"), *templates]
    found = {path.relative_to(root).as_posix(): path for path in files}
    found["py.typed"] = root / "py.typed"
    return dict(sorted(found.items()))


@lru_cache
def package_digest() -> str:
    """Return the SHA-256 of the names and bytes of the package's code. It is the same
    wherever the package is installed.
    """
    return digest_of({name: path.read_bytes() for name, path in package_files().items()})


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of names and bytes of files, in the order of the names."""
    found = hashlib.sha256()
    for name, content in sorted(files.items()):
        # Both parts have a fixed length, so that no name can pass for the end of a
        # content.
        found.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    return found.hexdigest()


def _refused(found: str, expected: str, fix: str) -> VersionRefused:
    return VersionRefused("the version of wardround", found=found, expected=expected, fix=fix)
