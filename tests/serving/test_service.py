"""A real process and real clients on the loopback."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from service_process import FORM, Server, answer, form, stalled

from wardround.data.cases import find_cases
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.training import prediction

PATIENT = "Jane-Doe-19700101"
CANARY = "CANARY-7f3a"


def send(server: Server, images: dict[str, bytes]) -> requests.Response:
    files = {name: (f"{PATIENT}_{name}.nii.gz", content) for name, content in images.items()}
    return requests.post(f"{server.url}/predict", headers=server.headers, files=files, timeout=120)


def post(server: Server, body: bytes, kind: str = FORM, **headers: str) -> requests.Response:
    headers = server.headers | {"Content-Type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}
    return requests.post(f"{server.url}/predict", headers=headers, data=body, timeout=120)


def mask(model: Path, case: Path, out: Path) -> bytes:
    """Return the file that `wardround predict` writes."""
    (files,) = find_cases(case)
    weights = prediction.read_weights(model)
    prediction.Segmenter(weights, "brats", 4, prediction.ready(weights, "cpu")).predict(files, out)
    return out.read_bytes()


def without(case: Path, modality: str, root: Path) -> Path:
    folder = root / case.name
    folder.mkdir()
    for file in case.glob("*.nii.gz"):
        if not file.name.endswith(f"_{modality}.nii.gz"):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_health_needs_no_token_and_version_does(server: Server) -> None:
    assert requests.get(f"{server.url}/health", timeout=60).json() == {"status": "ok"}
    assert requests.get(f"{server.url}/version", timeout=60).status_code == 401
    about = requests.get(f"{server.url}/version", headers=server.headers, timeout=60).json()
    assert about["fingerprint"] == fingerprint(UNet3d((4, 8)))
    assert about["sequences"] == ["t1", "t1ce", "t2", "flair"]
    assert about["labels"]["4"] == "enhancing tumour"
    assert about["candidate"] == "local"


def test_the_mask_is_that_of_predict(
    server: Server, model: Path, case: Path, images: dict[str, bytes], tmp_path
) -> None:
    expected = mask(model, case, tmp_path / "m.nii.gz")
    plain = {name: gzip.decompress(content) for name, content in images.items()}
    for response in (send(server, images), send(server, plain)):
        assert response.status_code == 200, response.text
        assert response.content == expected
        assert response.headers["Cache-Control"] == "no-store"
        assert set(json.loads(response.headers["X-Wardround-Volumes-Ml"])) == {"ET", "TC", "WT"}


def test_a_missing_sequence(server: Server, model: Path, case: Path, images: dict[str, bytes], tmp_path) -> None:
    expected = mask(model, without(case, "t2", tmp_path), tmp_path / "m.nii.gz")
    assert send(server, {name: images[name] for name in ("t1", "t1ce", "flair")}).content == expected


def test_what_was_used_and_what_was_missing_is_in_the_headers(server: Server, images: dict[str, bytes]) -> None:
    response = send(server, {name: images[name] for name in ("t1", "flair")})
    assert response.status_code == 200, response.text
    assert response.headers["X-Wardround-Sequences"] == "t1,flair"
    assert response.headers["X-Wardround-Missing"] == "t1ce,t2"
    assert "Not a medical device" in response.headers["X-Wardround-Notice"]
    assert response.headers["X-Wardround-Trained-On"] == "unknown"
    whole = send(server, images)
    assert whole.headers["X-Wardround-Sequences"] == "t1,t1ce,t2,flair"
    assert whole.headers["X-Wardround-Missing"] == ""


def test_the_page_loads_nothing_and_tells_nothing(server: Server) -> None:
    response = requests.get(f"{server.url}/", timeout=60)
    assert response.status_code == 200
    assert "Not a medical device" in response.text
    policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"(src|href|action)=|https?://|\son\w+=", response.text)
    assert set(re.findall(r'type="file" name="(\w+)"', response.text)) == {"t1", "t1ce", "t2", "flair"}
    about = requests.get(f"{server.url}/version", headers=server.headers, timeout=60).json()
    assert about["fingerprint"] not in response.text
    assert about["trained_on"] == "unknown"
    assert "not known" in about["trained_on_words"]


def test_the_start_is_not_silent(server: Server) -> None:
    said = server.said()
    assert said.index("reading") < said.index("serving") < said.index("listening on")
    assert "not a medical device" in said.lower()


@pytest.mark.parametrize("value", ["", "Bearer wrong", "Basic Zm9vOmJhcg=="])
def test_another_token(server: Server, value: str) -> None:
    response = requests.post(f"{server.url}/predict", headers={"Authorization": value}, data=b"x", timeout=60)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "Bearer TOKEN" in response.json()["to_do"]


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_is_refused_before_it_has_all_arrived(server: Server, chunked: bool) -> None:
    """With a stated length, nothing but the head is sent; without one, twice the limit of a body that never ends."""
    opening = form([("t1", b"")]).partition(b"\r\n--between--")[0]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as begun:
        length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 900000000"
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n{length}\r\n"
        begun.sendall(f"{head}Content-Type: {FORM}\r\n\r\n".encode())
        if chunked:
            begun.sendall(b"%x\r\n%b\r\n" % (len(opening), opening))
            begun.sendall(b"".join(b"10000\r\n" + bytes(2**16) + b"\r\n" for _ in range(20)))
        response = answer(begun)
        assert response.status == 413
        assert "--upload-mib" in json.loads(response.read())["to_do"]


def test_bad_uploads_are_told_what_to_do(server: Server, images: dict[str, bytes]) -> None:
    text = CANARY.encode()
    cases = [
        (send(server, {"t1": text}), 422, "convert the file"),
        (send(server, {"t1": images["t1"][:-9]}), 422, "export it again"),
        (send(server, {"t3": images["t1"]}), 422, "name the parts"),
        (send(server, {"seg": images["t1"]}), 422, "name the parts"),
        (post(server, form([("t1", images["t1"])] * 2)), 422, "name the parts"),
        (post(server, form([("t1", text)], f"../../{CANARY}")), 422, "convert the file"),
        (post(server, form([("t1", text)], more=b"X-A: b\r\n" * 200)), 400, "curl -F"),
        (post(server, form([])), 422, "as a part of the form"),
        (send(server, {"t1": gzip.compress(bytes(9 * 2**20))}), 413, "send one case"),
        (post(server, text, "application/zip"), 415, "curl"),
        (post(server, text, "text/plain"), 415, "curl"),
        (post(server, text, Content_Encoding="gzip"), 415, "curl"),
        (post(server, text, "multipart/form-data"), 400, "curl -F"),
        (post(server, text, "multipart/form-data; boundary=x"), 400, "curl -F"),
    ]
    for response, status, words in cases:
        assert response.status_code == status, response.text
        assert words in response.json()["to_do"]
        assert CANARY not in response.text
    other = requests.get(f"{server.url}/{CANARY}", timeout=60)
    assert (other.status_code, other.json()) == (404, other.json() | {"error": "http", "what": "Not Found"})
    assert "POST /predict" in other.json()["to_do"]
    assert CANARY not in other.text
    wrong = requests.get(f"{server.url}/predict", headers=server.headers, timeout=60)
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert "POST /predict" in wrong.json()["to_do"]


def test_two_at_once_are_served_and_a_third_is_told_to_wait(server: Server, images: dict[str, bytes]) -> None:
    body = form(images.items())
    with stalled(server.port, server.token, body, 5) as first, stalled(server.port, server.token, body, 5) as second:
        time.sleep(0.5)
        third = post(server, body)
        assert third.status_code == 503
        assert int(third.headers["Retry-After"]) >= 1
        for begun in (first, second):
            begun.sendall(body[-5:])
        masks = [answer(begun).read() for begun in (first, second)]
    with ThreadPoolExecutor(2) as both:
        more = list(both.map(lambda _: post(server, body), range(2)))
    assert [one.status_code for one in more] == [200, 200]
    assert {*masks, *(one.content for one in more)} == {masks[0]}


def test_an_upload_that_stops_gives_its_place_back(server: Server, images: dict[str, bytes]) -> None:
    body = form(images.items())
    with stalled(server.port, server.token, body, 5) as slow:
        stalled(server.port, server.token, body, 5).close()
        response = answer(slow)
        assert response.status == 408
        assert "not complete after 4 s" in json.loads(response.read())["found"]
    assert send(server, images).status_code == 200


def test_nothing_is_written_and_nothing_is_logged(server: Server, images: dict[str, bytes]) -> None:
    """The process reports every file that it opens to write."""
    send(server, images)
    send(server, {"t1": CANARY.encode()})
    post(server, form([("t1", CANARY.encode())], CANARY))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as wrong:
        wrong.sendall(f"{CANARY} / HTTP/9\r\n\r\n".encode())
        assert b"400" in wrong.recv(4096)
    said = server.said()
    after = said[said.index("listening on") :]
    assert "OPENED TO WRITE" not in after
    assert list(server.folder.iterdir()) == []
    assert not [word for word in (CANARY, PATIENT, server.token) if word in said]
