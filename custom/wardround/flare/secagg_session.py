"""One site's half of a secure sum in this process: keys, secrets, the call that is being answered.

The executor and the outbound filter share it through the component `outbound`.
"""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.fl_context import FLContext

from wardround.arrays import Array
from wardround.errors import ConfigRefused
from wardround.flare import kept_settings, places
from wardround.flare.sealed import Call
from wardround.privacy import simulated_kits, sum_key
from wardround.privacy.hospital_dp import HospitalDP
from wardround.privacy.identity import Authority, Identity
from wardround.privacy.participant import Participant
from wardround.privacy.protection import Protection
from wardround.privacy.roster import job_digest
from wardround.privacy.sum_site import SumSite

FOLDER = "secure"


class SecAggSession:
    """What lives as long as the process; all that must outlive it is in the state folder.

    noise: the job's promise of hospital-level DP, None without; one that is not made for this sum: ConfigRefused
    settings, seed: a digest of what shapes an update, and the job's seed for stochastic rounding, as the executor says
    model, initial: digest and weights of the global model that this round starts from
    """

    def __init__(self, protection: Protection, noise: HospitalDP | None) -> None:
        if noise is not None:
            require_one_sum(noise, protection)
        self.protection, self.noise = protection, noise
        self.settings, self.seed = "", 0
        self.model, self.initial = "", dict[str, Array]()
        self._site: SumSite | None = None
        self._call: Call | None = None

    @property
    def call(self) -> Call:
        """Return the call that the executor is answering; none: ConfigRefused."""
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
        self._call, self.settings, self.seed = call, settings, seed

    def open(self, fl_ctx: FLContext) -> SumSite:
        """Return this site's sum, opened once per process.

        no key file under encryption, no certificate of this project: ConfigRefused with the file's name, nothing is sent
        """
        if self._site is None:
            name, startup = fl_ctx.get_identity_name(), startup_folder(fl_ctx)
            if places.in_simulator(fl_ctx):
                simulated_kits.site_kit(places.simulated_kits_folder(fl_ctx), name, startup)
            key = sum_key.read_site(startup) if self.protection.encryption else None
            key_id = sum_key.key_id(key) if key else ""
            folder = places.state_folder(fl_ctx) / FOLDER
            promise = kept_settings.digest_of(self.protection, self.noise)
            # Before any secret is read: secrets of another promise must not mask a second sum of the same update.
            kept_settings.require_same(folder, promise, "the protection that its secrets were prepared under")
            identity, authority = Identity.load(startup, name), Authority.load(startup)
            job = job_digest(fl_ctx.get_job_id(), self.protection, self.seed, self.noise, self.settings)
            participant = Participant(self.protection, identity, authority, key_id, folder, job)
            self._site = SumSite(self.protection, participant, key, folder, self.seed, self.noise)
        return self._site


def require_one_sum(noise: HospitalDP, protection: Protection) -> None:
    """Raise ConfigRefused unless the noise is made for this sum.

    hidden: only masks keep everybody from reading a single update; under encryption alone, every hospital holds the key
    """
    expected = (protection.sites, protection.min_sites, protection.bits, protection.masks, "equal")
    found = (noise.sites, noise.min_sites, noise.bits, noise.hidden, protection.weights)
    if found != expected:
        names = ("sites", "min_sites", "bits", "hidden", "weights")
        wrong = [f"{name} {a}, expected {b}" for name, a, b in zip(names, found, expected, strict=True) if a != b]
        raise ConfigRefused(
            "hospital-level noise for a sum",
            found="; ".join(wrong),
            expected="what the sum has, hidden only with masks, weights equal (weights must be public)",
            fix="print the job again with `wardround jobs write`",
        )


def startup_folder(fl_ctx: FLContext) -> Path:
    """Return where provisioning put this party's kit."""
    return places.workspace_root(fl_ctx) / "startup"
