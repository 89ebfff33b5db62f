"""What a hospital enforces itself: the filters of its own `local/privacy.json`.

    open       only what plaintext_messages.py and secagg_messages.py describe leaves, as
               a new message, even if the job names no filter of ours; no number of few
               patients (few_patients.py); in every scope
    patient    an update leaves only if this job promised, reserved and will be charged
               for patient-level privacy
    hospital   an update leaves only after ONE clip and all noise of the hospital's own
               promise, charged to its own ledger, without number, count or score

NVFlare runs a site's filters before the job's own, for every task: BEFORE training on
what the server sends (a job that would be refused later is refused here), and BEFORE
the job's own filter on what the executor hands over. A job may be stricter than its
site: then its own filter adds the noise, and this policy checks that it will. The
reason of a refusal goes to `refusals.txt` in the site's private folder; the server gets
an error code. The simulator never runs these filters. Not covered: code that a job
brings (BYOC) can bypass any filter; a site that does not read such code denies it.
Analytics events: curves.py. NVFlare's log streaming must be off, or nothing runs under
`patient` and `hospital`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nvflare.apis.dxo import DataKind
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.core.arrays import digest, size_bytes
from wardround.core.errors import ConfigRefused, Refusal, ReleaseRefused
from wardround.core.stages import Update
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.releases import covers
from wardround.flare import few_patients, ledger_adapter, plaintext_messages, secagg_messages, workspaces
from wardround.flare.job_parts import outbound_in_force, outbound_next
from wardround.flare.ledger_adapter import POLICY
from wardround.flare.outbound import Outbound
from wardround.flare.outbound_filter import write_receipt
from wardround.flare.outbound_secagg import TREATED
from wardround.flare.policy_checks import asked, refused, require_own_executor, require_reserved, require_silence
from wardround.flare.site_parts import REASONS
from wardround.flare.strict_dxo import is_reply, kind_of
from wardround.messages import plaintext
from wardround.tasks.brain_tumours import BRAIN_TUMOURS
from wardround.training.evaluation import shared_only

_MOST_ROUNDS = 2**16


class OpenPolicy(Filter):  # type: ignore[misc]
    """Task-result filter: strict reading only; without a filter of ours, a receipt.

    A described reply leaves in a new message, a refusal as its code, and all else is
    refused. As a task-data filter it refuses a task that is not ours.
    """

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return what goes on: to the executor what came in, outwards a new message."""
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        try:
            if task not in secagg_messages.TASKS:
                raise refused(f"task {str(task)[:40]!r}", f"one of {', '.join(secagg_messages.TASKS)}")
            if fl_ctx.get_prop(FLContextKey.FILTER_DIRECTION) == FilterKey.IN:
                self.before(shareable, task, fl_ctx)
                return shareable
            return self._leave(shareable, task, fl_ctx)
        except Refusal as refusal:
            raise _kept(refusal, fl_ctx) from None

    def _leave(self, shareable: Shareable, task: str, fl_ctx: FLContext) -> Shareable:
        if not is_reply(shareable):
            return plaintext_messages.refusal_message(plaintext_messages.refusal_code(shareable))
        kind, following = kind_of(shareable), outbound_next(fl_ctx, task)
        secagg = following is not None and following.session is not None
        if task == plaintext_messages.TRAIN and secagg and kind == DataKind.APP_DEFINED:
            round_ = secagg_messages.read_again(shareable)
            if round_ is None or not 0 <= round_ < _MOST_ROUNDS:
                raise refused("a reply to train", "an update, or that this round's update is coded already")
            self.again(fl_ctx)
            return secagg_messages.again_message(round_)
        if task == plaintext_messages.TRAIN:
            update = self.update(plaintext_messages.read_update(shareable, _words(fl_ctx, task)), fl_ctx)
            plaintext_messages.require_named(update.facts, _words(fl_ctx, task))
            return plaintext_messages.update_message(_told(update, fl_ctx))
        if task == plaintext_messages.FINISH and kind == DataKind.METRICS:
            read = plaintext_messages.read_scores(shareable, _words(fl_ctx, task))
            scores = few_patients.scores(self.scores(read, fl_ctx), few_patients.known(fl_ctx))
            plaintext_messages.require_named(scores, _words(fl_ctx, task))
            return plaintext_messages.scores_message(scores)
        reply = secagg_messages.read_reply(shareable, task, _words(fl_ctx, task))
        if task == secagg_messages.HOP:
            self.hop(fl_ctx)
        if task == plaintext_messages.FINISH:
            scores = few_patients.scores(self.scores(reply.meta["scores"], fl_ctx), few_patients.known(fl_ctx))
            reply = replace(reply, meta={"scores": scores})
        return secagg_messages.reply_message(reply)

    def before(self, shareable: Shareable, task: str, fl_ctx: FLContext) -> None:
        """Refuse a task before it is done, or let it continue."""

    def update(self, update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
        """Return the update that goes on to the job's own filter."""
        if outbound_next(fl_ctx, plaintext_messages.TRAIN) is None:
            words = {
                "mechanism": "none",
                "guarantee": "none: the site's policy is `open`, and the job has no outbound filter of ours",
            }
            write_receipt(fl_ctx, plaintext_messages.TRAIN, words | _measured(update))
        return update

    def again(self, fl_ctx: FLContext) -> None:
        """Refuse to hide once more what was coded before, or let it continue."""

    def hop(self, fl_ctx: FLContext) -> None:
        """Refuse to add what this site holds to a ring's sum, or let it continue."""
        self.again(fl_ctx)

    def scores(self, scores: Mapping[str, Any], fl_ctx: FLContext) -> Mapping[str, Any]:
        """Return the scores that go on to the job's own filter."""
        if outbound_next(fl_ctx, plaintext_messages.FINISH) is None:
            write_receipt(
                fl_ctx,
                plaintext_messages.FINISH,
                {"mechanism": "means, intervals and counts over this site's patients"},
            )
        return scores


class PatientPolicy(OpenPolicy):
    """Both filters: a job may answer only under patient-level privacy, or a hospital's.

    Before any task, the job's component `outbound` must be charged for it, the executor
    and the filter that NVFlare runs must be ours, and curves and logs must stay. Before
    an answer, the plan must be reserved, by the same figures and settings and by this
    very job, and the update comes without its loss. The noise is in the training:
    whether an update IS noised its objective says (dp/noise_proof.py).
    """

    def before(self, shareable: Shareable, task: str, fl_ctx: FLContext) -> None:
        require_silence(fl_ctx)
        self._require_private(fl_ctx)
        require_own_executor(fl_ctx)

    def update(self, update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
        self.again(fl_ctx)
        if update.numbers.get("loss") is not None:
            raise refused("an update with its training loss", "one that was trained with noise: without its loss")
        return replace(update, facts=plaintext.without_counts(update.facts))

    def again(self, fl_ctx: FLContext) -> None:
        outbound = self._require_private(fl_ctx)
        require_own_executor(fl_ctx)
        require_reserved(fl_ctx, outbound)

    def scores(self, scores: Mapping[str, Any], fl_ctx: FLContext) -> Mapping[str, Any]:
        self.again(fl_ctx)
        found: Mapping[str, Any] = plaintext.scores_without_counts(shared_only(scores))
        return found

    def _require_private(self, fl_ctx: FLContext) -> Outbound:
        outbound = outbound_in_force(fl_ctx)
        if outbound is None or outbound.charged is None or not covers(outbound.charged.plan(), "patient"):
            raise refused(
                "a job that is charged for nothing, or for less than a patient",
                "patient-level differential privacy (jobs like brats_dp_patient)",
            )
        return outbound


class HospitalPolicy(OpenPolicy):
    """Both filters: the hospital's own promise on every update (`distributed` False).

    Before any task, curves and logs must stay. Before training, the promise for all
    rounds is reserved under the key `policy`; refused are a job over budget, a budget
    without a limit per hospital, and a job charged for less than a hospital. Before an
    answer come clip, noise, ledger and receipt: weight 1, numbers None, no counts,
    scores SILENT. Blocks left out, which no noise hides, are refused. A secure sum with
    as much noise, as many colluders and sites passes unchanged.
    """

    def __init__(self, promise: HospitalDP, delta: float) -> None:
        super().__init__()
        if promise is None or delta is None or promise.distributed:
            raise ConfigRefused(
                "the scope `hospital` in local/privacy.json",
                found="no promise, no delta, or noise that is shared with others (distributed: true)",
                expected="a promise with distributed: false, and a delta",
                fix="copy poc_workspace/privacy_hospital.json to local/privacy.json again",
            )
        self.promise = promise
        self.delta = delta

    def before(self, shareable: Shareable, task: str, fl_ctx: FLContext) -> None:
        require_silence(fl_ctx)
        outbound = outbound_in_force(fl_ctx)
        if self._as_strict(outbound):
            require_own_executor(fl_ctx)
        elif task == plaintext_messages.TRAIN:
            charged = outbound.charged if outbound is not None else None
            if charged is not None and not covers(charged.plan(), "hospital"):
                raise refused(f"a job that is charged per {charged.unit}", "one that a limit per hospital can hold")
            ledger_adapter.require_limit("hospital", fl_ctx)
            round_, rounds = asked(shareable)
            if round_ == 0:  # before the ledger asks for the run's id: else a new run is reserved under the old one's
                workspaces.begin_anew(fl_ctx)
            made = self._mechanism(rounds)
            ledger_adapter.reserve(made, fl_ctx, lambda text: self.log_info(fl_ctx, f"site policy: {text}"), POLICY)

    def update(self, update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
        if self._as_strict(outbound_in_force(fl_ctx)):
            self.again(fl_ctx)
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
        write_receipt(fl_ctx, plaintext_messages.TRAIN, {"policy": "hospital"} | receipt | _measured(silent))
        fl_ctx.set_prop(TREATED, repr(self.promise), private=True, sticky=False)
        return silent

    def again(self, fl_ctx: FLContext) -> None:
        outbound = outbound_in_force(fl_ctx)
        if outbound is not None and self._as_strict(outbound):
            require_own_executor(fl_ctx)
            require_reserved(fl_ctx, outbound)
            return
        account = ledger_adapter.account(fl_ctx)
        if account is None or not (*account.spent.get(POLICY, ()), *account.before.get(POLICY, ())):
            raise refused("an update that was coded before this policy", "one that this policy has clipped and noised")
        # The job's own filter compares it with what it kept.
        fl_ctx.set_prop(TREATED, repr(self.promise), private=True, sticky=False)

    def scores(self, scores: Mapping[str, Any], fl_ctx: FLContext) -> Mapping[str, Any]:
        return plaintext.SILENT

    def _mechanism(self, num_rounds: int) -> HospitalRelease:
        return HospitalRelease(self.promise, num_rounds, self.delta, accept_vacuous=False)

    def _as_strict(self, outbound: Outbound | None) -> bool:
        """Tell whether the job promises as much: noise and, if shared, the sites."""
        noise, mine = outbound.noise if outbound is not None else None, self.promise
        if noise is None or noise.noise_multiplier < mine.noise_multiplier:
            return False
        return not noise.distributed or (noise.colluders >= mine.colluders and noise.min_clients >= mine.min_clients)


def _told(update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
    """Return an update without the numbers of few patients.

    A filter of ours that comes after this policy looks at the training loss itself, so
    the loss is left to it.
    """
    told = few_patients.update(update, few_patients.known(fl_ctx, update.facts))
    if outbound_next(fl_ctx, plaintext_messages.TRAIN) is None:
        return told
    return replace(told, numbers={**told.numbers, "loss": update.numbers["loss"]})


def _words(fl_ctx: FLContext, task: str) -> tuple[str, ...]:
    """Return the names that may leave; without our filter, the default task's."""
    following = outbound_next(fl_ctx, task)
    return BRAIN_TUMOURS.allowed_names if following is None else following.allowed_names


def _measured(update: plaintext_messages.Update) -> dict[str, Any]:
    return {"bytes": size_bytes(update.delta), "sha256": digest(update.delta)}


def _kept(refusal: Refusal, fl_ctx: FLContext) -> ReleaseRefused:
    """Keep the reason here: the refusal tells nothing, since NVFlare may stream it."""
    with (workspaces.private_folder(fl_ctx) / REASONS).open("a", encoding="utf-8") as out:
        out.write(f"REFUSED by the policy of {fl_ctx.get_identity_name()} ({refusal.code}): {refusal}\n")
    return ReleaseRefused(
        "this hospital's own policy",
        found=f"a refusal ({refusal.code})",
        expected="a job that fits the policy",
        fix=f"see {REASONS} in this site's private folder",
    )
