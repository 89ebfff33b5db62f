"""NVFlare's proof of concept (POC) on this machine: real startup kits, real processes,
TLS on loopback.

prepare: `nvflare poc prepare -i project.yml`, with the file of the package or the
  user's own.
equip: what each hospital would write itself: local/wardround.json, and its own files
  from `--local`.
start: `nvflare poc start`, until every site is connected.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.ops.console import Console

SITE_FILE = "wardround.json"
PROJECT = "poc_workspace/project.yml"
PORTS = {"fed_learn_port": 8002, "admin_port": 8003}  # NVFlare's defaults
STORE = "/tmp/nvflare"  # noqa: S108 - NVFlare's default, one folder for all servers of a machine
PARTY_MODULES = "nvflare.private."
STARTERS = ("/startup/start.sh", "/startup/sub_start.sh")
PATHS = ("data", "cache", "record")
MADE = (
    "project.yml",
    "data",
    "phantoms",
    "store",
)  # beside the project's own folder; `data` is NVFlare's, and empty
Say = Callable[[str], None]


def default_project() -> Path:
    """Return the project file of four hospitals that the package brings."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / PROJECT, package.parents[1] / PROJECT
    return installed if installed.is_file() else checkout


def parties(project: Path) -> dict[str, list[str]]:
    """Return the names of the parties by type; refused unless there are one server and
    clients.
    """
    found: dict[str, list[str]] = {"server": [], "client": [], "admin": []}
    try:
        content = yaml.safe_load(project.read_text(encoding="utf-8"))
        for one in content["participants"]:
            found.setdefault(one["type"], []).append(str(one["name"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise _bad_project(
            project,
            f"nothing readable ({type(error).__name__})",
        ) from error
    if len(found["server"]) != 1 or not found["client"] or not found["admin"]:
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in found.items())
        raise _bad_project(project, counts)
    return found


def kits(workspace: Path) -> Path:
    """Return the folder with one startup kit per party; refused unless there is exactly
    one.
    """
    found = sorted(workspace.glob("*/prod_00"))
    if len(found) != 1:
        raise ConfigRefused(
            f"the POC in {workspace}",
            found=f"{len(found)} prepared projects",
            expected="one prepared project: a folder that `wardround poc up` made",
            fix="`wardround poc up`, or name the folder of an earlier one with --workspace",
        )
    return found[0]


def equip(
    kit_folder: Path,
    sites: Sequence[str],
    data: Mapping[str, Mapping[str, object]],
    local: Path | None,
) -> None:
    """Write what a hospital writes itself: its data file, and its own copies of what
    `local`/SITE holds.

    data: the content of wardround.json for each site. A site without one is refused
      with ConfigRefused.
    local: a folder with one folder per party, whose files go into that party's local/.
      Other folder names are refused with ConfigRefused.
    """
    missing = [site for site in sites if site not in data]
    strange = [path.name for path in sorted(local.iterdir()) if not (kit_folder / path.name).is_dir()] if local else []
    if missing or strange:
        raise ConfigRefused(
            "what the hospitals of the POC are given",
            found=f"no data for {', '.join(missing)}" if missing else f"files for {', '.join(strange)}",
            expected=f"an entry for each of {', '.join(sites)}, and folders of parties of the project",
            fix="correct --sites-file or --local",
        )
    for site in sites:
        text = json.dumps(dict(data[site]), indent=2) + "\n"
        files.write(kit_folder / site / "local" / SITE_FILE, text)
    for folder in sorted(local.iterdir()) if local else []:
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, kit_folder / folder.name / "local" / file.name)


def list_classes(kit_folder: Path, server: str, sites: Sequence[str], store: Path) -> None:
    """Write every party's resources.json with our classes on its allow-list. Without it
    a job that brings no code does not start.

    store: where the server keeps jobs and snapshots. It lies in this POC's own folder,
      because NVFlare's default is one folder for every server of the machine.
    """
    from wardround.jobs import allow_list

    listed = allow_list.allow_list()
    for party, role in (
        (server, allow_list.SERVER),
        *((site, allow_list.SITE) for site in sites),
    ):
        local = kit_folder / party / "local"
        text = (local / "resources.json.default").read_text(encoding="utf-8").replace(STORE, str(store))
        made = allow_list.resources(json.loads(text), role, listed[role])
        files.write(local / "resources.json", json.dumps(made, indent=2) + "\n")


def phantoms(
    out: Path,
    sites: Sequence[str],
    patients: int | None,
    shape: tuple[int, int, int],
    say: Say,
) -> Path:
    """Write synthetic patients for every site and return the file that names them."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    entries = {}
    for number, site in enumerate(sites):
        profile = hospital(number)
        say(f"{site}: synthetic patients ({profile.name})")
        write_cohort(out / site, profile, 0, shape, patients)
        entries[site] = {"data": str((out / site).resolve()), "name": profile.name}
    files.write(out / "sites.json", json.dumps(entries, indent=2) + "\n")
    return out / "sites.json"


def site_files(file: Path) -> dict[str, dict[str, object]]:
    """Return the content of each site's wardround.json, with absolute paths."""
    from wardround.data.site_config import read_sites

    content = json.loads(file.read_text(encoding="utf-8-sig")) if read_sites(file) else {}
    base = file.resolve().parent

    def absolute(key: str, value: object) -> object:
        return str((base / Path(value).expanduser()).resolve()) if key in PATHS and isinstance(value, str) else value

    return {site: {key: absolute(key, value) for key, value in entry.items()} for site, entry in content.items()}


def wait_until_connected(console: Console, sites: Sequence[str], patience_s: float) -> None:
    """Return when the server sees every site, or raise ConfigRefused after
    `patience_s`.
    """
    end = time.monotonic() + patience_s
    missing = list(sites)
    while time.monotonic() < end:
        try:
            clients = console.ask("system", "status", patience_s=20).get("clients", [])
        except ConfigRefused:
            clients = []  # the server is still starting
        seen = {one.get("client_name") for one in clients}
        missing = [site for site in sites if site not in seen]
        if not missing:
            return
        time.sleep(0.5)
    raise ConfigRefused(
        "the start of the POC",
        found=f"{', '.join(missing)} not connected after {patience_s:.0f} s",
        expected=", ".join(sites),
        fix="read poc_console.log in the kit of the party that is missing; `wardround poc down`",
    )


def require_free_ports(project: Path) -> None:
    """Raise ConfigRefused, with the holders, unless a server can listen on each port."""
    content = yaml.safe_load(project.read_text(encoding="utf-8"))
    server = next(one for one in content["participants"] if one.get("type") == "server")
    taken = [port for port in (server.get(key, default) for key, default in PORTS.items()) if not _is_free(port)]
    if taken:
        raise ConfigRefused(
            f"the ports of the server in {project}",
            found="; ".join(f"port {port} is in use by {_holder(port)}" for port in taken),
            expected="ports that nobody listens on",
            fix="end that process (`wardround poc down --workspace DIR` if it is another POC), or copy the project file, "
            f"write other numbers as {' and '.join(PORTS)}, and name it with --project",
        )


def _is_free(port: int) -> bool:
    """Return whether a server could listen on a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As a server does: a connection that has just ended does not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - as NVFlare's server does; closed at once
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """Return who listens on a port; a process of another user has no name here."""
    import psutil

    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                words = psutil.Process(one.pid).cmdline()
                kits_of = [word.partition("/prod_00/")[0] for word in words if "/prod_00/" in word]
                which = f", of the POC in {Path(kits_of[0]).parent}" if kits_of else ""
                return f"{psutil.Process(one.pid).name()} (process {one.pid}{which})"
    return "a process of another user"


def running(workspace: Path) -> list[Any]:
    """Return the NVFlare processes (psutil) of this user that run parties of this
    workspace.

    An editor or a shell that only names the workspace is not among them.
    """
    import psutil

    every = psutil.process_iter(["cmdline", "uids"])
    own = [one for one in every if one.info["uids"] and one.info["uids"].real == os.getuid()]
    return [one for one in own if belongs_to(workspace, one.info["cmdline"] or [])]


def end_processes(workspace: Path, patience_s: float) -> int:
    """Wait for the processes of this workspace to end; kill and count those that do
    not.
    """
    import psutil

    end = time.monotonic() + patience_s
    while (left := running(workspace)) and time.monotonic() < end:
        time.sleep(0.5)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=10)
    return len(left)


def belongs_to(workspace: Path, words: Sequence[str]) -> bool:
    """Return whether a command line is a kit's start script, or NVFlare with its kit."""
    inside = [word for word in words if word.startswith(f"{workspace}{os.sep}")]
    script = any(word.endswith(STARTERS) for word in inside[:1] if word in words[:2])
    return script or (bool(inside) and any(word.startswith(PARTY_MODULES) for word in words))


def require_replaceable(workspace: Path, named: Sequence[Path]) -> None:
    """Raise ConfigRefused unless a folder that NVFlare will delete whole is an earlier
    POC, with nothing of the user in it.

    named: files and folders that the command is going to read.
    """
    kits(workspace)
    inside = [path.name for path in named if workspace in (path.resolve(), *path.resolve().parents)]
    strange = [one.name for one in workspace.iterdir() if one.name not in MADE and not (one / "prod_00").is_dir()]
    strange += [f"data/{one.name}" for one in (workspace / "data").glob("*")]
    if inside or strange:
        raise ConfigRefused(
            f"the POC workspace {workspace}",
            found=f"{', '.join(sorted(inside or strange)[:5])} in it, which a new POC would delete",
            expected="nothing but what `wardround poc up` made",
            fix="move it elsewhere, or name another --workspace",
        )


def _bad_project(project: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the project file {project}",
        found=found,
        expected="one server, at least one client and one admin under `participants`",
        fix=f"start from a copy of {default_project()}",
    )
