"""The option `--like FOLDER` gives a job the classes, modalities, columns and size of a
folder of labelled images.
"""

from __future__ import annotations

import argparse
from typing import Any

from wardround.core.errors import Refusal


class _Like(argparse.Action):
    """The action of `--like`. It puts the folder's settings in front of those of --set,
    so that --set wins.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _: Any = None,
    ) -> None:
        from wardround.cli.cmd_partition_labels import opened, settings_for

        try:
            settings = settings_for(opened(str(values), None, None).data)
        except Refusal as refusal:
            parser.error(f"--like {values}: {refusal}")
        namespace.set = [*settings, *namespace.set]


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the option beside --set."""
    parser.add_argument(
        "--like",
        action=_Like,
        metavar="FOLDER",
        help="take classes, modalities, columns and size from FOLDER/dataset.json (jobs for labelled images); --set changes them",
    )
