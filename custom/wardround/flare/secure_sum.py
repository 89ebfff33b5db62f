"""The component that a site's executor and its exit share in jobs with a hidden sum: keys, secrets, the current call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent
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

FOLDER, ID = "secure", "secure_sum"


class SecureSum(FLComponent):  # type: ignore[misc]
    """One site's half of the sum. protection: the job's promise | seed: the job's, for stochastic rounding.

    noise: the promise of hospital-level DP, None without; one that is not made for this sum: ConfigRefused

    model, initial, settings: digest and weights of the global model that this round starts from, and a digest of what
    shapes an update, as the executor says

    no key file under encryption, no certificate of this project: ConfigRefused with the file's name, nothing is sent
    """

    def __init__(self, protection: Protection, seed: int, noise: HospitalDP | None = None) -> None:
        super().__init__()
        if protection is None or seed is None:
            raise ConfigRefused(
                "the job's secure_sum", found="no protection or no seed", expected="both", fix="print the job anew"
            )
        if noise is not None:
            require_one_sum(noise, protection)
        self.protection, self.seed, self.noise = protection, seed, noise
        self._site: SumSite | None = None
        self._call: Call | None = None
        self.model, self.initial, self.settings = "", dict[str, Array](), ""

    @property
    def call(self) -> Call:
        """Return the call that the executor is answering; none: ConfigRefused."""
        if self._call is None:
            raise ConfigRefused(
                "the exit of a hidden sum",
                found="no call to answer",
                expected="the executor SecureSite in the same process",
                fix="print the job anew",
            )
        return self._call

    def begin(self, call: Call) -> None:
        """Note what is being answered."""
        self._call = call

    def open(self, fl_ctx: FLContext) -> SumSite:
        """Return this site's sum, opened once per process."""
        if self._site is None:
            name, startup = fl_ctx.get_identity_name(), startup_folder(fl_ctx)
            if places.in_simulator(fl_ctx):
                simulated_kits.site_kit(places.simulated_kits_folder(fl_ctx), name, startup)
            key = sum_key.read_site(startup) if self.protection.encryption else None
            key_id = sum_key.key_id(key) if key else ""
            folder = places.state_folder(fl_ctx) / FOLDER
            promise = kept_settings.digest_of(self.protection, self.noise)
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
            fix="print the job anew",
        )


def startup_folder(fl_ctx: FLContext) -> Path:
    """Return where provisioning put this party's kit."""
    return places.workspace_root(fl_ctx) / "startup"


def secure_sum_of(fl_ctx: FLContext) -> SecureSum:
    """Return the job's one component under the id ID; anything else: ConfigRefused. No job names another: two sums of one
    update, each with sites and noise of its own, would be two releases.
    """
    found: Any = fl_ctx.get_engine().get_component(ID)
    if not isinstance(found, SecureSum):
        raise ConfigRefused(
            f"the component {ID!r}",
            found=type(found).__name__,
            expected="a wardround.flare.secure_sum.SecureSum",
            fix="print the job anew",
        )
    return found
