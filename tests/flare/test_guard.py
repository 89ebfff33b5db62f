"""A server that lies, at the very door: NVFlare's own dispatcher, built from a site's own files, and messages without any header.

NVFlare asks for a role only where the message says so, so the policy file alone stops nobody here.
"""

import shlex
import shutil
from argparse import Namespace
from contextlib import suppress

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.fuel.f3.cellnet.core_cell import Message as CellMessage
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.sec.audit import AuditService
from nvflare.fuel.utils.config_service import ConfigService
from nvflare.private.admin_defs import Message
from nvflare.private.defs import InfoCollectorTopic, RequestHeader, SysCommandTopic, TrainingTopic
from nvflare.private.fed.app.fl_conf import FLClientStarterConfiger
from nvflare.private.fed.client.admin import FedAdminAgent, RequestProcessor
from nvflare.private.fed.client.admin_commands import AdminCommands
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from wardround.cli.main import main
from wardround.flare.kit import write_changed

JOB = "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f"
NETWORK_TOOLS = "_net_manager"
SHELL = [
    "cat startup/client.key",
    "cat /etc/hostname",
    "cat ../site-1.private/secret.txt",
    "head local/authorization.json",
    "tail local/authorization.json",
    "grep a local/authorization.json",
    "ls -R .",
    "pwd",
]
AFAR = [
    SysCommandTopic.CONFIGURE_SITE_LOG,
    SysCommandTopic.SYS_INFO,
    SysCommandTopic.REPORT_ENV,
    SysCommandTopic.REPORT_RESOURCES,
    TrainingTopic.CONFIGURE_JOB_LOG,
    TrainingTopic.DELETE_RUN,
    TrainingTopic.RESTART,
    TrainingTopic.SHUTDOWN,
    InfoCollectorTopic.SHOW_STATS,
    InfoCollectorTopic.SHOW_ERRORS,
    InfoCollectorTopic.RESET_ERRORS,
]
FOLDERS = ["local", "startup", "..", ".", "", "/etc", f"{JOB}/..", JOB.upper(), JOB[:-1], JOB + "\n", 7, ["local"]]


class Cell:
    """As much of NVFlare's cell as its admin agent and our guard ask for."""

    def __init__(self):
        self.filters = []

    def register_request_cb(self, channel, topic, cb):
        """The test calls the agent itself."""

    def add_incoming_request_filter(self, channel, topic, cb):
        self.filters.append((channel, topic, cb))


class Inner(RequestProcessor):
    """Stands behind every kept topic and notes what gets through."""

    def __init__(self, topics):
        self.topics, self.seen = topics, []

    def get_topics(self):
        return self.topics

    def process(self, req, app_ctx):
        self.seen.append(req.get_header(RequestHeader.JOB_ID))
        return Message("reply", "done")


class Extra(Inner):
    """A processor that some other component of the site's file would register."""

    def __init__(self):
        super().__init__(["mine.read"])


class Site:
    """The parent process of a site, as far as it listens: built by NVFlare from the files of its workspace."""

    def __init__(self, root):
        self.root, self.cell = root, Cell()
        AuditService.initialize(str(root / "audit.txt"))
        said = ["secure_train=true", "uid=site-1", "org=hospital_1", "config_folder=config"]
        args = Namespace(workspace=str(root), fed_client="fed_client.json", job_id=None, set=said)
        configer = FLClientStarterConfiger(Workspace(str(root), "site-1"), args, said)
        configer.configure()
        deployer = configer.base_deployer
        processors = [*deployer.req_processors, *(c for c in deployer.components.values() if isinstance(c, Inner))]
        self.args = args
        self.agent = FedAdminAgent("admin_agent", self.cell, self)
        # NVFlare's own components start threads that only a whole process ends.
        self.ours = [one for one in configer.handlers if type(one).__module__.startswith("wardround.")]
        self.fire(EventType.SYSTEM_BOOTSTRAP)
        for one in processors:
            self.agent.register_processor(one)
        self.admin_agent = self.agent
        self.fire(EventType.SYSTEM_START)

    def fire(self, event):
        for one in self.ours:
            one.handle_event(event, self.new_context())

    def new_context(self):
        fl_ctx = FLContext()
        fl_ctx.set_prop("__engine__", self, private=True, sticky=False)
        return fl_ctx

    def get_cell(self):
        return self.cell

    def answer(self, topic, body="", **headers):
        """What the site replies to a message that asks for no authorization."""
        message = Message(topic, body)
        for name, value in headers.items():
            message.set_header(name, value)
        return str(self.agent._dispatch_request(CellMessage(payload=message)).payload.body)


@pytest.fixture
def kit(provisioned, tmp_path, monkeypatch):
    """A hardened kit, its process in its own folder, and NVFlare's lists of what it obeys as they are when it starts."""
    root = shutil.copytree(provisioned / "site-1", tmp_path / "site-1")
    lists = (ClientRequestProcessors.request_processors, AdminCommands.commands)
    before = [list(one) for one in lists]
    monkeypatch.chdir(root)
    yield root
    for one, was in zip(lists, before, strict=True):
        one[:] = was
    ConfigService.reset()


@pytest.fixture(scope="module")
def hardened_kit(provisioned, tmp_path_factory):
    """A kit that was hardened once: it takes seconds, and names no path of its own."""
    root = shutil.copytree(provisioned / "site-1", tmp_path_factory.mktemp("hardened") / "site-1")
    assert main(["sites", "harden", str(root)]) == 0
    assert str(root) not in (root / "local" / "resources.json").read_text()
    return root


@pytest.fixture
def hardened(kit, hardened_kit):
    shutil.copytree(hardened_kit / "local", kit / "local", dirs_exist_ok=True)
    kit.with_name("site-1.private").mkdir(exist_ok=True)
    (kit.with_name("site-1.private") / "secret.txt").write_text("SECRET")
    return Site(kit)


def test_the_lying_server_reads_an_unhardened_sites_key(kit):
    assert "PRIVATE KEY" in Site(kit).answer(SysCommandTopic.SHELL, "cat startup/client.key")


@pytest.mark.parametrize("headers", [{}, {RequestHeader.REQUIRE_AUTHZ: "false"}, {RequestHeader.ADMIN_COMMAND: "cat"}])
def test_a_hardened_site_runs_no_command_whoever_asks(hardened, headers):
    for command in SHELL:
        replied = hardened.answer(SysCommandTopic.SHELL, command, **headers)
        assert replied == "invalid_request", shlex.split(command)


def test_nor_does_it_take_what_its_own_people_do_on_its_machine(hardened):
    assert {topic: hardened.answer(topic, "DEBUG", **{RequestHeader.JOB_ID: JOB}) for topic in AFAR} == dict.fromkeys(
        AFAR, "invalid_request"
    )


def test_a_processor_that_another_component_registers_is_taken_out_too(kit):
    assert main(["sites", "harden", str(kit)]) == 0
    mine = {"id": "mine", "path": f"{__name__}.Extra", "args": {}}
    write_changed(kit / "local" / "resources.json", lambda found: found | {"components": [*found["components"], mine]})
    assert Site(kit).answer("mine.read") == "invalid_request"


def test_every_start_of_the_process_is_guarded_and_what_a_job_needs_is_obeyed(kit):
    """Built twice in one process, as after a restart: nothing is checked twice or lost."""
    assert main(["sites", "harden", str(kit)]) == 0
    for _ in range(2):
        topics = set(Site(kit).agent.processors)
    assert topics >= {
        TrainingTopic.DEPLOY,
        TrainingTopic.START_JOB,
        TrainingTopic.CHECK_RESOURCE,
        TrainingTopic.CANCEL_RESOURCE,
        TrainingTopic.ABORT,
        TrainingTopic.CHECK_STATUS,
    }
    assert not topics & {SysCommandTopic.SHELL, *AFAR}


@pytest.mark.parametrize("topic", [TrainingTopic.DEPLOY, TrainingTopic.START_JOB, TrainingTopic.ABORT])
def test_a_job_id_is_one_and_never_the_name_of_another_folder(kit, monkeypatch, topic):
    """NVFlare deletes the folder of this name before it deploys: `local` would take the policy and the ledger away."""
    assert main(["sites", "harden", str(kit)]) == 0
    inner = Inner([topic])
    others = [one for one in ClientRequestProcessors.request_processors if topic not in one.get_topics()]
    ClientRequestProcessors.request_processors[:] = [*others, inner]
    site = Site(kit)
    for folder in FOLDERS:
        assert "no job id" in site.answer(topic, **{RequestHeader.JOB_ID: folder})
    assert inner.seen == []
    assert site.answer(topic, **{RequestHeader.JOB_ID: JOB}) == "done"
    assert inner.seen == [JOB]


def test_a_job_that_ran_here_is_not_deployed_again_over_its_receipts(hardened):
    receipts = hardened.root / JOB / "wardround" / "releases.jsonl"
    receipts.parent.mkdir(parents=True)
    receipts.write_text("{}")
    replied = hardened.answer(TrainingTopic.DEPLOY, b"", **{RequestHeader.JOB_ID: JOB, RequestHeader.JOB_META: {}})
    assert "receipts are kept" in replied
    assert receipts.is_file()


def test_the_networks_tools_are_closed(hardened):
    ((channel, topic, refuse),) = hardened.cell.filters
    assert (channel, topic) == (NETWORK_TOOLS, "*")
    assert refuse(CellMessage(payload="stop")).get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.INVALID_REQUEST


@pytest.mark.usefixtures("hardened")
def test_a_jobs_own_process_obeys_its_end_and_no_log_configuration():
    gone = (
        AdminCommandNames.CONFIGURE_JOB_LOG,
        AdminCommandNames.SHOW_ERRORS,
        AdminCommandNames.SHOW_STATS,
        AdminCommandNames.RESET_ERRORS,
    )
    assert [name for name in gone if AdminCommands.get_command(name)] == []
    for name in (AdminCommandNames.ABORT, AdminCommandNames.ABORT_TASK, AdminCommandNames.CHECK_STATUS):
        assert AdminCommands.get_command(name) is not None


def test_a_hardened_partys_process_writes_for_its_owner_only(hardened, tmp_path):
    with suppress(FileExistsError):
        (tmp_path / "log.txt").touch()
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o600
