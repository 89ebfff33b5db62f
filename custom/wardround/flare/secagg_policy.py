"""The rule of a hospital that insists on secure aggregation: no update leaves except
inside a sum that is hidden at least as well as it states.

It stands in the rules of the hospital's own policy (site_policy.py), alone or before
another rule; then both must agree. What is read is what NVFlare runs: the executor, the
filters, and what the job's component `outbound` promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from nvflare.apis.fl_context import FLContext

from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused
from wardround.core.traits import DEFERRABLE
from wardround.flare import workspaces
from wardround.flare.job_parts import executor_of, outbound_in_force
from wardround.flare.outbound import outbound_of
from wardround.flare.policy_checks import refused
from wardround.flare.policy_rules import AGAIN, ANSWER, UPDATE, Passing
from wardround.flare.secagg_session import SecAggSession
from wardround.flare.signer import require_lead
from wardround.messages import statements
from wardround.secagg import served_sums
from wardround.secagg.roster import joined
from wardround.secagg.spec import SecAggSpec

LEADS = ("lead", "project_admin")


@final
@dataclass(frozen=True)
class SecAggRule:
    """Secure aggregation at least this strict, in a job signed by a lead.

    Before any task and before an answer, the signature, the executor, the filter and
    the job's secure sum are checked. Before an answer leaves, the sites that the update
    is summed with are compared with those of every earlier job with the same settings
    or the same update (secagg/served_sums.py). A compression that sends a part of an
    update with a later one is refused: that part would enter the sum of other sites
    without being compared. What does not fit is a ReleaseRefused.

    masks: True if the job must have masks. Masks or encryption must be True.
    encryption: True if the job must have encryption.
    min_clients: the fewest sites of a sum.
    sites: the most sites of a sum, which are the hospitals of the consortium.
    threshold: the fewest sites that may open a sum; 0 stands for all sites but one.
    leads: the roles that may sign a job.
    """

    masks: bool
    encryption: bool
    min_clients: int
    sites: int
    threshold: int
    leads: Sequence[str] = LEADS

    name: ClassVar[str] = "secagg"

    def __post_init__(self) -> None:
        insists = self.masks is True or self.encryption is True
        if not insists or not self.leads or isinstance(self.leads, str):
            raise ConfigRefused(
                "the scope `secagg` in local/privacy.json",
                found="neither masks nor encryption, or no role that may sign a job",
                expected="masks or encryption true, and leads a list of roles",
                fix="copy poc_workspace/privacy_secagg.json to local/privacy.json again",
            )
        object.__setattr__(self, "leads", tuple(self.leads))
        # Numbers that make no sense are refused with the file, not with the first job.
        _ = self.least

    @property
    def least(self) -> SecAggSpec:
        """Return the loosest sum that this rule accepts."""
        return SecAggSpec(
            sites=self.sites,
            min_clients=self.min_clients,
            bits=16,
            weights="equal",
            reference_patients=1,
            masks=self.masks,
            encryption=self.encryption,
            ring=False,
            threshold=self.threshold,
        )

    def passed(self, passing: Passing, fl_ctx: FLContext) -> Passing:
        """Return it unchanged, if the job is hidden as it must be here.

        The sites of the sum are written down before an update leaves, before kept
        integers are hidden once more, and before an answer lets a sum begin or be
        opened. A hop continues inside the sum whose sites were written down then.
        """
        secure = self._require_hidden(fl_ctx)
        if passing.what == UPDATE:
            _remember(fl_ctx, secure, digest(passing.the_update.delta))
        elif passing.what in (AGAIN, ANSWER):
            _remember(fl_ctx, secure, "")
        return passing

    def _require_hidden(self, fl_ctx: FLContext) -> SecAggSession:
        """Return the secure sum of a job that a lead signed.

        Unless all tasks use it, and it is at least as strict as this policy,
        ReleaseRefused is raised.
        """
        require_lead(fl_ctx, self.leads)
        outbound = outbound_in_force(fl_ctx)
        if executor_of(fl_ctx) is None or outbound is None or outbound.session is None:
            raise refused(
                "a job whose update leaves in the open",
                "secure aggregation: SiteExecutor, one OutboundFilter, and a `secagg` in the component `outbound`",
            )
        secure = outbound.session
        # The update is compared with those of other sums before it is compressed: what is
        # left out of it leaves in a later round, in a sum of other sites, unseen.
        if outbound.compresses is not None and DEFERRABLE in outbound.compresses.traits.needs:
            raise refused(
                f"the compression {outbound.compresses.name}, which sends a part of an update with a later one",
                "one update in one sum: --set compression=none",
            )
        if looser := _looser(secure.secagg, self.least):
            raise refused(
                f"secure aggregation with {'; '.join(looser)}", "one that is at least as strict as this site's"
            )
        return secure


def _looser(found: SecAggSpec, least: SecAggSpec) -> list[str]:
    """Return in what a job's secure sum is looser than this hospital demands; the list
    is empty if in nothing.
    """
    wrong = [name for name in ("masks", "encryption") if getattr(least, name) and not getattr(found, name)]
    wrong = [f"no {name}" for name in wrong]
    if found.min_clients < least.min_clients:
        wrong.append(f"min_clients {found.min_clients}, expected {least.min_clients} or more")
    if found.sites > least.sites:
        wrong.append(f"sites {found.sites}, expected {least.sites} or fewer")
    # The threshold follows from the size of a sum, so it is compared for every size
    # that the job allows.
    sizes = range(found.min_clients, found.sites + 1) if found.masks else ()
    if any(found.threshold_of(size) < least.threshold_of(size) for size in sizes):
        wrong.append(f"threshold {found.threshold}, expected {least.threshold or 'all sites but one'} or more")
    return wrong


def _remember(fl_ctx: FLContext, secure: SecAggSession, update: str) -> None:
    """Write down whose updates this site's update is summed with in the call that is
    being answered.

    Another set of sites than before is a RoundRefused.
    """
    call = secure.call
    agreement = secure.open(fl_ctx).agreement
    executor = executor_of(fl_ctx)
    said = [statements.read(one, ["join"], joined(call.moment.run), agreement.authority) for one in call.joins]
    roster = sorted(content["site"] for content in said)
    secure.secagg.require_enough(len(set(roster)), "the sites that joined")
    if agreement.name not in roster or executor is None:
        raise refused("a sum without this site among those that joined", "the signed names of all that take part")
    seen: dict[str, Any] = {"roster": roster} | ({"update": update} if update else {})
    seen |= {"opened": list(call.survivors)} if call.survivors else {}
    run, local = workspaces.run_id(fl_ctx), workspaces.workspace_root(fl_ctx) / "local"
    settings = executor.settings(outbound_of(fl_ctx))
    served_sums.require_same_sites(local, run, settings, call.moment.round, **seen)
