"""`wardround sites` prepares a hospital (or the server) once, so that it runs jobs
without code, and no others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from wardround.core.terminal import DONE, command, existing, folder, group

SITES = """
Set up a site, or the server, as a real one must be run: it runs only reviewed code (its own installed wardround, and of that
only listed classes), obeys only what a job needs, and keeps its secrets where NVFlare does not look.

  wardround sites init /opt/nvflare/site-1 --data /data/brats --name "North Hospital"
  wardround sites allow-list
  wardround sites harden /opt/nvflare/site-1
"""
ALLOW = """
Print the classes that jobs name, as {"site": [...], "server": [...]}: those of all jobs of this version, or of the named ones.
poc_workspace/local/class_allow_list.json is this list. A hospital that wants fewer deletes lines, or names jobs.

  wardround sites allow-list --out my_list.json
  wardround sites allow-list brats_perfedavg brats_fedavg_he
"""
HARDEN = """
Write two files into local/ of a startup kit, before the party is started:

  resources.json      what was there, with the class allow-list, enforced. At a site: no log streaming, and the component that
                      makes its NVFlare ignore the shell, log configuration, deletion, restart and shutdown, whoever asks.
                      At a server: jobs and results in KIT/storage instead of a temporary folder, and the component Rejoin
  authorization.json  what was there, with no role that may bring code, use a shell or, at a site, operate it from elsewhere

Secret files become readable by their owner only. The private folder beside the kit (KIT.private) is made for secrets, state
and reasons of refusals. startup/ is signed and stays as it is. Harden the server's kit too, because the server builds its own
half of a job. Other settings in these files are kept, and running the command twice changes nothing.

A job whose meta.json asks for a container image of its own counts as code for NVFlare too. What a lead then sees:
poc_workspace/README.md.

  wardround sites harden /opt/nvflare/site-1
  wardround sites harden /opt/nvflare/site-1 --allow my_list.json
"""
INIT = """
Set up a hospital's site from its startup kit in one command. It does what `sites harden` does, writes where the data are, makes
a folder for state that outlives a job, sets a budget and a privacy policy, and then runs `preflight`, whose exit code it
returns. For a server's kit it does the same without data. A file of local/ that is already there and says something else is
never overwritten: the command names it and does nothing.

  wardround sites init /opt/nvflare/site-1 --data /data/brats --name "North Hospital"
  wardround sites init /opt/nvflare/site-1 --data /data/brats --budget patient=8,1e-5 --privacy poc_workspace/privacy.json
  wardround sites init /opt/nvflare/server
"""


def add(commands: Any) -> None:
    """Declare the commands."""
    inner = group(
        commands,
        "sites",
        "set up a site, or the server, for real work",
        SITES,
    )
    begin = command(
        inner,
        "init",
        "harden, say where the data is, check: all in one",
        INIT,
        init,
    )
    begin.add_argument(
        "kit",
        type=existing,
        metavar="KIT",
        help="the party's workspace: startup/ and local/ lie in it",
    )
    begin.add_argument(
        "--data",
        type=existing,
        metavar="DIR",
        help="a site's: the folder of its cases",
    )
    begin.add_argument(
        "--name",
        metavar="NAME",
        help="how reports call the site; default: its name in the project",
    )
    begin.add_argument(
        "--budget",
        metavar="UNIT=E,D",
        help="the most that may ever be spent, for example patient=8,1e-5",
    )
    begin.add_argument(
        "--privacy",
        type=existing,
        metavar="FILE",
        help="the site's own privacy.json",
    )
    begin.add_argument(
        "--job",
        metavar="JOB",
        help="the job that preflight tries; default: one that fits the data",
    )
    begin.add_argument(
        "--skip",
        metavar="A,B",
        help="checks of preflight to leave out, for example round",
    )
    listed = command(
        inner,
        "allow-list",
        "print the classes that jobs name",
        ALLOW,
        allow_list,
    )
    listed.add_argument(
        "names",
        nargs="*",
        metavar="JOB",
        help="names of jobs, or their folders; default: all",
    )
    listed.add_argument(
        "--out",
        type=folder,
        metavar="FILE",
        help="write it there; default: print it",
    )
    hard = command(
        inner,
        "harden",
        "deny code and list classes at one party",
        HARDEN,
        harden,
    )
    hard.add_argument(
        "kit",
        type=existing,
        metavar="KIT",
        help="the party's workspace: startup/ and local/ lie in it",
    )
    hard.add_argument(
        "--storage",
        type=folder,
        metavar="DIR",
        help="a server's: where it will keep jobs; default: KIT/storage",
    )
    hard.add_argument(
        "--allow",
        type=existing,
        metavar="FILE",
        help="an edited list; default: the classes of all jobs",
    )


def allow_list(args: argparse.Namespace) -> int:
    """Print or write the lists of classes that jobs may name."""
    from wardround.jobs.allow_list import named_by
    from wardround.jobs.folder import printed

    lists = named_by(args.names)
    _tell_strangers(lists)
    text = printed(dict(lists))
    if args.out is None:
        print(text, end="")
        return DONE
    from wardround.core import files

    files.write(args.out, text)
    print(f"written: {args.out}")
    return DONE


def harden(args: argparse.Namespace) -> int:
    """Write the hardened resources.json and authorization.json of one party."""
    from wardround.core import files
    from wardround.flare import workspaces
    from wardround.flare.kit import SERVER, open_kit, readable_by_others, write_changed
    from wardround.jobs import allow_list
    from wardround.ops import hardening

    kit = open_kit(args.kit)
    lists = allow_list.read(args.allow) if args.allow else allow_list.allow_list()
    _tell_strangers(lists)
    storage = (args.storage or kit.root / hardening.STORAGE).absolute()

    def resources(found: dict[str, Any]) -> dict[str, Any]:
        listed = hardening.with_components(
            allow_list.resources(found, kit.role, lists[kit.role]),
            kit.role,
        )
        return hardening.with_storage(listed, storage, every=args.storage is not None) if kit.role == SERVER else listed

    done = {
        "resources.json": write_changed(kit.local / "resources.json", resources),
        "authorization.json": write_changed(
            kit.local / "authorization.json",
            lambda found: allow_list.authorization(found, kit.role),
        ),
    }
    for name, changed in done.items():
        print(f"{'written' if changed else 'as it was'}: {_shown(kit.local / name)}")
    for path in kit.secrets():
        if readable_by_others(path):
            # Only the user that runs the site may read which resources and limits it
            # has.
            path.chmod(0o600)
            print(f"now readable by its owner only: {_shown(path)}")
    made = [workspaces.make_private(kit.root)]
    if kit.role == SERVER and args.storage is None:
        made.append(files.private_folder(storage))
    for path in made:
        print(f"for its owner only: {path}")
    print(f"this {kit.role} builds {len(lists[kit.role])} classes and takes no code; restart it to apply this")
    return DONE


def init(args: argparse.Namespace) -> int:
    """Set up one party from its startup kit."""
    from wardround.cli import cmd_preflight
    from wardround.flare.kit import open_kit
    from wardround.ops import site_init

    kit = open_kit(args.kit)
    files = site_init.files(kit, args.data, args.name, args.budget, args.privacy)
    site_init.require_same(files)
    harden(argparse.Namespace(kit=args.kit, allow=None, storage=None))
    for path in site_init.write(files):
        print(f"written: {_shown(path)}")
    asked = {
        "kit": args.kit,
        "job": args.job,
        "skip": args.skip,
        "only": None,
        "started": False,
        "json": False,
    }
    print()
    return cmd_preflight.run(argparse.Namespace(**asked))


def _tell_strangers(lists: dict[str, list[str]]) -> None:
    """Print on stderr what a list lets jobs build beside wardround's own classes.
    Whether to keep it is the hospital's decision.
    """
    from wardround.jobs.allow_list import strangers

    if found := strangers(lists):
        print(
            f"NOT OF WARDROUND, any lead may have it built here, with any arguments: {', '.join(found)}",
            file=sys.stderr,
        )
        print(
            "read the code of each before you list it; delete what you do not know",
            file=sys.stderr,
        )


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
