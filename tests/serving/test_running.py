import asyncio
import logging
import sys

import pytest
from service_process import Server

from wardround.errors import ConfigRefused
from wardround.hospital.prediction import read_weights
from wardround.serving.app import Service
from wardround.serving.inference import Model, Queue
from wardround.serving.limits import read_token
from wardround.serving.running import OnlyTypes, _serve


def test_a_port_that_is_taken(server: Server, model, limits) -> None:
    ours = Model(read_weights(model), "brats", "cpu", 4)
    service = Service(ours, Queue(0), read_token(None, {"WARDROUND_TOKEN": "x" * 30}), limits)
    with pytest.raises(ConfigRefused, match="free port"):
        asyncio.run(_serve(service, "127.0.0.1", server.port, print))


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
