"""Two builders for `nvflare provision` and `nvflare poc`: one sum key for the sites,
and a signature over every kit.

In project.yml, the key comes before the certificates, and the signatures come last:

    builders:
      - path: wardround.flare.provision.SumKeyBuilder
        args: {}
      - path: nvflare.lighter.impl.cert.CertBuilder
      - path: wardround.flare.provision.KitSigner
        args: {}
"""

from __future__ import annotations

from pathlib import Path

from nvflare.lighter.constants import CtxKey, ProvFileName
from nvflare.lighter.entity import Project
from nvflare.lighter.spec import Builder, ProvisionContext
from nvflare.lighter.utils import sign_folders

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.secagg import encryption_key

STATE = "wardround_sum_key"


class SumKeyBuilder(Builder):  # type: ignore[misc]
    """Writes startup/wardround_sum_key.key for every site and
    startup/wardround_sum_public.json for the server.

    When a project is provisioned again (a site is added later), the key in the
    project's state folder is kept, so that old kits stay valid. That folder also holds
    the root's private key, in a file that NVFlare writes for everybody to read
    (state/cert.json), so the folder itself is closed to others here.
    """

    def build(self, project: Project, ctx: ProvisionContext) -> None:
        """Write the files of all parties."""
        kept = files.private_folder(Path(ctx.get_state_dir())) / STATE
        seed = (
            encryption_key.read_site(kept) if (kept / encryption_key.SITE_FILE).is_file() else encryption_key.new_seed()
        )
        encryption_key.write_site(kept, seed)
        server = project.get_server()
        if server:
            encryption_key.write_server(Path(ctx.get_kit_dir(server)), seed)
        for client in project.get_clients():
            encryption_key.write_site(Path(ctx.get_kit_dir(client)), seed)


class KitSigner(Builder):  # type: ignore[misc]
    """Signs startup/ and local/ of the server's and every site's kit with the project's
    root key.

    NVFlare's own SignatureBuilder signs only kits that hold its CKKS contexts or run
    confidentially. `wardround preflight` sees by these signatures whether a file was
    changed after provisioning.
    """

    def build(self, project: Project, ctx: ProvisionContext) -> None:
        """Write signature.json into the folders; without a root key: ConfigRefused."""
        root_key = ctx.get(CtxKey.ROOT_PRI_KEY)
        if root_key is None:
            raise ConfigRefused(
                "the signatures of the startup kits",
                found="no root key",
                expected="the key that CertBuilder makes",
                fix="place wardround.flare.provision.KitSigner after CertBuilder in project.yml",
            )
        server = project.get_server()
        for party in [*([server] if server else []), *project.get_clients()]:
            for folder in (ctx.get_kit_dir(party), ctx.get_local_dir(party)):
                sign_folders(folder, root_key, signature_file=ProvFileName.SIGNATURE_JSON)
