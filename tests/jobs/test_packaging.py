import json
import subprocess
import sys
from pathlib import Path

import pytest

from wardround import __version__
from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.flare.made_with import package_digest, package_files
from wardround.jobs import folder, packaging, recipes

NAME = "brats_fedavg"


@pytest.fixture
def job(tmp_path):
    return folder.write(recipes.job(NAME), tmp_path / "jobs" / NAME)


def promises(files):
    found = [json.loads(files[name])["components"][0] for name in packaging.SIDES]
    assert all(part["id"] == "made_with" for part in found)
    return [part["args"] for part in found]


def test_config_only_is_the_job_without_custom():
    files = packaging.printed_job(recipes.job(NAME))
    made = packaging.config_only(files)
    assert set(files) - set(made) == {"app/custom/requirements.txt"}
    assert all(made[name] == files[name] for name in made)
    assert promises(made) == [{"version": __version__, "code": "installed"}] * 2


def test_with_code_brings_the_package_and_promises_that_it_is_what_runs():
    made = packaging.with_code(packaging.printed_job(recipes.job(NAME)))
    prefix = "app/custom/wardround/"
    code = {name.removeprefix(prefix): content for name, content in made.items() if name.startswith(prefix)}
    assert code == {name: path.read_bytes() for name, path in package_files().items()}
    assert promises(made) == [{"version": __version__, "code": package_digest()}] * 2
    assert not [name for name in made if name.endswith((".yaml", ".yml"))], "`nvflare job submit` parses them"
    assert not [name for name in made if "__pycache__" in name or "test" in name]


def test_but_for_code_and_promise_both_forms_are_the_same_job():
    files = packaging.printed_job(recipes.job(NAME))
    bare, full = packaging.config_only(files), packaging.with_code(files)
    for name in packaging.SIDES:
        ours, theirs = json.loads(bare[name]), json.loads(full[name])
        assert ours.pop("components")[1:] == theirs.pop("components")[1:]
        assert ours == theirs
    assert {name: full[name] for name in bare if name not in packaging.SIDES} == {
        name: content for name, content in bare.items() if name not in packaging.SIDES
    }


@pytest.mark.parametrize("form", ["--config-only", "--with-code"])
def test_a_name_and_the_folder_it_prints_give_the_same_bytes(job, tmp_path, capsys, form):
    assert main(["package", NAME, form, "--out", str(tmp_path / "a")]) == 0
    first = capsys.readouterr().out
    assert main(["package", str(job), form, "--out", str(tmp_path / "b")]) == 0
    second = capsys.readouterr().out
    written = [
        {
            path.relative_to(tmp_path / side / NAME): path.read_bytes()
            for path in (tmp_path / side).rglob("*")
            if path.is_file()
        }
        for side in "ab"
    ]
    assert written[0] == written[1]
    assert len(written[0]) == int(first.split("(")[1].split()[0])
    digests = [text.split("sha256:")[1].strip() for text in (first, second)]
    assert digests[0] == digests[1] == packaging.digest({str(name): content for name, content in written[0].items()})


def test_settings_and_sites_are_those_that_were_asked_for(tmp_path, capsys):
    words = [
        "package",
        NAME,
        "--config-only",
        "--out",
        str(tmp_path),
        "--set",
        "num_rounds=7",
        "--sites",
        "mercy,st-john",
    ]
    assert main(words) == 0
    assert json.loads((tmp_path / NAME / "meta.json").read_text())["deploy_map"] == {
        "app": ["server", "mercy", "st-john"]
    }
    server = json.loads((tmp_path / NAME / packaging.SIDES[0]).read_text())
    assert server["workflows"][0]["args"]["num_rounds"] == 7


def spoil_version(job):
    file = job / packaging.SIDES[1]
    file.write_text(file.read_text().replace(f'"version": "{__version__}"', '"version": "0.0.9"'))


def drop_promise(job):
    file = job / packaging.SIDES[0]
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"components": config["components"][1:]}))


def another_app_with_code(job):
    (job / "app_2/custom").mkdir(parents=True)
    (job / "app_2/custom/mine.py").write_text("print()")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_version, r"made with wardround 0\.0\.9"),
        (drop_promise, "made with wardround none"),
        (lambda job: (job / "app/custom/mine.py").write_text("print()"), r"code of its own: app/custom/mine\.py"),
        (another_app_with_code, r"code of its own: app_2/custom/mine\.py"),
        (lambda job: (job / packaging.SIDES[0]).unlink(), r"no app/config/config_fed_server\.json"),
        (lambda job: (job / "app/more").symlink_to(job), "the links app/more"),
    ],
)
def test_a_folder_that_is_not_as_printed_is_refused(job, tmp_path, capsys, spoil, says):
    spoil(job)
    with pytest.raises(ConfigRefused, match=says):
        packaging.read_job(job)
    assert main(["package", str(job), "--with-code", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over_what_is_there(tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "old.txt").write_text("old")
    assert main(["package", NAME, "--config-only", "--out", str(tmp_path)]) == 2
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["old.txt"]


WRONG = [
    ["no_such_job", "--config-only"],
    ["JOB", "--with-code", "--set", "num_rounds=2"],
    [NAME, "--config-only", "--set", "num_rounds=none"],
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_refused(job, tmp_path, words):
    asked = [str(job) if word == "JOB" else word for word in words]
    assert main(["package", *asked, "--out", str(tmp_path / "out")]) == 2


def test_one_of_the_two_forms_must_be_asked_for(tmp_path):
    with pytest.raises(SystemExit):
        main(["package", NAME, "--out", str(tmp_path)])


def test_the_copy_in_a_job_works_where_nothing_is_installed(tmp_path):
    """Imported from app/custom alone, it is this version and has the promised digest."""
    made = packaging.write(packaging.with_code(packaging.printed_job(recipes.job(NAME))), tmp_path / NAME)
    code = "import wardround.flare.made_with as m; print(m.__file__, m.package_digest())"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": str(made / "app" / "custom")},
        capture_output=True,
        text=True,
        check=True,
    )
    file, digest = done.stdout.split()
    assert Path(file).is_relative_to(made)
    assert digest == package_digest()
