"""Where NVFlare's stock CKKS components find their keys: checked at every site, made by itself only in the simulator.

Real sites have them from HEBuilder in their startup kit. In the simulator the first party that asks makes one pair for the
whole run beside the parties' folders (a run deletes the pair of the run before), and each party copies ITS file to where
NVFlare reads it: a site the context with the secret key, the server the one without.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.app_opt.he.homomorphic_encrypt import load_tenseal_context_from_workspace
from nvflare.fuel.sec.security_content_service import SecurityContentService

from wardround.errors import ConfigRefused
from wardround.flare import places

SITE_FILE, SERVER_FILE = "client_context.tenseal", "server_context.tenseal"
KEYS = "ckks_keys"


class StockKeys(FLComponent):  # type: ignore[misc]
    """Component of both sides of a stock CKKS job, the first in the list: the others read their file at START_RUN.

    context_file: SITE_FILE or SERVER_FILE | the other three: HEBuilder's settings, used in the simulator only
    no file, one that NVFlare does not trust, a server with the secret key, a site without it: an error in this party's log;
    the server then ends the run, a site fails its first task (NVFlare's filters refuse to work without a context)
    """

    def __init__(
        self, context_file: str, poly_modulus_degree: int, coeff_mod_bit_sizes: list[int], scale_bits: int
    ) -> None:
        super().__init__()
        if context_file not in (SITE_FILE, SERVER_FILE) or not (
            poly_modulus_degree and coeff_mod_bit_sizes and scale_bits
        ):
            raise ConfigRefused(
                "the job's CKKS keys",
                found=f"{context_file!r}, {poly_modulus_degree}, {coeff_mod_bit_sizes}, {scale_bits}",
                expected=f"{SITE_FILE} or {SERVER_FILE}, and HEBuilder's three settings",
                fix="print the job anew",
            )
        self.context_file, self.scale_bits = context_file, scale_bits
        self.poly_modulus_degree, self.coeff_mod_bit_sizes = poly_modulus_degree, coeff_mod_bit_sizes

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Act before the stock components do: a site has an event for that, the server the order of its components."""
        if event_type != (EventType.START_RUN if self.context_file == SERVER_FILE else EventType.ABOUT_TO_START_RUN):
            return
        try:
            if places.in_simulator(fl_ctx):
                self._provide(places.workspace_root(fl_ctx).parent)
            self.require(fl_ctx)
        except ConfigRefused as refusal:
            self.log_error(fl_ctx, f"REFUSED by {fl_ctx.get_identity_name()} ({refusal.code}): {refusal}")
            if self.context_file == SERVER_FILE:
                self.system_panic(f"the run cannot start: {refusal}", fl_ctx)

    def require(self, fl_ctx: FLContext) -> None:
        """Raise ConfigRefused unless NVFlare can read this party's context and it is the right one of the two."""
        try:
            context = load_tenseal_context_from_workspace(self.context_file, fl_ctx)
        except (ValueError, RuntimeError) as error:  # RuntimeError: the library cannot read the bytes
            raise self._refused(str(error)[:200]) from error
        if context.is_private() != (self.context_file == SITE_FILE):
            raise self._refused(f"one {'with' if context.is_private() else 'without'} the secret key")

    def _provide(self, simulator: Path) -> None:
        folder = simulator / KEYS
        if not folder.is_dir():
            self._make(folder)
        target = Path(SecurityContentService.content_folder) / self.context_file
        shutil.copyfile(folder / self.context_file, target)
        if self.context_file == SITE_FILE:
            target.chmod(0o600)

    def _make(self, folder: Path) -> None:
        """Write both files into `folder`; when another party was faster, its files stand and these are dropped."""
        from nvflare.lighter.impl.he import HEBuilder

        builder = HEBuilder(self.poly_modulus_degree, list(self.coeff_mod_bit_sizes), self.scale_bits, "CKKS")
        builder.initialize(None, None)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ckks.") as place:
            made = Path(place) / KEYS
            made.mkdir(mode=0o700)
            for name, secret in ((SITE_FILE, True), (SERVER_FILE, False)):
                (made / name).write_bytes(builder.get_serialized_context(is_client=secret))
            with contextlib.suppress(OSError):
                made.rename(folder)

    def _refused(self, found: str) -> ConfigRefused:
        server = self.context_file == SERVER_FILE
        return ConfigRefused(
            f"the CKKS context {self.context_file} in this {'server' if server else 'site'}'s startup folder",
            found=found,
            expected=f"HEBuilder's file {'without' if server else 'with'} the secret key",
            fix="provision with HEBuilder placed before SignatureBuilder, and deliver the startup kits anew",
        )
