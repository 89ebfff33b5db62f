"""Who is started again, and how; that NVFlare does what it is told here is shown by the drill `site_killed`."""

import threading
from types import SimpleNamespace

import pytest
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey, RunProcessKey
from nvflare.apis.fl_context import FLContext

from wardround.flare.rejoin import Rejoin

MAP = {"app": ["server", "site-1", "site-2", "site-3"]}
GONE = "NVFLARE_ERROR: Client app does not exist. Please deploy it before starting client."
STARTED = "Start the client app..."


class Engine:
    """As much of the server's parent process as Rejoin asks for. answers: to START_JOB, in order; a list of what was sent"""

    def __init__(self, *answers, deployed="deployed app to site-2", enough=True):
        self.answers, self.sent, self.enough = list(answers), [], enough
        self.now = {site: Client(site, f"{site} now") for site in ("site-1", "site-2", "site-4")}
        self.inside = {"site-1 now": self.now["site-1"], "site-2 before": Client("site-2", "site-2 before")}
        self.run_processes = {"job": {RunProcessKey.PARTICIPANTS: self.inside}}
        job = SimpleNamespace(job_id="job", meta={"deploy_map": MAP}, get_resource_requirements=dict)
        job.get_deployment, job.get_application = lambda: MAP, lambda app, fl_ctx: b"zip"
        self.job_runner = SimpleNamespace(running_jobs={"job": job}, _make_deploy_message=lambda *words: "deploy")
        admin = SimpleNamespace(timeout=1, send_requests_and_get_reply_dict=self.deploy)
        self.server, self.deployed = SimpleNamespace(admin_server=admin), deployed

    def deploy(self, requests, timeout_secs):
        self.sent.append("deploy")
        return {token: SimpleNamespace(body=self.deployed) for token in requests}

    def get_client_from_name(self, name):
        return self.now.get(name)

    def check_client_resources(self, job, needs, fl_ctx):
        return {site: (self.enough, "reserved") for site in needs}

    def start_client_job(self, job, where, fl_ctx):
        self.sent.append(f"start {','.join(where)}")
        answer = self.answers.pop(0)
        return [SimpleNamespace(reply=answer and SimpleNamespace(body=answer))]

    def new_context(self):
        return FLContext()


def heartbeat(rejoin, engine, site, event=EventType.CLIENT_HEARTBEAT_PROCESSED):
    fl_ctx, peer = FLContext(), FLContext()
    peer.set_prop(ReservedKey.IDENTITY_NAME, site, private=False, sticky=False)
    fl_ctx.set_peer_context(peer)
    fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=False)
    before = set(threading.enumerate())
    rejoin.handle_event(event, fl_ctx)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)


def test_a_site_with_a_new_token_takes_its_old_place(caplog):
    engine, rejoin = Engine(STARTED), Rejoin()
    heartbeat(rejoin, engine, "site-2")
    assert engine.sent == ["start site-2"]
    assert sorted(engine.inside) == ["site-1 now", "site-2 now"]
    heartbeat(rejoin, engine, "site-2")
    assert engine.sent == ["start site-2"]


def test_it_is_deployed_only_where_it_is_not_there_any_more():
    engine = Engine(GONE, STARTED)
    heartbeat(Rejoin(), engine, "site-2")
    assert engine.sent == ["start site-2", "deploy", "start site-2"]
    assert "site-2 now" in engine.inside


@pytest.mark.parametrize(
    "engine",
    [
        Engine("NVFLARE_ERROR: no"),
        Engine(None),
        Engine(enough=False),
        Engine(GONE, deployed="NVFLARE_ERROR: unknown scope"),
    ],
)
def test_a_site_that_refuses_stays_out_and_is_asked_once(engine, caplog):
    rejoin = Rejoin()
    heartbeat(rejoin, engine, "site-2")
    asked = len(engine.sent)
    heartbeat(rejoin, engine, "site-2")
    assert len(engine.sent) == asked
    assert "site-2 now" not in engine.inside
    assert "site-2 could not take job job up again" in caplog.text


@pytest.mark.parametrize("site", ["site-1", "site-4", "site-9"])
def test_who_is_in_the_job_or_was_never_meant_to_be_is_left_alone(site):
    engine = Engine()
    heartbeat(Rejoin(), engine, site)
    assert engine.sent == []


def test_other_events_are_none_of_its_business():
    engine = Engine()
    heartbeat(Rejoin(), engine, "site-2", EventType.CLIENT_HEARTBEAT_RECEIVED)
    assert engine.sent == []
