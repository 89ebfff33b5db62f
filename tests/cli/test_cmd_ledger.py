import argparse
import re

import pytest

from wardround.cli import cmd_ledger, main
from wardround.dp import ledger_file
from wardround.dp.budget import EXAMPLE, FILE, read_budget
from wardround.dp.ledger import Job, Ledger
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease, repeated

SAMPLED = SampledGaussianRelease("patient", 1.0, 0.05, 200)
HOSPITAL = GaussianRelease("hospital", 8.0, 4)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="wardround", allow_abbrev=False)
    cmd_ledger.add(made.add_subparsers())
    return made


@pytest.fixture(autouse=True)
def _hooked(monkeypatch):
    monkeypatch.setattr(main, "parser", parser)


@pytest.fixture
def local(tmp_path):
    """A hospital's folder: one job ended with half of its plan, one is open."""
    (tmp_path / FILE).write_text(EXAMPLE)
    ledger, budget = Ledger(tmp_path), read_budget(tmp_path / FILE)
    first, second = Job("id-1", "brats_dp", "0.1.0"), Job("id-2", "brats_mixed", "0.1.0")
    ledger.reserve(first, {"update": SAMPLED}, budget)
    ledger.spend(first, "update", repeated(SAMPLED, 100), budget)
    ledger.close("id-1")
    ledger.reserve(second, {"shared": HOSPITAL}, budget)
    ledger.spend(second, "shared", repeated(HOSPITAL, 1), budget)
    return tmp_path


def rows(text):
    """The tables in a text: cells of every line, split at two blanks."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["show", "verify", "simulate", "close"])
def test_help_has_examples(name, capsys):
    with pytest.raises(SystemExit):
        main.main(["ledger", name, "--help"])
    assert f"\n  wardround ledger {name} local" in capsys.readouterr().out


def test_show(local, capsys):
    assert main.main(["ledger", "show", str(local)]) == 0
    out = capsys.readouterr().out
    assert f"5 entries, head {ledger_file.read(local).head()}" in out
    found = rows(out)
    assert [
        *("brats_dp", "id-1", "0.1.0", "closed"),
        *("update: per patient, noise 1, sampled at 0.05", "100", "0"),
    ] in found
    assert ["brats_mixed", "id-2", "0.1.0", "open", "shared: per hospital, noise 8, everybody", "1", "3"] in found
    patient = [row for row in found if row[1:2] == ["patient"]]
    assert [row[0] for row in patient] == ["spent", "with reserved", "budget"]
    assert float(patient[0][3]) < float(patient[1][3]) < 8
    assert {row[3] for row in found if row[1:2] == ["hospital"]} == {"infinite"}
    lines = [line for line in out.splitlines() if "second accountant" in line]
    assert len(lines) == 1
    assert lines[0].startswith("spent: a second accountant (Opacus PRV) says epsilon ")
    assert float(lines[0].split("epsilon ")[1].split()[0]) == pytest.approx(float(patient[0][3]), abs=0.03)


def test_show_without_a_budget_needs_a_delta_and_names_what_is_not_claimed(local, capsys):
    (local / FILE).unlink()
    assert main.main(["ledger", "show", str(local)]) == 2
    assert "--delta 1e-5" in capsys.readouterr().err
    assert main.main(["ledger", "show", str(local), "--delta", "1e-5"]) == 0
    out = capsys.readouterr().out
    assert ["spent", "hospital", "1e-05", "infinite", "infinite", "1.00", "1.00"] in rows(out)
    assert "nothing is claimed for that unit" in out


def test_no_ledger_is_refused(tmp_path, capsys):
    for name in ("show", "verify", "close"):
        assert main.main(["ledger", name, str(tmp_path), *(["id-1"] if name == "close" else [])]) == 2
        assert "no wardround_ledger.jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verify_a_whole_ledger(local, capsys):
    assert main.main(["ledger", "verify", str(local)]) == 0
    assert capsys.readouterr().out.startswith(f"whole: 5 entries, head {ledger_file.read(local).head()}")


def test_verify_an_interrupted_ledger(local, capsys):
    chain = ledger_file.read(local)
    ledger_file._write_head(local, chain.lines[:-1], chain.lines[-1].decode())
    assert main.main(["ledger", "verify", str(local)]) == 1
    assert "interrupted" in capsys.readouterr().out


def test_verify_after_the_clock_went_back(local, capsys, monkeypatch):
    class Earlier(ledger_file.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat("2001-01-01T00:00:00+00:00")

    monkeypatch.setattr(ledger_file, "datetime", Earlier)
    Ledger(local).close("id-2")
    assert main.main(["ledger", "verify", str(local)]) == 1
    assert "the clock went back before line 6" in capsys.readouterr().out


def test_verify_an_edited_ledger(local, capsys):
    path = local / ledger_file.FILE
    path.write_text(path.read_text().replace('"steps":100', '"steps":1'))
    assert main.main(["ledger", "verify", str(local)]) == 2
    err = capsys.readouterr().err
    assert "line 3 does not follow from line 2" in err
    assert str(path) in err


def test_verify_against_a_noted_head(local, capsys):
    noted = ledger_file.read(local).head()
    Ledger(local).close("id-2")
    assert main.main(["ledger", "verify", str(local), "--expect", noted]) == 0
    for name in (ledger_file.FILE, ledger_file.HEAD):
        (local / name).unlink()
    Ledger(local).spend(Job("id-1", "brats_dp", "0.1.0"), "update", SAMPLED, read_budget(local / FILE))
    assert main.main(["ledger", "verify", str(local)]) == 0
    for head in (noted, "1:" + "0" * 64, "x", "2"):
        assert main.main(["ledger", "verify", str(local), "--expect", head]) == 2
        assert "do not begin with those of the head" in capsys.readouterr().err


def simulate(folder, *options):
    return main.main(["ledger", "simulate", str(folder), "--unit", "patient", "--delta", "1e-5", *options])


def test_simulate_a_job_that_fits(local, capsys):
    before = (local / ledger_file.FILE).read_bytes()
    assert simulate(local, "--noise-multiplier", "1", "--sample-rate", "0.05", "--steps", "200") == 0
    out = capsys.readouterr().out
    found = {row[0]: row for row in rows(out)}
    assert found["this job alone"][3] == "4.766"
    figures = [float(found[name][3]) for name in ("spent", "with reserved", "all together")]
    assert figures == sorted(figures)
    assert "\nfits the budget of 8: epsilon per patient" in out
    assert "\nall together: a second accountant (Opacus PRV) says epsilon " in out
    assert (local / ledger_file.FILE).read_bytes() == before


def test_simulate_a_job_that_does_not_fit(local, capsys):
    assert simulate(local, "--noise-multiplier", "1", "--rounds", "4") == 1
    assert "DOES NOT FIT the budget of 8" in capsys.readouterr().out


def test_simulate_finds_the_noise_and_needs_no_ledger(tmp_path, capsys):
    assert simulate(tmp_path, "--target-epsilon", "8", "--rounds", "10") == 0
    out = capsys.readouterr().out
    assert out.startswith("per patient, noise 1.8980")
    assert ["this job alone", "patient", "1e-05", "8", "1.666", "0.798", "0.255"] in rows(out)
    assert "jobs with differential privacy are refused here" in out
    assert simulate(tmp_path, "--target-epsilon", "4", "--sample-rate", "0.05", "--steps", "200") == 0
    assert capsys.readouterr().out.startswith("per patient, noise 1.09")
    assert list(tmp_path.iterdir()) == []


def test_simulate_refuses_what_is_vacuous(tmp_path, capsys):
    assert simulate(tmp_path, "--noise-multiplier", "0.1", "--rounds", "10") == 2
    assert "not a privacy claim" in capsys.readouterr().err
    assert simulate(tmp_path, "--noise-multiplier", "0.1", "--rounds", "10", "--accept-vacuous") == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--noise-multiplier", "1"),
        ("--noise-multiplier", "1", "--steps", "3"),
        ("--noise-multiplier", "1", "--sample-rate", "0.1"),
        ("--noise-multiplier", "1", "--sample-rate", "0.1", "--rounds", "3"),
        ("--noise-multiplier", "0", "--rounds", "3"),
        ("--target-epsilon", "nan", "--rounds", "3"),
        ("--noise-multiplier", "1", "--sample-rate", "1.5", "--steps", "3"),
    ],
)
def test_simulate_refuses_options_that_make_no_sense(tmp_path, options, capsys):
    assert simulate(tmp_path, *options) == 2
    assert "to do:" in capsys.readouterr().err


def test_close_frees_a_reservation(local, capsys):
    assert main.main(["ledger", "close", str(local), "id-2"]) == 0
    assert "id-2 holds no reservation" in capsys.readouterr().out
    assert Ledger(local).state().reserved == []
    assert main.main(["ledger", "close", str(local), "id-9"]) == 2
    assert "no job 'id-9'" in capsys.readouterr().err
