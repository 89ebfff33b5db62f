"""Who signed the job that runs here: a lead of the project, and nobody else.

NVFlare's own check asks only that SOME certificate of the project signed a deployed app; the server's and every hospital's do.
So a server could write a job, sign it and have it run everywhere. Here the role in the signer's certificate decides: only an
administrator has one, and only the roles that the hospital names count. The folder is the one that NVFlare deployed for this
job. That its files are the ones that were loaded cannot be seen from here: who deploys the same job id twice, first his own
and then a lead's, passes this check with settings of his own; what they promise is checked in the running objects, elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvflare.apis.fl_context import FLContext
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE
from nvflare.lighter.utils import verify_folder_signature_and_get_signers

from wardround.errors import ReleaseRefused
from wardround.flare import places

ROOT = "rootCA.pem"


def require_lead(fl_ctx: FLContext, roles: Sequence[str]) -> None:
    """Raise ReleaseRefused unless every file of the deployed app is signed, and every signer has one of these roles."""
    app = Path(fl_ctx.get_engine().get_workspace().get_app_dir(str(fl_ctx.get_job_id())))
    wanted = f"an app signed by a certificate of the project with the role {' or '.join(roles)}"
    if not (app / NVFLARE_SIG_FILE).is_file():
        raise _refused("no signature", wanted)
    whole, signers = verify_folder_signature_and_get_signers(
        str(app), str(places.workspace_root(fl_ctx) / "startup" / ROOT)
    )
    if not whole or not signers:
        raise _refused("a signature that does not fit the files", wanted)
    others = [
        f"{name} ({role or 'no administrator: a server or a site'})" for name, _, role in signers if role not in roles
    ]
    if others:
        raise _refused(f"one signed by {', '.join(others)}", wanted)


def _refused(found: str, expected: str) -> ReleaseRefused:
    fix = "let a lead submit the job (`wardround jobs submit`), and ask who else did"
    return ReleaseRefused("the signature of this job", found=found, expected=expected, fix=fix)
