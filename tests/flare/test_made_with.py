import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.shareable import Shareable

import wardround
from wardround import __version__
from wardround.errors import VersionRefused
from wardround.flare import made_with, wire
from wardround.flare.made_with import ID, INSTALLED, MadeWith, package_digest, package_files, require_made_with
from wardround.flare.places import private_folder
from wardround.flare.site_parts import REASONS, guarded


@pytest.mark.parametrize("code", [INSTALLED, package_digest()])
def test_what_it_was_made_with_may_run(context, code):
    require_made_with(context(**{ID: MadeWith(__version__, code)}))


@pytest.mark.parametrize(
    ("promise", "says"),
    [
        (MadeWith("9.9.9", INSTALLED), r"wardround 9\.9\.9, with which[\s\S]*pip install wardround==9\.9\.9"),
        (MadeWith(__version__, "0" * 64), r"of other code[\s\S]*sha256 0000000000000000[\s\S]*uninstall wardround"),
        (None, "without the component 'made_with'"),
        ("something else", "without the component 'made_with'"),
    ],
)
def test_anything_else_is_refused_with_what_to_install(context, promise, says):
    with pytest.raises(VersionRefused, match=says):
        require_made_with(context(**{ID: promise}))


@pytest.mark.parametrize(
    ("version", "code"), [(None, INSTALLED), ("", INSTALLED), (__version__, None), (__version__, "")]
)
def test_a_promise_has_both_parts(version, code):
    with pytest.raises(VersionRefused):
        MadeWith(version, code)


def test_a_site_refuses_before_it_works_and_the_server_reads_why(context):
    """The word travels: which version runs where is no secret. Nothing was done."""
    done = []
    fl_ctx = context(job="a1b2c3", **{ID: MadeWith("9.9.9", INSTALLED)})
    reply = guarded(FLComponent(), fl_ctx, lambda: done.append(1) or Shareable())
    assert (done, wire.refusal_code(reply)) == ([], "version")
    assert "pip install wardround==9.9.9" in (private_folder(fl_ctx) / REASONS).read_text()


@pytest.mark.parametrize(("version", "stopped"), [(__version__, False), ("9.9.9", True)])
def test_a_server_does_not_start_and_a_site_leaves_the_others_alone(context, monkeypatch, version, stopped):
    fl_ctx = context()
    promise = MadeWith(version, INSTALLED)
    promise.handle_event(EventType.START_RUN, fl_ctx)
    assert fl_ctx.get_engine().events == []
    monkeypatch.setattr(made_with, "ServerEngineSpec", type(fl_ctx.get_engine()))
    promise.handle_event(EventType.END_RUN, fl_ctx)
    assert fl_ctx.get_engine().events == []
    promise.handle_event(EventType.START_RUN, fl_ctx)
    assert [name for name, _ in fl_ctx.get_engine().events] == [EventType.FATAL_SYSTEM_ERROR] * stopped


def test_the_package_is_its_code_alone():
    root = Path(wardround.__file__).parent
    assert set(package_files()) == {p.relative_to(root).as_posix() for p in root.rglob("*.py")} | {"py.typed"}


def test_the_digest_is_that_of_names_and_bytes_wherever_it_lies(tmp_path):
    """Slow oracle, and the same package copied elsewhere; one byte more is another digest."""
    lines = b"".join(
        hashlib.sha256(name.encode()).digest() + hashlib.sha256(path.read_bytes()).digest()
        for name, path in sorted(package_files().items())
    )
    assert package_digest() == hashlib.sha256(lines).hexdigest()
    for name, path in package_files().items():
        target = tmp_path / "wardround" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    code = "from wardround.flare.made_with import package_digest; print(package_digest())"

    def elsewhere() -> str:
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert elsewhere() == package_digest()
    with (tmp_path / "wardround" / "rng.py").open("a") as out:
        out.write("\n")
    assert elsewhere() != package_digest()
