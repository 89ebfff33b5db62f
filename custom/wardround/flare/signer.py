"""Who signed the job that runs here: it must be a lead of the project, and nobody else.

NVFlare's own check asks only that SOME certificate of the project signed a deployed
app, and the server's and every hospital's do. So a server could write a job, sign it
and have it run everywhere. Here the role in the signer's certificate decides: only an
administrator has one, and only the roles that the hospital names count. The folder that
is checked is the one that NVFlare deployed for this job. It could be deployed twice:
first the server's own app, which is loaded, and then a lead's, which lies there when
the signature is checked. So what the process has loaded is compared with what is
signed, value by value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE
from nvflare.lighter.utils import verify_folder_signature_and_get_signers
from nvflare.private.fed.client.client_run_manager import ClientRunManager

from wardround.core.errors import ReleaseRefused
from wardround.flare import workspaces

ROOT, CONFIG = "rootCA.pem", "config_fed_client.json"


def require_lead(fl_ctx: FLContext, roles: Sequence[str]) -> None:
    """Raise ReleaseRefused unless every file of the deployed app is signed, and every
    signer has one of these roles.
    """
    app = Path(fl_ctx.get_engine().get_workspace().get_app_dir(str(fl_ctx.get_job_id())))
    wanted = f"an app signed by a certificate of the project with the role {' or '.join(roles)}"
    if not (app / NVFLARE_SIG_FILE).is_file():
        raise _refused("no signature", wanted)
    whole, signers = verify_folder_signature_and_get_signers(
        str(app), str(workspaces.workspace_root(fl_ctx) / "startup" / ROOT)
    )
    if not whole or not signers:
        raise _refused("a signature that does not fit the files", wanted)
    others = [
        f"{name} ({role or 'no administrator: a server or a site'})" for name, _, role in signers if role not in roles
    ]
    if others:
        raise _refused(f"one signed by {', '.join(others)}", wanted)
    engine = fl_ctx.get_engine()
    loaded = getattr(engine, "conf", None)
    if loaded is None and not isinstance(engine, ClientRunManager):
        return  # This is not a process of NVFlare's: nothing was loaded from a folder.
    if not is_built_from(
        getattr(loaded, "config_data", None), json.loads((app / "config" / CONFIG).read_text(encoding="utf-8"))
    ):
        raise _refused("a signed configuration that is not the one that runs", "one deployment, without variables")


def is_built_from(running: Any, signed: Any) -> bool:
    """Tell whether what NVFlare has loaded says what a signed JSON says.

    NVFlare puts built objects where the JSON names classes, so an object is compared by
    its class and by the attributes of its arguments' names.
    """
    if isinstance(signed, dict) and isinstance(running, dict):
        return signed.keys() == running.keys() and all(is_built_from(running[key], signed[key]) for key in signed)
    if isinstance(signed, list):
        fits = isinstance(running, (list, tuple)) and len(running) == len(signed)
        return fits and all(is_built_from(one, other) for one, other in zip(running, signed, strict=True))
    if isinstance(signed, dict):
        named = f"{type(running).__module__}.{type(running).__name__}" == signed.get("path")
        arguments = signed.get("args") or {}
        return named and all(
            hasattr(running, name) and is_built_from(getattr(running, name), value) for name, value in arguments.items()
        )
    # Types are compared too, because True == 1 and 1 == 1.0 in Python.
    return type(running) is type(signed) and bool(running == signed)


def _refused(found: str, expected: str) -> ReleaseRefused:
    """Return the refusal of a job that no lead signed."""
    fix = "let a lead submit the job (`wardround jobs submit`), and ask who else did"
    return ReleaseRefused("the signature of this job", found=found, expected=expected, fix=fix)
