from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused
from wardround.serving.limits import Limits, Token, read_token

GOOD = "k7Jm2pQx9Lr4Tz8Wv3Nb6Yc1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(GOOD + "\n")
    path.chmod(0o600)
    return path


def test_a_file_wins_over_the_variable(file: Path) -> None:
    token = read_token(file, {"WARDROUND_TOKEN": "x" * 30})
    assert token.opens(f"Bearer {GOOD}")
    assert token.opens(f"bearer  {GOOD} ")
    assert read_token(None, {"WARDROUND_TOKEN": GOOD}) == token
    assert GOOD not in repr(token)


@pytest.mark.parametrize(
    "header",
    ["", GOOD, f"Basic {GOOD}", f"Bearer {GOOD[:-1]}", f"Bearer {GOOD}1", "Bearer ", "Bearer é", "Bearer \udcff"],
)
def test_what_does_not_open(header: str) -> None:
    assert not read_token(None, {"WARDROUND_TOKEN": GOOD}).opens(header)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o777])
def test_a_file_that_others_may_touch(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigRefused, match="chmod 600"):
        read_token(file, {})


@pytest.mark.parametrize("text", ["", "short", "x" * 23, "two words " * 5, "é" * 30, "a\nb" * 12])
def test_no_weak_token(text: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        read_token(None, {"WARDROUND_TOKEN": text})
    assert not text or text not in str(caught.value)


def test_no_token_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="none"):
        read_token(None, {})
    with pytest.raises(ConfigRefused, match="No such file"):
        read_token(tmp_path / "absent", {"WARDROUND_TOKEN": GOOD})
    with pytest.raises(ConfigRefused):
        read_token(tmp_path, {})


def test_limits_make_sense() -> None:
    good = {"upload": 1, "unpacked": 1, "voxels": 1, "waiting": 0, "upload_s": 1, "work_s": 1}
    assert Limits(**good).waiting == 0  # type: ignore[arg-type]
    for name in good:
        with pytest.raises(ConfigRefused):
            Limits(**good | {name: -1})  # type: ignore[arg-type]


def test_equal_tokens_are_equal() -> None:
    assert Token(b"a" * 32) == Token(b"a" * 32)
