"""The two forms in which a job goes to hospitals that are strict about code: without
any code, or with all of it.

    config-only   no app/custom, so NVFlare asks every site for its class allow-list;
    sites have wardround installed
    with-code     the package itself in app/custom, for sites without it; NVFlare asks
    each site whether it takes code (BYOC)

The same job and version give the same bytes. In both forms the configs pin the version
(flare/made_with.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from wardround import __version__
from wardround.core.errors import ConfigRefused
from wardround.core.files import write as write_file
from wardround.flare.made_with import digest_of, package_digest, package_files
from wardround.flare.plain_jobs import require_plain_folder
from wardround.jobs.folder import INSTALLED, MADE_WITH, job_files, made_with, printed
from wardround.jobs.recipes import Job

CUSTOM = "app/custom/"
PINNED = f"{CUSTOM}requirements.txt"
SIDES = ("app/config/config_fed_server.json", "app/config/config_fed_client.json")
Files = dict[str, bytes]


def read_job(folder: Path) -> Files:
    """Return the bytes of every file of a job folder, by its relative path.

    Links, which NVFlare refuses or loses, code of the folder's own, missing configs,
    and another version than this one are refused with ConfigRefused.
    """
    files = all_files(folder)
    code = [name for name in files if "custom" in name.split("/") and name != PINNED]
    missing = [name for name in ("meta.json", *SIDES) if name not in files]
    if code or missing:
        parts = [f"code of its own: {', '.join(code[:5])}"] if code else []
        parts += [f"no {', '.join(missing)}"] if missing else []
        raise _refused(
            folder,
            "; ".join(parts),
            "a job folder as `wardround jobs write` prints it",
        )
    require_plain_folder(folder)
    for name in SIDES:
        promises = [part for part in json.loads(files[name])["components"] if part.get("id") == MADE_WITH["id"]]
        if [part.get("args") for part in promises] != [INSTALLED]:
            version = promises[0]["args"].get("version") if promises else "none"
            raise _refused(
                folder,
                f"made with wardround {version} ({name})",
                f"this version, {__version__}",
            )
    return files


def all_files(folder: Path) -> Files:
    """Return the bytes of every file below a folder, by its relative path. A link,
    which NVFlare refuses or loses, is refused with ConfigRefused.
    """
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    links = [name for name, path in found.items() if path.is_symlink()]
    if links:
        raise _refused(folder, f"the links {', '.join(links)}", "files and folders")
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


def printed_job(job: Job) -> Files:
    """Return the files that a recipe prints."""
    return {name: text.encode() for name, text in job_files(job).items()}


def pinned() -> Files:
    """Return the text file that makes NVFlare take a job for one with code, so that it
    asks for no class allow-list.

    It is for the simulator, which has no allow-list of ours. Its caller has compared
    the classes (forms.py).
    """
    return {PINNED: f"wardround=={__version__}\n".encode()}


def config_only(files: Files) -> Files:
    """Return a job without app/custom. Not even a text file may lie there, or NVFlare
    takes the job for one with code.
    """
    return {name: content for name, content in files.items() if not name.startswith(CUSTOM)}


def with_code(files: Files) -> Files:
    """Return a job that brings this package, and that requires exactly this code to
    run.

    app_configs/, from which jobs are printed, does not travel: NVFlare parses every
    YAML file of a job that is submitted.
    """
    code = {f"{CUSTOM}wardround/{name}": path.read_bytes() for name, path in package_files().items()}
    promise = {"version": __version__, "code": package_digest()}
    sides = {name: printed(made_with(json.loads(files[name]), promise)).encode() for name in SIDES}
    return config_only(files) | code | sides


def write(files: Files, folder: Path) -> Path:
    """Write a job's files into a new or empty folder and return it. A folder that holds
    anything is refused with ConfigRefused.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _refused(
            folder,
            "files that are there already",
            "a new or empty folder: what lies there would travel along",
        )
    for name, content in files.items():
        write_file(folder / name, content)
    return folder


def digest(files: Files) -> str:
    """Return the SHA-256 over names and bytes, so that two people can compare what they
    reviewed with what they received.
    """
    return digest_of(files)


def _refused(folder: Path, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the job folder {folder}",
        found=found,
        expected=expected,
        fix="name a job, or print the folder again with `wardround jobs write`",
    )
