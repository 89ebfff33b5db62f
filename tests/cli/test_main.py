import argparse
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wardround.cli import cmd_jobs, main
from wardround.core.errors import ConfigRefused

HEAVY = {"torch", "monai", "nibabel", "numpy", "scipy", "matplotlib", "nvflare"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_without_arguments_an_overview_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 0
    text = capsys.readouterr().out
    for command in ("data", "phantoms", "partition", "jobs", "baseline", "report", "predict"):
        assert f"\n    {command}" in text


def test_every_help_has_an_example_and_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for parser in parsers(main.parser()):
        text = parser.format_help()
        assert re.search(rf"^  {re.escape(parser.prog)}\b", text, re.MULTILINE) or parser.prog == "wardround", (
            parser.prog
        )
        silent = [action.dest for action in parser._actions if not action.help and action.metavar != "COMMAND"]
        assert not silent, f"{parser.prog}: {silent}"


@pytest.mark.parametrize("group", ["data", "jobs", "baseline", "partition"])
def test_a_group_alone_prints_its_own_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([group]) == 0
    assert f"usage: wardround {group}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["jobs", "--help"], ["jobs", "write", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom wardround.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert done.stdout.startswith("usage: wardround")
    assert "wardround.cli.main" in loaded
    assert not HEAVY & set(loaded)


def test_the_recipes_of_jobs_read_no_table_and_import_nothing_heavy() -> None:
    code = "import sys; import wardround.jobs.recipes; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "wardround.dp.accounting" in loaded
    assert not (HEAVY | {"wardround.data.ehr"}) & set(loaded)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigRefused("a thing", found="this", expected="that", fix="mend it"), 2, "to do:    mend it"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "the file /x/y\n  found:    Permission denied\n"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_are_told_without_a_traceback(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cmd_jobs, "list_jobs", fail)
    assert main.main(["jobs", "list"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cmd_jobs, "list_jobs", fail)
    with pytest.raises(ZeroDivisionError):
        main.main(["jobs", "list"])


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from wardround.cli.main import main; sys.exit(main(['jobs', 'list']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 141


def test_unknown_commands_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["dance"])
    assert stop.value.code == 2
    assert "dance" in capsys.readouterr().err
