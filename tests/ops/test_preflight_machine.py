from datetime import datetime, timedelta, timezone

import pytest

from wardround.core.errors import ConfigRefused
from wardround.ops import preflight_machine as machine
from wardround.ops.findings import FAIL, PASS, WARN
from wardround.training.opening import pick_device

NOW = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


def test_disk_is_nine_bytes_per_voxel_and_two_gigabytes():
    voxels = 100 * 240 * 240 * 155
    need = 9 * voxels + 2_000_000_000
    assert machine.disk("/cache", need, voxels).status == PASS
    short = machine.disk("/cache", need - 1, voxels)
    assert (short.status, "cache" in short.fix) == (FAIL, True)
    assert "10.0 GB needed" in short.found


def test_what_a_cached_case_takes_is_what_is_counted(tmp_path):
    """A real cohort, decoded: the arrays are nine bytes per voxel, up to headers and foreground."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    write_cohort(tmp_path / "data", hospital(0), seed=0, shape=(40, 40, 40), patients=3)
    open_cohort(SiteConfig(tmp_path / "data"), tmp_path / "cache", lambda text: None)
    arrays = [path for name in ("image.npy", "labels.npy") for path in (tmp_path / "cache").rglob(name)]
    taken = sum(path.stat().st_size for path in arrays)
    assert len(arrays) == 6
    assert taken == pytest.approx(3 * 40**3 * machine.CACHE_BYTES_PER_VOXEL, rel=0.01)


@pytest.mark.parametrize(("gigabytes", "status"), [(0.5, FAIL), (3, WARN), (16, PASS)])
def test_memory(gigabytes, status):
    assert machine.memory(int(gigabytes * 1e9)).status == status


def test_gpu():
    def absent(wish):
        raise ConfigRefused(f"device {wish!r}", found="0 usable GPUs", expected="a GPU", fix='set "device": "cpu"')

    assert machine.gpu("cpu", pick_device, str).status == PASS
    assert machine.gpu("auto", lambda wish: "cpu", str).status == WARN
    assert machine.gpu("auto", lambda wish: "cuda", lambda device: f"GPU of {device}").found == "GPU of cuda"
    assert machine.gpu("cuda:9", absent, str).status == FAIL
    assert machine.gpu("cuda:99", pick_device, str).status == FAIL, "no machine has a hundred"


def test_a_certificate_from_the_future_means_a_clock_that_is_behind():
    made = {"client.crt (valid from)": NOW + timedelta(days=40), "rootCA.pem": NOW - timedelta(days=1)}
    late = machine.clock(NOW, made, True)
    assert late.status == FAIL
    assert "client.crt (valid from) says 2026-06-10" in late.found
    assert machine.clock(NOW + timedelta(days=41), made, True).status == PASS
    assert machine.clock(NOW, {"just made": NOW + timedelta(minutes=4)}, True).status == PASS


@pytest.mark.parametrize(("kept", "status"), [(True, PASS), (False, WARN), (None, PASS)])
def test_a_clock_that_nothing_keeps_in_step_is_told(kept, status):
    assert machine.clock(NOW, {}, kept).status == status
    assert kept is not None or "not known" in machine.clock(NOW, {}, kept).found


def test_the_kernel_answers_or_not():
    assert machine.kernel_synchronised() in (True, False, None)


def test_versions():
    installed = {"torch": "2.7.1+cpu", "numpy": "1.25.0", "nvflare": "2.9.0rc1"}.get
    assert [one.status for one in machine.versions(["torch>=2.6,<2.14", "nvflare>=2.9rc0,<2.10"], installed)] == [PASS]
    old, absent = machine.versions(
        ["torch>=2.6", "numpy>=1.26,<3", "monai>=1.4", 'pytest>=8; extra == "test"'], installed
    )
    assert (old.status, old.found) == (FAIL, "numpy 1.25.0, needed <3,>=1.26")
    assert (absent.status, absent.fix) == (FAIL, "pip install 'monai>=1.4'")


def test_what_is_installed_is_read_from_the_packages_themselves():
    assert machine.installed_version("numpy")[0].isdigit()
    assert machine.installed_version("no-such-package-here") is None
    assert machine.requirements_of("no-such-package-here") == []
    assert [one.status for one in machine.versions(machine.requirements_of("nibabel"), machine.installed_version)] == [
        PASS
    ]
