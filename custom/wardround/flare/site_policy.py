"""What a hospital enforces itself: ONE filter, which runs the rules that the hospital
lists in its own `local/privacy.json`.

    []          (the scope `open`) only what plaintext_messages.py and secagg_messages.py
                describe leaves, as a new message, even if the job names no filter of
                ours; no number of few patients (few_patients.py). This holds in every
                scope, before any rule
    secagg      no update leaves except inside a secure sum (secagg_policy.py)
    patient     an update leaves only if this job promised, reserved and will be charged
                for patient-level privacy
    hospital    an update leaves only after ONE clip and all noise of the hospital's own
                promise, charged to its own ledger, without number, count or score

NVFlare runs a site's filters before the job's own, for every task: BEFORE training on
what the server sends (a job that would be refused later is refused here), and BEFORE
the job's own filter on what the executor hands over. The reason of a refusal goes to
`refusals.txt` in the site's private folder; the server gets an error code. The
simulator never runs these filters. Not covered: code that a job brings (BYOC) can bypass
any filter; a site that does not read such code denies it. Analytics events: curves.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nvflare.apis.dxo import DataKind
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.private.privacy_manager import Scope

from wardround.core.errors import Refusal, ReleaseRefused
from wardround.core.stages import Receipt
from wardround.flare import few_patients, plaintext_messages, policy_rules, secagg_messages, workspaces
from wardround.flare.job_parts import outbound_next
from wardround.flare.outbound_filter import write_receipt
from wardround.flare.policy_chain import rules_of
from wardround.flare.policy_checks import measured, refused
from wardround.flare.policy_rules import Passing
from wardround.flare.site_parts import REASONS
from wardround.flare.strict_dxo import is_reply, kind_of
from wardround.tasks.brain_tumours import BRAIN_TUMOURS

_MOST_ROUNDS = 2**16
ALIKE = "one SitePolicy in task_data_filters and one in task_result_filters, with the same rules"
"""What every scope of a `local/privacy.json` must hold."""
PLAIN: Receipt = {
    "mechanism": "none",
    "guarantee": "none: the site's policy is `open`, and the job has no outbound filter of ours",
}
SCORES: Receipt = {"mechanism": "means, intervals and counts over this site's patients"}


class SitePolicy(Filter):  # type: ignore[misc]
    """Both filters of a scope: strict reading, and the rules of this hospital in their
    order.

    As a task-data filter it refuses a task that is not ours, or that a rule refuses. As
    a task-result filter it lets out a described reply in a new message, a refusal as its
    code, and nothing else.

    rules: one mapping for each rule, its name under `rule` and its settings beside it;
        [] for strict reading alone. Unknown rules and settings are a ConfigRefused.
    """

    def __init__(self, rules: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.rules = rules_of(rules)

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return what goes on: to the executor what came in, outwards a new message.

        Every task is refused in a scope whose two lists do not hold this policy alike.
        """
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        try:
            if wrong := unlike(fl_ctx.get_prop(FLContextKey.SCOPE_OBJECT)):
                raise refused(wrong, ALIKE)
            if task not in secagg_messages.TASKS:
                raise refused(f"task {str(task)[:40]!r}", f"one of {', '.join(secagg_messages.TASKS)}")
            if fl_ctx.get_prop(FLContextKey.FILTER_DIRECTION) == FilterKey.IN:
                self._pass(Passing(policy_rules.ORDER, task, order=shareable), fl_ctx)
                return shareable
            return self._leave(shareable, task, fl_ctx)
        except Refusal as refusal:
            raise _kept(refusal, fl_ctx) from None

    def _pass(self, passing: Passing, fl_ctx: FLContext) -> Passing:
        """Return what the rules make of it, one after the other; any of them may refuse."""
        passing = replace(passing, say=lambda text: self.log_info(fl_ctx, f"site policy: {text}"))
        for rule in self.rules:
            passing = rule.passed(passing, fl_ctx)
        return passing

    def _leave(self, shareable: Shareable, task: str, fl_ctx: FLContext) -> Shareable:
        if task in policy_rules.SIGNING and shareable.get_return_code() == ReturnCode.OK:
            self._pass(Passing(policy_rules.ANSWER, task), fl_ctx)
        if not is_reply(shareable):
            return plaintext_messages.refusal_message(plaintext_messages.refusal_code(shareable))
        kind, following = kind_of(shareable), outbound_next(fl_ctx, task)
        secagg = following is not None and following.session is not None
        if task == plaintext_messages.TRAIN and secagg and kind == DataKind.APP_DEFINED:
            round_ = secagg_messages.read_again(shareable)
            if round_ is None or not 0 <= round_ < _MOST_ROUNDS:
                raise refused("a reply to train", "an update, or that this round's update is coded already")
            self._pass(Passing(policy_rules.AGAIN, task), fl_ctx)
            return secagg_messages.again_message(round_)
        if task == plaintext_messages.TRAIN:
            update = self._update(plaintext_messages.read_update(shareable, _names(fl_ctx, task)), fl_ctx)
            plaintext_messages.require_named(update.facts, _names(fl_ctx, task))
            return plaintext_messages.update_message(_without_few(update, fl_ctx))
        if task == plaintext_messages.FINISH and kind == DataKind.METRICS:
            scores = self._scores(plaintext_messages.read_scores(shareable, _names(fl_ctx, task)), fl_ctx)
            plaintext_messages.require_named(scores, _names(fl_ctx, task))
            return plaintext_messages.scores_message(scores)
        reply = secagg_messages.read_reply(shareable, task, _names(fl_ctx, task))
        if task == secagg_messages.HOP:
            self._pass(Passing(policy_rules.HOP, task), fl_ctx)
        if task == plaintext_messages.FINISH:
            reply = replace(reply, meta={"scores": self._scores(reply.meta["scores"], fl_ctx)})
        return secagg_messages.reply_message(reply)

    def _update(self, update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
        """Return the update that goes on to the job's own filter.

        Without rules and without a filter of ours behind, this is what leaves, and its
        receipt is written here.
        """
        if not self.rules and outbound_next(fl_ctx, plaintext_messages.TRAIN) is None:
            write_receipt(fl_ctx, plaintext_messages.TRAIN, PLAIN | measured(update))
        passed = self._pass(Passing(policy_rules.UPDATE, plaintext_messages.TRAIN, update=update), fl_ctx)
        return passed.the_update

    def _scores(self, scores: Mapping[str, Any], fl_ctx: FLContext) -> Mapping[str, Any]:
        """Return the scores that go on to the job's own filter."""
        if not self.rules and outbound_next(fl_ctx, plaintext_messages.FINISH) is None:
            write_receipt(fl_ctx, plaintext_messages.FINISH, dict(SCORES))
        passed = self._pass(Passing(policy_rules.SCORES, plaintext_messages.FINISH, scores=scores), fl_ctx)
        return few_patients.scores(passed.the_scores, few_patients.known(fl_ctx))


def unlike(scope: Scope | None) -> str:
    """Return what is wrong where the two lists of a scope, of tasks on their way in and of
    replies on their way out, do not hold exactly one SitePolicy each, with the same rules.

    Where they do, an empty text is returned. What one list reserves and the other does
    not do would leave as the executor made it.
    """
    if scope is None:
        return "this policy without a scope"
    lists = {
        "task_data_filters": scope.task_data_filters[FilterKey.IN],
        "task_result_filters": scope.task_result_filters[FilterKey.OUT],
    }
    found = {name: [one for one in listed if type(one) is SitePolicy] for name, listed in lists.items()}
    for name, policies in found.items():
        if len(policies) != 1:
            return f"the scope {scope.name!r} with {len(policies)} SitePolicy in {name}"
    (before,), (after,) = found.values()
    return "" if before.rules == after.rules else f"the scope {scope.name!r} with other rules in one list of filters"


def _without_few(update: plaintext_messages.Update, fl_ctx: FLContext) -> plaintext_messages.Update:
    """Return an update without the numbers of few patients.

    A filter of ours that comes after this policy looks at the training loss itself, so
    the loss is left to it.
    """
    found = few_patients.update(update, few_patients.known(fl_ctx, update.facts))
    if outbound_next(fl_ctx, plaintext_messages.TRAIN) is None:
        return found
    return replace(found, numbers={**found.numbers, "loss": update.numbers["loss"]})


def _names(fl_ctx: FLContext, task: str) -> tuple[str, ...]:
    """Return the names that may leave; without our filter, the default task's."""
    following = outbound_next(fl_ctx, task)
    return BRAIN_TUMOURS.allowed_names if following is None else following.allowed_names


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
