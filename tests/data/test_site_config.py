"""The site's own file: what is read from it, and that every mistake in it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused
from wardround.data.site_config import EXAMPLE, SiteConfig, from_environment, read_site_config


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    (tmp_path / "brats").mkdir()
    return tmp_path / "local" / "wardround.json"


def test_defaults(site: Path, tmp_path: Path) -> None:
    site.write_text(json.dumps({"data": str(tmp_path / "brats")}))
    assert read_site_config(site) == SiteConfig(data=(tmp_path / "brats").resolve())


def test_every_key_and_relative_paths(site: Path, tmp_path: Path) -> None:
    content = {
        "data": "../brats",
        "name": "Example Hospital",
        "cases": ["a", "b"],
        "labels": "whole_tumour",
        "cache": "cache",
        "device": "cuda:1",
        "patient_pattern": "^([a-z])",
        "record": "../record.csv",
        "units": {"crp": "mg/dl"},
    }
    (tmp_path / "record.csv").write_text("patient,crp\n")
    site.write_text(json.dumps(content))
    assert read_site_config(site) == SiteConfig(
        data=(tmp_path / "brats").resolve(),
        name="Example Hospital",
        cases=("a", "b"),
        labels="whole_tumour",
        cache=(tmp_path / "local" / "cache").resolve(),
        device="cuda:1",
        patient_pattern="^([a-z])",
        record=(tmp_path / "record.csv").resolve(),
        units={"crp": "mg/dl"},
    )


def test_null_is_the_default_and_a_byte_order_mark_is_ignored(site: Path) -> None:
    content = dict.fromkeys(["name", "cases", "labels", "cache", "device", "patient_pattern"]) | {"data": "../brats"}
    site.write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_site_config(site) == SiteConfig(data=(site.parent.parent / "brats").resolve())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ('{"data": "../brats",}', "no JSON"),
        ('{"data": "../brats", "data": "../brats"}', "same key twice"),
        ("[" * 5000, "no JSON"),
        ("[]", "JSON list"),
        ('"../brats"', "JSON str"),
        ("{}", "no key 'data'"),
        ('{"data": null}', "no key 'data'"),
        ('{"data": 7}', "'data' is a int"),
        ('{"data": ["../brats"]}', "'data' is a list"),
        ('{"data": " "}', "empty"),
        ('{"data": "a\\u0000b"}', "'data'"),
        ('{"data": "../absent"}', "no folder"),
        ('{"data": "wardround.json"}', "no folder"),
        ('{"data": "../brats", "folder": "x"}', "unknown key 'folder'"),
        ('{"data": "../brats", "name": 3}', "'name' is a int"),
        ('{"data": "../brats", "labels": "binary"}', "'labels': 'binary'"),
        ('{"data": "../brats", "labels": true}', "'labels' is a bool"),
        ('{"data": "../brats", "device": "gpu"}', "'device': 'gpu'"),
        ('{"data": "../brats", "device": "cuda:x"}', "'device': 'cuda:x'"),
        ('{"data": "../brats", "cases": "a"}', "'cases'"),
        ('{"data": "../brats", "cases": []}', "'cases'"),
        ('{"data": "../brats", "cases": ["a", 1]}', "'cases'"),
        ('{"data": "../brats", "cases": ["a", "a"]}', "twice"),
        ('{"data": "../brats", "cache": false}', "'cache' is a bool"),
        ('{"data": "../brats", "patient_pattern": "("}', "no regular expression"),
        ('{"data": "../brats", "patient_pattern": "abc"}', "without a group"),
        ('{"data": "../brats", "record": "absent.csv"}', "no file"),
        ('{"data": "../brats", "units": {"crp": "mg/l"}}', "without 'record'"),
        ('{"data": "../brats", "record": "wardround.json", "units": {"crp": 1}}', "no object of texts"),
    ],
)
def test_mistakes_are_named(site: Path, text: str, word: str) -> None:
    site.write_text(text)
    with pytest.raises(ConfigRefused, match=r"wardround\.json") as refusal:
        read_site_config(site)
    assert word in refusal.value.found


def test_a_missing_file_a_folder_and_other_bytes(site: Path) -> None:
    with pytest.raises(ConfigRefused, match="No such file") as refusal:
        read_site_config(site)
    assert EXAMPLE in refusal.value.fix
    with pytest.raises(ConfigRefused, match="local"):
        read_site_config(site.parent)
    site.write_bytes(b'{"data": "\xff\xfe"}')
    with pytest.raises(ConfigRefused, match="UTF-8"):
        read_site_config(site)


def test_the_example_in_the_refusal_is_itself_correct(site: Path, tmp_path: Path) -> None:
    decoder = json.JSONDecoder()
    short, end = decoder.raw_decode(EXAMPLE)
    full, _ = decoder.raw_decode(EXAMPLE[EXAMPLE.index("{", end) :])
    (tmp_path / "record.csv").write_text("patient\n")
    for example in (short, full):
        here = {"data": str(tmp_path / "brats"), "record": str(tmp_path / "record.csv")}
        site.write_text(json.dumps(example | {key: here[key] for key in here if key in example}))
        assert read_site_config(site).data == (tmp_path / "brats").resolve()


def test_environment(site: Path, tmp_path: Path) -> None:
    assert from_environment("site-1", {}) is None
    assert from_environment("site-1", {"WARDROUND_SITES": ""}) is None
    site.write_text(
        json.dumps({"site-1": {"data": "../brats", "cases": ["b"]}, "site-2": {"data": "../absent"}, "site-3": 1})
    )
    environ = {"WARDROUND_SITES": str(site)}
    found = from_environment("site-1", environ)
    assert found == SiteConfig(data=(tmp_path / "brats").resolve(), cases=("b",))
    for name, word in (("site-2", "no folder"), ("site-3", "JSON int"), ("site-4", "site-1, site-2, site-3")):
        with pytest.raises(ConfigRefused, match=word):
            from_environment(name, environ)
    with pytest.raises(ConfigRefused, match=r"absent\.json"):
        from_environment("site-1", {"WARDROUND_SITES": str(tmp_path / "absent.json")})


def test_a_relative_sites_file_is_refused_before_it_is_looked_for():
    with pytest.raises(ConfigRefused, match=r"relative path sites\.json") as refusal:
        from_environment("site-1", {"WARDROUND_SITES": "sites.json"})
    assert "$PWD" in str(refusal.value)
