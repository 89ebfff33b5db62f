"""A builder for `nvflare provision` and `nvflare poc`: one sum key for the sites, its id alone for the server.

In project.yml, before SignatureBuilder (which signs what the kits hold):

    builders:
      - path: wardround.flare.provision.SumKeyBuilder
        args: {}
"""

from __future__ import annotations

from pathlib import Path

from nvflare.lighter.entity import Project
from nvflare.lighter.spec import Builder, ProvisionContext

from wardround.core import files
from wardround.privacy import sum_key

STATE = "wardround_sum_key"


class SumKeyBuilder(Builder):  # type: ignore[misc]
    """Writes startup/wardround_sum_key.key for every site and startup/wardround_sum_public.json for the server.

    Provisioned again (a site added later), the key of the project's state folder is kept, so that old kits stay valid.
    That folder also holds the root's private key, in a file that NVFlare writes for everybody to read (state/cert.json): the
    folder itself is closed to others here.
    """

    def build(self, project: Project, ctx: ProvisionContext) -> None:
        """Write the files of all parties."""
        kept = files.private_folder(Path(ctx.get_state_dir())) / STATE
        seed = sum_key.read_site(kept) if (kept / sum_key.SITE_FILE).is_file() else sum_key.new_seed()
        sum_key.write_site(kept, seed)
        server = project.get_server()
        if server:
            sum_key.write_server(Path(ctx.get_kit_dir(server)), seed)
        for client in project.get_clients():
            sum_key.write_site(Path(ctx.get_kit_dir(client)), seed)
