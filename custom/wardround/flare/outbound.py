"""The settings of everything that leaves this site, stated once in the job's JSON: the
component `outbound`.

The executor reads it before it trains (what is reserved), the outbound filter runs it,
the ledger is charged from it, and the site's own policy compares it with what the
hospital insists on. None of them holds a setting of its own, so no two can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext

from wardround.compression.chosen import Compression
from wardround.core import kept_settings
from wardround.core.errors import ConfigRefused
from wardround.core.traits import Part, leaving, require_fit
from wardround.dp.charged import Charged
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.joint_dp import JointDP
from wardround.dp.joint_release import JointRelease
from wardround.dp.patient_dp import PatientDP
from wardround.dp.patient_release import PatientRelease
from wardround.flare.ledger_adapter import TREATED
from wardround.flare.secagg_session import SecAggSession
from wardround.secagg.spec import SecAggSpec

ID, NONE = "outbound", "none"
PRINT = "print the job again with `wardround jobs write`"


@dataclass(frozen=True)
class Asked:
    """The order to train that the executor is answering.

    round: the number of the round, from 0.
    model: the digest of the weights that came with the order.
    since: how many rounds had passed when an update of this site last counted.
    """

    round: int
    model: str
    since: int


class Outbound(FLComponent):  # type: ignore[misc]
    """The stages of an update on its way out, in this order, and the names that may
    leave with it.

    NVFlare turns an undefined variable into None, so nothing here may be left out. A
    missing part, a stage that costs nothing where privacy is promised, and parts that
    do not go together are a ConfigRefused.

    privacy: the stage that costs privacy budget, which proves (PatientRelease) or adds
        (HospitalRelease, JointRelease) the noise; or "none".
    compression: fewer bytes; in a secure sum one of those that are linear; or "none".
    secagg: secure aggregation; or "none", and then the server reads every update.
    allowed_names: names of images, classes, blocks, kinds of labels and scores
        (messages/allowed_names.py). The server accepts the same.
    """

    def __init__(
        self,
        privacy: Charged | Literal["none"],
        compression: Compression | Literal["none"],
        secagg: SecAggSpec | Literal["none"],
        allowed_names: Sequence[str],
    ) -> None:
        super().__init__()
        self.privacy = privacy
        self.compression = compression
        self.secagg = secagg
        self.allowed_names = _names(allowed_names)
        self._require_kinds()
        require_fit(self.parts)
        hides = self.hides
        self.session = None if hides is None else SecAggSession(hides, self.noise, self.compresses, self.allowed_names)
        self._asked: Asked | None = None

    @property
    def charged(self) -> Charged | None:
        """Return the stage that the ledger charges, or None without differential
        privacy.
        """
        return None if isinstance(self.privacy, str) else self.privacy

    @property
    def compresses(self) -> Compression | None:
        """Return the compression, or None where updates travel as float32."""
        return None if isinstance(self.compression, str) else self.compression

    @property
    def hides(self) -> SecAggSpec | None:
        """Return the promise of the secure sum; None where the server reads updates."""
        return None if isinstance(self.secagg, str) else self.secagg

    @property
    def noise(self) -> HospitalDP | JointDP | None:
        """Return the promise of noise that is added to an update as it leaves, or None
        without it. Then nothing leaves beside the update.
        """
        return self.privacy.promise if isinstance(self.privacy, (HospitalRelease, JointRelease)) else None

    @property
    def training_noise(self) -> PatientDP | JointDP | None:
        """Return the promise under which patients' gradients are clipped in training,
        or None where the training is without a promise.
        """
        return self.privacy.promise if isinstance(self.privacy, (PatientRelease, JointRelease)) else None

    @property
    def withholds_training_time(self) -> bool:
        """Return whether no seconds may leave: how long a site works grows with the
        number of its patients, which differential privacy and a count inside the sum
        hide.
        """
        return self.charged is not None or (self.hides is not None and self.hides.hides_counts)

    @property
    def promised(self) -> tuple[object, ...]:
        """Return frozen values that state all that is promised. Kept state and
        reservations are bound to them.
        """
        return self.privacy, self.compression, self.secagg

    @property
    def parts(self) -> list[Part]:
        """Return the parts whose traits must fit, in the order in which an update
        passes.
        """
        return leaving(self.charged, self.compresses, self.hides)

    @property
    def asked(self) -> Asked:
        """Return the order that the executor is answering; none is a ConfigRefused."""
        if self._asked is None:
            raise ConfigRefused(
                "the outbound filter of a plaintext job",
                found="no order to answer",
                expected="the executor SiteExecutor in the same process",
                fix=PRINT,
            )
        return self._asked

    def begin(self, asked: Asked) -> None:
        """Note the order that is being answered."""
        self._asked = asked

    def _require_kinds(self) -> None:
        kinds: dict[str, Any] = {"privacy": Charged, "compression": Compression, "secagg": SecAggSpec}
        values = {name: getattr(self, name) for name in kinds}
        wrong = [name for name, value in values.items() if value != NONE and not isinstance(value, kinds[name])]
        if wrong:
            raise ConfigRefused(
                f"the job's {ID}",
                found=f"no {', '.join(wrong)}, or one of another kind",
                expected=f'a value for each, or "{NONE}"',
                fix=PRINT,
            )


def outbound_of(fl_ctx: FLContext) -> Outbound:
    """Return the job's one component with the id ID.

    Anything else under that id is a ConfigRefused, so that nothing is done and nothing
    leaves.
    """
    found: Any = fl_ctx.get_engine().get_component(ID)
    # The exact class: one that derives from ours could keep less than it states.
    if type(found) is not Outbound:
        raise ConfigRefused(
            f"the component {ID!r}",
            found=type(found).__name__,
            expected="a wardround.flare.outbound.Outbound",
            fix=PRINT,
        )
    return found


def outbound_digest(outbound: Outbound, fl_ctx: FLContext) -> str:
    """Return a digest of all that is done to an update: the settings of `outbound`, and
    what this site's own policy did before.

    Coded integers, and what coding or compressing left over, are bound to it.
    """
    return kept_settings.digest_of(*outbound.promised, fl_ctx.get_prop(TREATED, ""))


def _names(allowed: Any) -> tuple[str, ...]:
    """Return the names as a tuple.

    A text, which would allow each of its letters, is a ConfigRefused, and so is
    anything else that is not a list of names.
    """
    if isinstance(allowed, (list, tuple)) and all(isinstance(name, str) for name in allowed):
        return tuple(allowed)
    raise ConfigRefused(
        f"the job's {ID}",
        found=f"allowed_names that are a {type(allowed).__name__}",
        expected="a list of names, [] where none may leave",
        fix=PRINT,
    )
