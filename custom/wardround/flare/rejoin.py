"""For the server's own process: starts a running job again at a site that was away,
which NVFlare does not do by itself.

A site whose process died and was started again registers with a new token, and its
share of every running job is gone. Nothing in NVFlare 2.9 sends a job to a site after
its start, so without this component such a site stays out until the job is submitted
again. The lead installs it in the server's `local/resources.json`:

    {"id": "rejoin", "path": "wardround.flare.rejoin.Rejoin", "args": {}}

At a site's heartbeat the component asks whether the site is connected under another
token than the one that a running job knows, or is named by the job's deploy_map and is
not in the job at all. If so, the job is started there. It is deployed first if the site
does not have it any more. It is not deployed over what is there, since that would
delete the run's folder and with it the site's state. The site then takes the place of
its old self among those that the job's process knows. The site decides as it did at the
start: it may refuse.
"""

from __future__ import annotations

import threading
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import ReservedKey, RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_scheduler_spec import DispatchInfo

from wardround.flare import workspaces

ABSENT = "does not exist"


class Rejoin(FLComponent):  # type: ignore[misc]
    """Tries once for each job and token: a site that refuses is not asked again until
    it is restarted.

    A reply that is not a success, and an NVFlare whose internals have changed, are
    reported in the server's log, and the site stays out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tried: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """At a heartbeat, start every running job that misses this site."""
        if event_type != EventType.CLIENT_HEARTBEAT_PROCESSED:
            return
        peer, engine = fl_ctx.get_peer_context(), fl_ctx.get_engine()
        name = peer.get_prop(ReservedKey.IDENTITY_NAME) if peer is not None else None
        client = engine.get_client_from_name(name) if name else None
        if client is None:
            return
        for job_id, process in list(engine.run_processes.items()):
            job = engine.job_runner.running_jobs.get(job_id)
            inside = process.get(RunProcessKey.PARTICIPANTS) or {}
            if job is None or client.token in inside:
                continue
            known = [one.name for one in inside.values()]
            if client.name not in known and client.name not in workspaces.sites_of_job(job.meta):
                continue
            # Heartbeats of one site can be handled in two threads: the lock makes "not
            # tried yet? then note it" one step, so that a job is not started twice at a
            # site.
            with self._lock:
                if (job_id, client.token) in self._tried:
                    continue
                self._tried.add((job_id, client.token))
            # The start waits for the site's replies; the site's heartbeat must not wait
            # too.
            thread = threading.Thread(target=self._start, args=(engine, job, client, inside), daemon=True)
            thread.start()

    def _start(self, engine: Any, job: Any, client: Any, inside: dict[str, Any]) -> None:
        """Start the job at the site in this thread, and say in the server's log how it
        went.
        """
        with engine.new_context() as fl_ctx:
            try:
                words = self._sent(engine, job, client, inside, fl_ctx)
            except (AttributeError, KeyError, TypeError, RuntimeError) as error:
                words = f"{type(error).__name__}: {error}"
            if words:
                self.log_error(fl_ctx, f"{client.name} could not take job {job.job_id} up again: {words}")
                # Out again, or the job would wait for a site that does not run it.
                inside.pop(client.token, None)
            else:
                self.log_info(fl_ctx, f"RETURNED {client.name}: job {job.job_id} was started there again")

    def _sent(self, engine: Any, job: Any, client: Any, inside: dict[str, Any], fl_ctx: FLContext) -> str:
        """Start the job at the site; return what went wrong, or "" for nothing."""
        needs = (job.get_resource_requirements() or {}).get(client.name) or {}
        enough, token = engine.check_client_resources(job, {client.name: needs}, fl_ctx).get(client.name, (False, "?"))
        if not enough:
            return f"no resources ({token})"
        app = next(iter(job.get_deployment()))
        # The site must be known under its new token before it starts, because its first
        # request carries that token.
        for old in [known for known, one in list(inside.items()) if one.name == client.name]:
            del inside[old]
        inside[client.token] = client
        where = {client.name: DispatchInfo(app, needs, token)}
        words = _said(engine.start_client_job(job, where, fl_ctx))
        if ABSENT in words:
            words = self._deployed(engine, job, client, app, fl_ctx) or _said(
                engine.start_client_job(job, where, fl_ctx)
            )
        return words if "error" in words.lower() or not words else ""

    @staticmethod
    def _deployed(engine: Any, job: Any, client: Any, app: str, fl_ctx: FLContext) -> str:
        """Send the job's app to the site; return what went wrong, or "" for nothing."""
        message = engine.job_runner._make_deploy_message(job, job.get_application(app, fl_ctx), app, fl_ctx)
        admin = engine.server.admin_server
        reply = admin.send_requests_and_get_reply_dict({client.token: message}, timeout_secs=admin.timeout)[
            client.token
        ]
        words = "no reply" if reply is None else str(reply.body)
        return "" if words.startswith("deployed ") else f"error: {words}"


def _said(replies: Any) -> str:
    return next((str(one.reply.body) for one in replies if one.reply), "error: no reply")
