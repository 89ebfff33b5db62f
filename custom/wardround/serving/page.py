"""The one page of the service: a form for one case. It loads nothing from anywhere, and
only its own script runs in it.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from wardround.export.bundle_text import NOT_A_DEVICE
from wardround.reports.html import environment
from wardround.tasks.brain_tumours import SEQUENCES


def _own(name: str) -> str:
    """Return a file beside the template. It is printed without escaping, because it is
    ours and no value goes into it.
    """
    return resources.files("wardround.serving").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


STYLE = _own("page.css")
SCRIPT = _own("page.js")
PAGE = (
    environment("wardround.serving")
    .get_template("page.html")
    .render(notice=NOT_A_DEVICE, sequences=SEQUENCES, style=STYLE, script=SCRIPT)
)
POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
