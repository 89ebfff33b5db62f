"""One party of NVFlare takes deployed apps, as its parent process does: its own start code, deployer, and config loader.

Run as a program in a process of its own, because a hardened party changes what its process reads:
    deploy_app.py KIT SIDE APP...    prints a JSON list of {"refused": words or "", "config": what was loaded, or null}
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.fuel.sec.audit import AuditService
from nvflare.fuel.sec.authz import AuthorizationService
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.private.fed.app.fl_conf import FLClientStarterConfiger, FLServerStarterConfiger
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.private.fed.utils.app_deployer import AppDeployer
from nvflare.private.privacy_manager import PrivacyManager, PrivacyService
from nvflare.security.security import FLAuthorizer


def start(kit: Path, side: str) -> Workspace:
    """Read the kit's configs and build its components, as a parent process does before it connects."""
    name = "site-1" if side == "client" else "server"
    workspace = Workspace(str(kit), name)
    words = [f"uid={name}", "secure_train=True", "org=hospital", "host=localhost"]
    args = argparse.Namespace(workspace=str(kit), job_id=None, set=words)
    make = FLClientStarterConfiger if side == "client" else FLServerStarterConfiger
    party = make(workspace=workspace, args=args, kv_list=words)
    party.configure()
    file = Path(workspace.get_authorization_file_path())
    AuthorizationService.initialize(FLAuthorizer("hospital", json.loads(file.read_text())))
    AuditService.initialize(str(kit / "audit.log"))
    AppAuthzService.initialize(party.app_validator)
    PrivacyService.initialize(PrivacyManager(scopes=None, default_scope_name=None, components=None))
    return workspace


def zipped(app: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for path in sorted(app.rglob("*")):
            if path.is_file():
                made.write(path, path.relative_to(app).as_posix())
    return out.getvalue()


def deploy(workspace: Workspace, side: str, app: Path, number: int) -> dict[str, Any]:
    job = f"job-{number}"
    try:
        refused = AppDeployer().deploy(workspace, job, {"name": "job"}, "app", zipped(app), FLContext())
    except Exception as error:  # noqa: BLE001 - NVFlare tells the server this text
        return {"refused": str(error), "config": None}
    if refused:
        return {"refused": refused, "config": None}
    folder = workspace.get_app_config_dir(job)
    return {"refused": "", "config": ConfigService.load_config_dict(f"config_fed_{side}.json", [folder])}


def main(kit: str, side: str, *apps: str) -> None:
    workspace = start(Path(kit), side)
    found = [deploy(workspace, side, Path(app), number) for number, app in enumerate(apps)]
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
