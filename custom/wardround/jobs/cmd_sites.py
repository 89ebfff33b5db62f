"""`wardround sites`: what a hospital (and the server) sets up once, so that jobs without code run there and no others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wardround.jobs.terminal import DONE, command, existing, folder, group

SITES = """
Set a site, or the server, to run reviewed code only: its own installed wardround, and of it only listed classes.

  wardround sites allow-list
  wardround sites harden /opt/nvflare/site-1
"""
ALLOW = """
Print the classes that jobs name, as {"site": [...], "server": [...]}: all jobs of this version, or the named ones.
poc_workspace/local/class_allow_list.json is this list. A hospital that wants fewer deletes lines, or names jobs.

  wardround sites allow-list --out my_list.json
  wardround sites allow-list brats_perfedavg brats_fedavg_he
"""
HARDEN = """
Write two files into local/ of a startup kit, before the party is started: resources.json (what was there, with the class
allow-list, enforced, and without log streaming) and authorization.json (what was there, with no role that may bring code).
Secret files become readable by their owner only. startup/ is signed and stays as it is. Do it at the server's kit too: it
builds its own half of a job. Other settings in these files are kept; done twice it changes nothing.

A job whose meta.json asks for a container image of its own counts as code for NVFlare too. What a lead then sees:
poc_workspace/README.md.

  wardround sites harden /opt/nvflare/site-1
  wardround sites harden /opt/nvflare/site-1 --allow my_list.json
"""


def add(commands: Any) -> None:
    """Declare the commands."""
    inner = group(commands, "sites", "set a site to run reviewed code only", SITES)
    listed = command(inner, "allow-list", "print the classes that jobs name", ALLOW, allow_list)
    listed.add_argument("names", nargs="*", metavar="JOB", help="names of jobs, or their folders; default: all")
    listed.add_argument("--out", type=folder, metavar="FILE", help="write it there; default: print it")
    hard = command(inner, "harden", "deny code and list classes at one party", HARDEN, harden)
    hard.add_argument("kit", type=existing, metavar="KIT", help="the party's workspace: startup/ and local/ lie in it")
    hard.add_argument("--allow", type=existing, metavar="FILE", help="an edited list; default: the classes of all jobs")


def allow_list(args: argparse.Namespace) -> int:
    """Print or write the lists."""
    from wardround.jobs.allow_list import named_by
    from wardround.jobs.folder import printed

    text = printed(dict(named_by(args.names)))
    if args.out is None:
        print(text, end="")
        return DONE
    args.out.write_text(text, encoding="utf-8")
    print(f"written: {args.out}")
    return DONE


def harden(args: argparse.Namespace) -> int:
    """Harden one party."""
    from wardround.hospital.kit import open_kit, readable_by_others, write_changed
    from wardround.jobs import allow_list

    kit = open_kit(args.kit)
    lists = allow_list.read(args.allow) if args.allow else allow_list.allow_list()
    done = {
        "resources.json": write_changed(
            kit.local / "resources.json", lambda found: allow_list.resources(found, kit.role, lists[kit.role])
        ),
        "authorization.json": write_changed(kit.local / "authorization.json", allow_list.authorization),
    }
    for name, changed in done.items():
        print(f"{'written' if changed else 'as it was'}: {_shown(kit.local / name)}")
    for path in kit.secrets():
        if readable_by_others(path):
            path.chmod(0o600)
            print(f"now readable by its owner only: {_shown(path)}")
    print(f"this {kit.role} builds {len(lists[kit.role])} classes and takes no code; start it (anew) to apply this")
    return DONE


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
