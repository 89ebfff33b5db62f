"""One site's half of a secure sum in this process: keys, secrets, and the open call.

The executor and the outbound filter share it through the component `outbound`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.compression.chosen import Compression
from wardround.compression.linear import cycle_of
from wardround.core import kept_settings
from wardround.core.arrays import Array
from wardround.core.errors import ConfigRefused
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.joint_dp import JointDP
from wardround.flare import workspaces
from wardround.flare.secagg_messages import Call
from wardround.messages.identity import Authority, Identity
from wardround.secagg import encryption_key, simulated_kits
from wardround.secagg.client import SecAggClient
from wardround.secagg.key_agreement import KeyAgreement
from wardround.secagg.roster import job_digest
from wardround.secagg.spec import SecAggSpec

FOLDER = "secure"


class SecAggSession:
    """What lives as long as the process. The rest is in the state folder.

    Noise that is not made for this sum is a ConfigRefused.

    secagg: the job's settings of secure aggregation.
    noise: the job's settings of the noise that is added to updates, or None without it.
    settings: a digest of what shapes an update, as the executor states it.
    seed: the job's seed for stochastic rounding.
    model: the digest of the global model that this round starts from.
    initial: the weights of that model.
    public: what the job's compression has kept of the revealed means.
    compression: the job's compression, which takes over what coding leaves over, or
        None without it.
    names: the names that may leave. A site whose list is another one does not join.
    """

    def __init__(
        self,
        secagg: SecAggSpec,
        noise: HospitalDP | JointDP | None,
        compression: Compression | None = None,
        names: Sequence[str] = (),
    ) -> None:
        if noise is not None:
            require_one_sum(noise, secagg)
        self.secagg = secagg
        self.noise = noise
        self.settings = ""
        self.seed = 0
        self.model = ""
        self.initial = dict[str, Array]()
        self.public = dict[str, Any]()
        self._names = tuple(sorted(names))
        self._cycle = 1 if compression is None else cycle_of(compression)
        self._carries = compression is None
        self._site: SecAggClient | None = None
        self._call: Call | None = None

    @property
    def call(self) -> Call:
        """Return the call that the executor is answering; none is a ConfigRefused."""
        if self._call is None:
            raise ConfigRefused(
                "the outbound filter of a secure sum",
                found="no call to answer",
                expected="the executor SiteExecutor in the same process",
                fix="print the job again with `wardround jobs write`",
            )
        return self._call

    def begin(self, call: Call, settings: str, seed: int) -> None:
        """Note what is being answered, and by a job of which settings."""
        self._call = call
        self.settings = settings
        self.seed = seed

    def open(self, fl_ctx: FLContext) -> SecAggClient:
        """Return this site's end of the sum, opened once per process.

        Under encryption a missing key file is a ConfigRefused that names the file, and
        so is a certificate of another project. Then nothing is sent.
        """
        if self._site is None:
            name, startup = fl_ctx.get_identity_name(), startup_folder(fl_ctx)
            if workspaces.in_simulator(fl_ctx):
                simulated_kits.site_kit(workspaces.simulated_kits_folder(fl_ctx), name, startup)
            key = encryption_key.read_site(startup) if self.secagg.encryption else None
            key_id = encryption_key.key_id(key) if key else ""
            folder = workspaces.state_folder(fl_ctx) / FOLDER
            promise = kept_settings.digest_of(self.secagg, self.noise)
            # Checked before any secret is read: secrets of another promise must not
            # mask a second sum of the same update.
            kept_settings.require_same(folder, promise, "the protection that its secrets were prepared under")
            identity, authority = Identity.load(startup, name), Authority.load(startup)
            job = job_digest(fl_ctx.get_job_id(), self.secagg, self.seed, self.noise, self.settings, self._names)
            agreement = KeyAgreement(self.secagg, identity, authority, key_id, folder, job)
            self._site = SecAggClient(
                self.secagg, agreement, key, folder, self.seed, self.noise, self._cycle, self._carries
            )
        return self._site


def require_one_sum(noise: HospitalDP | JointDP, secagg: SecAggSpec) -> None:
    """Raise ConfigRefused unless the noise is made for this sum.

    Shared noise needs masks: only masks keep everybody from reading a single update.
    Under encryption alone, every hospital holds the key.
    """
    expected = (secagg.sites, secagg.min_clients, secagg.bits, secagg.masks, "equal")
    found = (noise.sites, noise.min_clients, noise.bits, noise.distributed, secagg.weights)
    if found != expected:
        names = ("sites", "min_clients", "bits", "distributed", "weights")
        wrong = [f"{name} {a}, expected {b}" for name, a, b in zip(names, found, expected, strict=True) if a != b]
        raise ConfigRefused(
            f"{noise.release.unit}-level noise for a sum",
            found="; ".join(wrong),
            expected="what the sum has, hidden only with masks, weights equal (weights must be public)",
            fix="print the job again with `wardround jobs write`, with --set secagg.masks=true where the noise is shared",
        )
    # Two sets of hospitals that open two sums of one round share more than the colluders, or the difference of the
    # sums would be one hospital's with its own share of the noise alone. The usual threshold, all but one, is enough.
    split = [
        n for n in range(secagg.min_clients, secagg.sites + 1) if 2 * secagg.threshold_of(n) <= n + noise.colluders
    ]
    if secagg.threshold and split:
        raise ConfigRefused(
            f"{noise.release.unit}-level noise for a sum",
            found=f"secagg.threshold {secagg.threshold}: of {split[0]} hospitals two groups could open different sums, with "
            f"{noise.colluders} that help both",
            expected="twice the threshold above the hospitals and the colluders together",
            fix="--set secagg.threshold=0 (all but one must help)",
        )


def startup_folder(fl_ctx: FLContext) -> Path:
    """Return the folder in which provisioning put this party's kit."""
    return workspaces.workspace_root(fl_ctx) / "startup"
