import asyncio
import logging
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from service_process import Server, answer, form, stalled

from wardround.core.errors import ConfigRefused
from wardround.serving.app import Service
from wardround.serving.inference import Model, Queue
from wardround.serving.limits import read_token
from wardround.serving.running import OnlyTypes, _serve
from wardround.training.prediction import read_weights

SHOWN = "k7Jm2pQx9Lr4Tz8Wv3Nb6Yc1"


@pytest.fixture
def service(model, limits) -> Service:
    ours = Model(read_weights(model), "brats", "cpu", 4)
    return Service(ours, Queue(0), read_token(None, {"WARDROUND_TOKEN": SHOWN}), limits)


def test_a_port_that_is_taken(server: Server, service: Service) -> None:
    with pytest.raises(ConfigRefused, match="free port"):
        asyncio.run(_serve(service, "127.0.0.1", server.port, print))


def test_a_stop_ends_what_was_begun(service: Service, images: dict[str, bytes]) -> None:
    """An upload is under way when SIGTERM comes: no new connection, but this one is received, computed and answered."""
    body = form(images.items())

    def client(port: int) -> int:
        with stalled(port, SHOWN, body, 5) as begun:
            until_busy = time.monotonic() + 30
            while service.queue.idle and time.monotonic() < until_busy:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
            begun.sendall(body[-5:])
            return answer(begun).status

    with ThreadPoolExecutor(1) as other:
        found = []

        def say(words: str) -> None:
            if words.startswith("listening"):
                found.append(other.submit(client, int(words.split()[2].rpartition(":")[2])))

        asyncio.run(_serve(service, "127.0.0.1", 0, say))
        assert found[0].result(60) == 200


def test_a_log_line_names_the_error_and_not_what_it_says() -> None:
    try:
        raise ValueError("Jane Doe")
    except ValueError:
        record = logging.LogRecord("aiohttp.server", logging.ERROR, "x.py", 1, "said %s", ("Jane",), sys.exc_info())
    line = OnlyTypes().format(record)
    assert "ValueError" in line
    assert "test_running.py" in line
    assert "Jane" not in line
    plain = logging.LogRecord("nibabel.global", logging.ERROR, "x.py", 1, "Jane", (), None)
    assert OnlyTypes().format(plain) == "wardround serve: ERROR nibabel.global "
