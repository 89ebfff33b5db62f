"""The rules of a site's own policy about what a job promises: patient-level privacy, and
the hospital's own noise. The rule about secure sums is in secagg_policy.py.

A rule is a frozen value with one function, `passed`: it is shown everything that passes
the site's border, and returns what goes on, or refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, final

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.core.errors import ConfigRefused
from wardround.core.stages import Update
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.joint_release import JointRelease
from wardround.dp.releases import covers
from wardround.flare import ledger_adapter, plaintext_messages, secagg_messages, workspaces
from wardround.flare.job_parts import outbound_in_force
from wardround.flare.ledger_adapter import POLICY, TREATED
from wardround.flare.outbound import Outbound
from wardround.flare.outbound_filter import write_receipt
from wardround.flare.policy_checks import (
    asked,
    measured,
    refused,
    require_own_executor,
    require_reserved,
    require_silence,
)
from wardround.messages import plaintext
from wardround.training.evaluation import shared_only

# What passes: a task on its way in; on its way out a signed answer of a step of a sum,
# an update, the word that kept integers are hidden once more, a hop in which they are
# added, and the scores of the models.
ORDER = "order"
ANSWER = "answer"
UPDATE = "update"
AGAIN = "again"
HOP = "hop"
SCORES = "scores"
SIGNING = (secagg_messages.PREPARE, secagg_messages.UNMASK)
"""The tasks whose answers let a sum begin, and let it be opened."""


@final
@dataclass(frozen=True)
class Passing:
    """One thing on its way in or out.

    what: one of the words above; each has what is listed here, and nothing else.
    order: ORDER: the message of the server, as it came.
    update: UPDATE: the update, read strictly.
    scores: SCORES: the scores, read strictly.
    say: writes a line into the site's log.
    """

    what: str
    task: str
    order: Shareable | None = None
    update: plaintext_messages.Update | None = None
    scores: Mapping[str, Any] | None = None
    say: Callable[[str], None] = print

    @property
    def the_order(self) -> Shareable:
        """Return the message of the server; where none passes, ReleaseRefused."""
        if self.order is None:
            raise refused(f"{self.what} instead of an order", "an order")
        return self.order

    @property
    def the_update(self) -> plaintext_messages.Update:
        """Return the update; where none passes, ReleaseRefused."""
        if self.update is None:
            raise refused(f"{self.what} instead of an update", "an update")
        return self.update

    @property
    def the_scores(self) -> Mapping[str, Any]:
        """Return the scores; where none pass, ReleaseRefused."""
        if self.scores is None:
            raise refused(f"{self.what} instead of scores", "scores")
        return self.scores


class Rule(Protocol):
    """One rule of a site's policy."""

    @property
    def name(self) -> str:
        """Return the name by which `local/privacy.json` lists the rule."""
        ...

    def passed(self, passing: Passing, fl_ctx: FLContext) -> Passing:
        """Return what goes on; what this hospital does not accept is a Refusal."""
        ...


@final
@dataclass(frozen=True)
class PatientRule:
    """A job may answer only under patient-level privacy, or a hospital's.

    Before any task, the job's component `outbound` must be charged for it, the executor
    and the filter that NVFlare runs must be ours, and curves and logs must stay. Before
    an answer, the plan must be reserved, by the same figures and settings and by this
    very job, and the update comes without its loss. The noise is in the training:
    whether an update IS noised its objective says (dp/noise_proof.py).

    shared_noise: whether noise of which other hospitals add a part is enough
        (dp/joint_dp.py). That promise rests on them, so it is accepted only by name.
    """

    shared_noise: bool = False

    name: ClassVar[str] = "patient"

    def __post_init__(self) -> None:
        if not isinstance(self.shared_noise, bool):
            raise ConfigRefused(
                "the scope `patient` in local/privacy.json",
                found=f"shared_noise {self.shared_noise!r}",
                expected="true or false",
                fix="copy poc_workspace/privacy_patient.json to local/privacy.json again",
            )

    def passed(self, passing: Passing, fl_ctx: FLContext) -> Passing:
        """Return what goes on, without counts and seconds; a looser job is a ReleaseRefused."""
        if passing.what == ANSWER:
            return passing
        if passing.what == ORDER:
            require_silence(fl_ctx)
            self._require_private(fl_ctx)
            require_own_executor(fl_ctx)
            return passing
        outbound = self._require_private(fl_ctx)
        require_own_executor(fl_ctx)
        require_reserved(fl_ctx, outbound)
        if passing.what == UPDATE:
            update = passing.the_update
            if update.numbers.get("loss") is not None:
                raise refused("an update with its training loss", "one that was trained with noise: without its loss")
            numbers, facts = plaintext.without_time(update.numbers), plaintext.without_counts(update.facts)
            return replace(passing, update=replace(update, numbers=numbers, facts=facts))
        if passing.what == SCORES:
            told = plaintext.scores_without_counts(shared_only(passing.the_scores))
            return replace(passing, scores=plaintext.without_time(told))
        return passing

    def _require_private(self, fl_ctx: FLContext) -> Outbound:
        outbound = outbound_in_force(fl_ctx)
        if outbound is None or outbound.charged is None or not covers(outbound.charged.plan(), "patient"):
            raise refused(
                "a job that is charged for nothing, or for less than a patient",
                "patient-level differential privacy (jobs like brats_dp_patient)",
            )
        if isinstance(outbound.charged, JointRelease) and not self.shared_noise:
            raise refused(
                "a job whose noise is the sum of shares, most of them other hospitals'",
                'noise of this hospital alone (jobs like brats_dp_patient), or {"rule": "patient", "shared_noise": true} '
                "in local/privacy.json",
            )
        return outbound


@final
@dataclass(frozen=True)
class HospitalRule:
    """The hospital's own promise on every update (`distributed` False).

    Before any task, curves and logs must stay. Before training, the promise for all
    rounds is reserved under the key `policy`; refused are a job over budget, a budget
    without a limit per hospital, and a job charged for less than a hospital. Before an
    answer come clip, noise, ledger and receipt: weight 1, numbers None, no counts,
    scores SILENT. Blocks left out, which no noise hides, are refused. A secure sum with
    as much noise, as many colluders and sites passes unchanged: then the job's own
    filter adds the noise, and this rule checks that it will.
    """

    promise: HospitalDP
    delta: float

    name: ClassVar[str] = "hospital"

    def __post_init__(self) -> None:
        if self.promise is None or self.delta is None or self.promise.distributed:
            raise ConfigRefused(
                "the scope `hospital` in local/privacy.json",
                found="no promise, no delta, or noise that is shared with others (distributed: true)",
                expected="a promise with distributed: false, and a delta",
                fix="copy poc_workspace/privacy_hospital.json to local/privacy.json again",
            )

    def passed(self, passing: Passing, fl_ctx: FLContext) -> Passing:
        """Return what goes on: of an update its noised release, of scores nothing."""
        if passing.what == ORDER:
            self._before(passing, fl_ctx)
        elif passing.what == UPDATE:
            return replace(passing, update=self._released(passing.the_update, fl_ctx))
        elif passing.what in (AGAIN, HOP):
            self._once_more(fl_ctx)
        elif passing.what == SCORES:
            self._treat(fl_ctx)
            return replace(passing, scores=plaintext.SILENT)
        return passing

    def _treat(self, fl_ctx: FLContext) -> None:
        """Note for the job's own filter that this reply went through this rule."""
        fl_ctx.set_prop(TREATED, repr(self.promise), private=True, sticky=False)

    def _before(self, passing: Passing, fl_ctx: FLContext) -> None:
        require_silence(fl_ctx)
        outbound = outbound_in_force(fl_ctx)
        if self._as_strict(outbound):
            require_own_executor(fl_ctx)
        elif passing.task == plaintext_messages.TRAIN:
            charged = outbound.charged if outbound is not None else None
            if charged is not None and not covers(charged.plan(), "hospital"):
                raise refused(f"a job that is charged per {charged.unit}", "one that a limit per hospital can hold")
            ledger_adapter.require_limit("hospital", fl_ctx)
            round_, rounds = asked(passing.the_order)
            # Before the ledger asks for the run's id: else a new run is reserved under the old one's.
            if round_ == 0:
                workspaces.begin_new_run(fl_ctx)
            ledger_adapter.reserve(self._mechanism(rounds), fl_ctx, passing.say, POLICY)

    def _released(self, update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
        if self._as_strict(outbound_in_force(fl_ctx)):
            self._once_more(fl_ctx)
            return update  # The job's own filter adds the noise.
        account = ledger_adapter.account(fl_ctx)
        planned: Any = account.reserved.get(POLICY) if account is not None else None
        if planned is None or planned != self._mechanism(planned.count).plan():
            raise refused("nothing reserved by this policy before training", "both filters in local/privacy.json")
        made = self._mechanism(planned.count)
        made.require_exact(sum(block.size for block in update.delta.values()))
        noised, receipt = made.outbound(Update(update.delta, update.weight), 0, {})
        receipt |= ledger_adapter.spend(made, {}, fl_ctx, POLICY)
        silent = plaintext_messages.Update(
            noised.params, 1.0, dict.fromkeys(plaintext_messages.NUMBERS), plaintext.silent_facts(update.facts)
        )
        write_receipt(fl_ctx, plaintext_messages.TRAIN, {"policy": self.name} | receipt | measured(silent))
        self._treat(fl_ctx)
        return silent

    def _once_more(self, fl_ctx: FLContext) -> None:
        """Refuse integers that were coded before this policy, or let them continue."""
        outbound = outbound_in_force(fl_ctx)
        if outbound is not None and self._as_strict(outbound):
            require_own_executor(fl_ctx)
            require_reserved(fl_ctx, outbound)
            return
        account = ledger_adapter.account(fl_ctx)
        if account is None or not (*account.spent.get(POLICY, ()), *account.before.get(POLICY, ())):
            raise refused("an update that was coded before this policy", "one that this policy has clipped and noised")
        # The job's own filter compares it with what it kept.
        self._treat(fl_ctx)

    def _mechanism(self, num_rounds: int) -> HospitalRelease:
        return HospitalRelease(self.promise, num_rounds, self.delta, accept_vacuous=False)

    def _as_strict(self, outbound: Outbound | None) -> bool:
        """Tell whether the job promises as much: noise and, if shared, the sites."""
        noise, mine = outbound.noise if outbound is not None else None, self.promise
        # Noise that hides one patient does not hide a hospital.
        if not isinstance(noise, HospitalDP) or noise.noise_multiplier < mine.noise_multiplier:
            return False
        return not noise.distributed or (noise.colluders >= mine.colluders and noise.min_clients >= mine.min_clients)
