"""What is refused before anything is served; the service itself: tests/serving."""

from pathlib import Path

import numpy as np
import pytest

from wardround.cli.cmd_serve import require_address
from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.models import checkpoint


def test_no_start_without_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.delenv("WARDROUND_TOKEN", raising=False)
    assert main(["serve", str(tmp_path)]) == 2
    assert "--token-file" in capsys.readouterr().err
    monkeypatch.setenv("WARDROUND_TOKEN", "short")
    assert main(["serve", str(tmp_path)]) == 2
    assert "24 or more" in capsys.readouterr().err


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("WARDROUND_TOKEN", "x" * 30)
    assert main(["serve", str(tmp_path)]) == 2
    assert "the bundle" in capsys.readouterr().err
    for wrong in (["--port", "70000"], ["--port", "x"], ["--upload-mib", "0"]):
        with pytest.raises(SystemExit):
            main(["serve", str(tmp_path), *wrong])


def test_a_classifier_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("WARDROUND_TOKEN", "x" * 30)
    file = tmp_path / "m.npz"
    checkpoint.save(file, {"w": np.zeros(1, np.float32)}, "0" * 16, {"model": {"path": "ViTFusion", "args": {}}})
    assert main(["serve", str(file)]) == 2
    assert "answers with masks" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_this_machine(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    require_address(host, opened=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4"])  # noqa: S104
def test_the_network_needs_a_flag_and_is_warned_of(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigRefused, match="--open-to-network"):
        require_address(host, opened=False)
    require_address(host, opened=True)
    assert "TLS" in capsys.readouterr().err


def test_a_name_is_no_address() -> None:
    with pytest.raises(ConfigRefused, match="no IP address"):
        require_address("localhost", opened=True)
