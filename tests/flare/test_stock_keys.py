from pathlib import Path

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_opt.he.homomorphic_encrypt import load_tenseal_context_from_workspace
from nvflare.fuel.sec.security_content_service import SecurityContentService

from wardround.errors import ConfigRefused
from wardround.flare.stock_keys import KEYS, SERVER_FILE, SITE_FILE, StockKeys

REAL = "3c3b9a5e-job"


def keys(file):
    return StockKeys(file, 8192, [60, 40, 40], 40)


@pytest.fixture(autouse=True)
def startup(workspace, monkeypatch):
    """This party's startup folder, where NVFlare looks for signed content."""
    monkeypatch.setattr(SecurityContentService, "security_content_manager", None)
    monkeypatch.setattr(SecurityContentService, "content_folder", None)
    SecurityContentService.initialize(workspace.get_startup_kit_dir())
    return Path(workspace.get_startup_kit_dir())


@pytest.fixture
def insecure(context):
    """insecure(job=...) -> a context without a public key infrastructure, as in the simulator"""

    def make(**given):
        fl_ctx = context(**given)
        fl_ctx.set_prop(FLContextKey.SECURE_MODE, False, private=True, sticky=False)
        return fl_ctx

    return make


def start(file, fl_ctx):
    """Fire both events, as NVFlare does at a site; a server fires the second only."""
    made = keys(file)
    for event in (EventType.ABOUT_TO_START_RUN, EventType.START_RUN)[file == SERVER_FILE :]:
        made.handle_event(event, fl_ctx)


def events(fl_ctx):
    return [name for name, _ in fl_ctx.get_engine().events]


def test_in_the_simulator_a_site_gets_the_secret_key_and_the_server_does_not(insecure, tmp_path):
    fl_ctx = insecure()
    for file, secret in ((SITE_FILE, True), (SERVER_FILE, False)):
        start(file, fl_ctx)
        assert load_tenseal_context_from_workspace(file, fl_ctx).is_private() is secret
    assert events(fl_ctx) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEYS, "party"]


def test_a_server_gets_one_file_only(insecure, startup):
    start(SERVER_FILE, insecure())
    assert [path.name for path in startup.iterdir()] == [SERVER_FILE]


def test_both_are_one_pair(insecure):
    """What a site encrypts, a server without the key adds, and a site decrypts."""
    from nvflare.app_opt.he.decomposers import ts

    fl_ctx = insecure()
    for file in (SITE_FILE, SERVER_FILE):
        start(file, fl_ctx)
    site, server = (load_tenseal_context_from_workspace(file, fl_ctx) for file in (SITE_FILE, SERVER_FILE))
    sent = ts.ckks_vector_from(server, ts.ckks_vector(site, [1.0, 2.0]).serialize())
    with pytest.raises(ValueError, match="secret_key"):
        sent.decrypt()
    total = ts.ckks_vector_from(site, (sent + sent).serialize())
    assert total.decrypt() == pytest.approx([2.0, 4.0], abs=1e-6)


def test_all_parties_of_a_run_share_the_pair(insecure, startup):
    found = []
    for _ in range(2):
        start(SITE_FILE, insecure())
        found.append((startup / SITE_FILE).read_bytes())
    assert found[0] == found[1]


def test_a_file_of_an_earlier_run_is_replaced(insecure, startup, tmp_path):
    (startup / SITE_FILE).write_bytes(b"old")
    start(SITE_FILE, insecure())
    assert (tmp_path / KEYS / SITE_FILE).read_bytes() == (startup / SITE_FILE).read_bytes()


def test_the_slower_party_takes_the_files_of_the_faster(tmp_path):
    """Both found no folder and made a pair: the first pair stands, and nothing else is left behind."""
    made = keys(SITE_FILE)
    made._make(tmp_path / KEYS)
    first = (tmp_path / KEYS / SITE_FILE).read_bytes()
    made._make(tmp_path / KEYS)
    assert (tmp_path / KEYS / SITE_FILE).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEYS, "party"]


@pytest.mark.parametrize("file", [SITE_FILE, SERVER_FILE])
def test_a_real_party_without_a_context_is_refused_with_the_files_name(file, insecure, startup, tmp_path, caplog):
    fl_ctx = insecure(job=REAL)
    with pytest.raises(ConfigRefused, match=file.replace(".", r"\.")):
        keys(file).require(fl_ctx)
    start(file, fl_ctx)
    assert caplog.text.count(f"REFUSED by site-1 (config): the CKKS context {file}") == 1
    assert list(startup.iterdir()) == []
    assert not (tmp_path / KEYS).exists()
    assert (EventType.FATAL_SYSTEM_ERROR in events(fl_ctx)) is (file == SERVER_FILE)


@pytest.fixture
def pair(tmp_path):
    keys(SITE_FILE)._make(tmp_path / KEYS)
    return {name: (tmp_path / KEYS / name).read_bytes() for name in (SITE_FILE, SERVER_FILE)}


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [(SERVER_FILE, SITE_FILE, "with the secret key"), (SITE_FILE, SERVER_FILE, "without the secret key")],
)
def test_the_wrong_one_of_the_two_is_refused(file, content, found, pair, insecure, startup):
    (startup / file).write_bytes(pair[content])
    with pytest.raises(ConfigRefused) as refusal:
        keys(file).require(insecure(job=REAL))
    assert refusal.value.found == f"one {found}"


def test_garbage_is_refused(insecure, startup):
    (startup / SITE_FILE).write_bytes(b"no context")
    with pytest.raises(ConfigRefused, match="client_context"):
        keys(SITE_FILE).require(insecure(job=REAL))


def test_an_unsigned_file_is_refused_where_there_are_signatures(pair, context, startup):
    (startup / SITE_FILE).write_bytes(pair[SITE_FILE])
    with pytest.raises(ConfigRefused, match="HEBuilder"):
        keys(SITE_FILE).require(context(job=REAL))


@pytest.mark.parametrize(
    "given", [(None, 8192, [60, 40, 40], 40), ("other.tenseal", 8192, [60, 40, 40], 40), (SITE_FILE, None, [60], 40)]
)
def test_settings_that_are_not_there_are_refused(given):
    with pytest.raises(ConfigRefused, match="CKKS"):
        StockKeys(*given)


def test_other_events_do_nothing(insecure, tmp_path):
    for event in (EventType.START_RUN, EventType.END_RUN):
        keys(SITE_FILE).handle_event(event, insecure())
    keys(SERVER_FILE).handle_event(EventType.ABOUT_TO_START_RUN, insecure())
    assert not (tmp_path / KEYS).exists()
