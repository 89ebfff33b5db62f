import base64
import re
from pathlib import Path

from wardround.reports import pictures
from wardround.reports.html import PARTS


def gallery(paths: list[Path]) -> str:
    return str(PARTS.gallery(pictures.gallery(paths)))


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_pictures_are_inside_and_described(tmp_path: Path) -> None:
    path = tmp_path / "north_case.png"
    path.write_bytes(PIXEL)
    found = gallery([path])
    inside = re.search(r'src="data:image/png;base64,([^"]+)"', found)
    assert inside
    assert base64.b64decode(inside.group(1)) == PIXEL
    assert 'alt="Overlay north case:' in found


def test_a_bad_picture_does_not_cost_the_others(tmp_path: Path) -> None:
    good, fake = tmp_path / "good.png", tmp_path / "<b>.png"
    good.write_bytes(PIXEL)
    fake.write_text("<svg onload=alert(1)>")
    found = gallery([fake, tmp_path / "absent.png", tmp_path, good])
    assert found.count("could not be read") == 3
    assert found.count("<img") == 1
    assert "<b>" not in found
    assert pictures.gallery([]) == []
