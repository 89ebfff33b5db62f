"""Which commands a party's NVFlare processes obey, and who may read what they write.

`wardround sites harden` lists these components in `local/resources.json`. NVFlare
builds them at every start of the party and of each of its job processes, before
anything is heard from outside.

Why there is a list of commands, and why at the receiving end: NVFlare 2.9 asks for a
role only if the MESSAGE itself says so (header `require_authz`), and checks the names
of files only at the server. A server that lies sends neither, and every registered
command is carried out: `cat /etc/passwd`, the deletion of a folder, a new log
configuration. A command that nobody has registered is `invalid_request`, whoever asks
for it. docs/threat-model.md lists what is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.private.admin_defs import Message, error_reply
from nvflare.private.defs import RequestHeader, SysCommandTopic, TrainingTopic
from nvflare.private.fed.client.admin import RequestProcessor
from nvflare.private.fed.client.admin_commands import AdminCommands
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from wardround.core import files
from wardround.flare import workspaces

OBEYED = frozenset(
    {
        TrainingTopic.CHECK_STATUS,
        TrainingTopic.GET_SCOPES,
        TrainingTopic.CHECK_RESOURCE,
        TrainingTopic.CANCEL_RESOURCE,
        TrainingTopic.DEPLOY,
        TrainingTopic.START_JOB,
        TrainingTopic.ABORT,
        TrainingTopic.ABORT_TASK,
        TrainingTopic.NOTIFY_JOB_STATUS,
        SysCommandTopic.REPORT_VERSION,
    }
)
"""What a site's parent process needs to run a job.

Left out is what a hospital does on its own machine: the shell, log configuration,
deletion of runs, restart, shutdown, and reports about memory, paths, resources,
statistics and errors.
"""

OBEYED_BY_JOBS = frozenset(
    {
        AdminCommandNames.CHECK_STATUS,
        AdminCommandNames.ABORT,
        AdminCommandNames.ABORT_TASK,
        AdminCommandNames.SHUTDOWN,
    }
)
"""What a job's own process needs. It hears commands on a channel of its own."""

# NVFlare's diagnosis of its network: stop, change of root, load tests, values of
# variables.
NETWORK_TOOLS = "_net_manager"
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class OwnerOnly(FLComponent):  # type: ignore[misc]
    """Makes every file that this process, or a process that it starts, writes from now
    on readable for its owner only (umask 077).
    """

    def __init__(self) -> None:
        super().__init__()
        files.owner_only()


class SiteGuard(OwnerOnly):
    """Makes a site obey only what a job needs, and only for the folders of jobs. For
    the server there is OwnerOnly.

    An NVFlare whose internals have changed cannot be guarded in this way. Then the
    import or the constructor fails, and with it the start of the site.
    """

    def __init__(self) -> None:
        super().__init__()
        # Both lists are changed in place, so that a reference that was taken before
        # sees it.
        ClientRequestProcessors.request_processors[:] = obeyed(ClientRequestProcessors.request_processors)
        AdminCommands.commands[:] = [one for one in AdminCommands.commands if one.get_command_name() in OBEYED_BY_JOBS]

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Close the network's tools once there is a network, and remove what another
        component has registered since.
        """
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            fl_ctx.get_engine().get_cell().add_incoming_request_filter(channel=NETWORK_TOOLS, topic="*", cb=_not_obeyed)
        elif event_type == EventType.SYSTEM_START:
            registered = fl_ctx.get_engine().admin_agent.processors
            for topic in set(registered) - OBEYED:
                del registered[topic]


def obeyed(processors: Sequence[RequestProcessor]) -> list[RequestProcessor]:
    """Return the processors that a site keeps, each behind a check of the job's id.

    Doing this twice has the same result as doing it once.
    """
    kept = [one for one in processors if set(one.get_topics()) <= OBEYED]
    return [one if isinstance(one, AboutAJob) else AboutAJob(one) for one in kept]


class AboutAJob(RequestProcessor):  # type: ignore[misc]
    """A processor that is handed only requests whose job id has the form of one.

    NVFlare joins the id to the workspace's path, and deletes that folder before it
    deploys. A server that lies could name `local`, and so take away a site's policy,
    ledger and allow-list, or name an earlier job, and take away its receipts.
    """

    def __init__(self, inner: RequestProcessor) -> None:
        super().__init__()
        self.inner = inner

    def get_topics(self) -> list[str]:
        """Return the topics of the processor behind this check."""
        return list(self.inner.get_topics())

    def process(self, req: Message, app_ctx: Any) -> Message:
        """Hand the request on.

        An id of another form than NVFlare's, and the deployment of a job that has run
        here before, get an error reply.
        """
        job_id = req.get_header(RequestHeader.JOB_ID)
        if job_id is not None and not (isinstance(job_id, str) and _JOB_ID.fullmatch(job_id)):
            return error_reply("invalid_request: no job id")
        if req.topic == TrainingTopic.DEPLOY and job_id and _has_run(Path(app_ctx.args.workspace), job_id):
            return error_reply("invalid_request: this job has run here, and its receipts are kept")
        return self.inner.process(req, app_ctx)


def _has_run(workspace: Path, job_id: str) -> bool:
    return (workspace / job_id / workspaces.RUN_FOLDER).exists()


def _not_obeyed(message: Any) -> Any:
    return make_reply(ReturnCode.INVALID_REQUEST, "a hardened site has no network tools")
