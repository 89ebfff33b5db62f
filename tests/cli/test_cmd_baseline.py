import json
from pathlib import Path

import pytest

from wardround.cli.main import main
from wardround.training.prediction import read_weights


@pytest.fixture(scope="module")
def outs(hospitals: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All baselines on the two small hospitals; the central one with the work of both."""
    found = {}
    for kind, more in (("local", ()), ("ensemble", ()), ("central", ("--work-factor", "2"))):
        found[kind] = tmp_path_factory.mktemp(kind)
        sites = ("--sites", str(hospitals / "sites.json"))
        assert (
            main(["baseline", kind, "--job", "brats_perfedavg", *sites, *tiny, *more, "--out", str(found[kind])]) == 0
        )
    return found


@pytest.mark.parametrize(("kind", "evaluations"), [("local", 4), ("ensemble", 4), ("central", 8)])
def test_the_file_holds_every_site_and_the_budget(kind: str, evaluations: int, outs: dict[str, Path]) -> None:
    result = json.loads((outs[kind] / "baseline.json").read_text())
    assert result["baseline"] == kind
    assert result["gradient_evaluations"] == evaluations
    for row in result["sites"].values():
        assert 0 <= row["val"] <= 1
        assert {"dice_mean", "dice_ET", "dice_TC", "dice_WT", "hd95_mm_WT"} <= row["test"].keys()
        assert row["test"]["dice_mean"]["cases"] == row["cases"] >= 1


def test_weights_can_be_read_and_differ_between_hospitals(outs: dict[str, Path]) -> None:
    first, second = (read_weights(outs["local"] / f"site-{n}.npz") for n in (1, 2))
    assert first.spec == second.spec
    assert first.meta["patch"] == [16, 16, 16]
    assert any((first.arrays[name] != second.arrays[name]).any() for name in first.arrays)
    assert read_weights(outs["central"] / "central.npz").meta["settings"]["work"] == 8


def test_the_table_shows_every_site(
    hospitals: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "mine.json"
    data = {"data": str(hospitals / "site-1"), "name": "Mercy", "cache": str(tmp_path / "cache")}
    file.write_text(json.dumps({"a": data}))
    monkeypatch.setenv("WARDROUND_SITES", str(file))
    assert (
        main(["baseline", "local", "--job", "brats_fedavg", *tiny, "--out", str(tmp_path / "o"), "--device", "cpu"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "a (Mercy)" in out
    assert "mean over sites" in out
    assert "round 1/1, loss" in err
    assert (tmp_path / "cache" / "cases").is_dir()


def test_no_data_is_refused_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "central", "--job", "brats_fedavg"]) == 2
    assert "wardround phantoms" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("--set", "lr=-1"), ("--set", "sampling.patch=[1]"), ("--device", "cuda:99"), ("--device", "gpu")]
)
def test_wrong_settings_are_refused(
    wrong: tuple[str, ...], hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = ("--sites", str(hospitals / "sites.json"), "--out", str(tmp_path / "o"))
    assert main(["baseline", "local", "--job", "brats_fedavg", *sites, *wrong]) == 2
    said = capsys.readouterr().err
    assert "to do:" in said
    assert ("`--device auto`" in said) == (wrong[0] == "--device")
