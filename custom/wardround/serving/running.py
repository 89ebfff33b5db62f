"""The process of the service: listening, what may reach the log, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from aiohttp import web

from wardround.core.errors import ConfigRefused
from wardround.serving.app import Service
from wardround.serving.inference import Queue

# Seconds: an idle connection is kept, a closing one may still send, and the wait for
# the last answers looks again.
KEEP_ALIVE_S = 15.0
LINGER_S = 2.0
LOOK_S = 0.05
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class OnlyTypes(logging.Formatter):
    """Formats a log line that says which error it was and where, but never its text:
    that could quote a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        trace = error.__traceback__ if error else None
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace else ""
        return f"wardround serve: {record.levelname} {record.name} {type(error).__name__ if error else ''}{where}"


def quiet_logs() -> None:
    """Let only errors into the log, without their text, whoever writes them."""
    handler = logging.StreamHandler()
    handler.setFormatter(OnlyTypes())
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("nibabel.global").handlers.clear()


def serve(service: Service, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Requests that have begun by then are answered, for
    as long as the limits give them.

    port: 0 takes a free port, which is printed. An address that cannot be listened on
      is refused with ConfigRefused.
    """
    quiet_logs()
    asyncio.run(_serve(service, host, port, say))


async def _serve(
    service: Service,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> None:
    limits = service.limits
    runner = web.AppRunner(
        service.application(),
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=KEEP_ALIVE_S,
        lingering_time=LINGER_S,
        shutdown_timeout=LINGER_S,
    )
    await runner.setup()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        say(f"listening on http://{host}:{runner.addresses[0][1]}  (stop: Ctrl-C or SIGTERM)")
        await stop.wait()
        for number in SIGNALS:
            # From here on the signals have their usual effect: a second one ends the
            # process at once.
            loop.remove_signal_handler(number)
        say("stopping: what was begun is ended; a second signal ends at once")
        await site.stop()
        await _idle(service.queue, limits.upload_s + limits.work_s)
    except OSError as error:
        raise ConfigRefused(
            f"the address {host}, port {port}",
            found=f"cannot be listened on: {error.strerror or type(error).__name__}",
            expected="a free port of this machine",
            fix="choose another --port, or stop what uses it",
        ) from error
    finally:
        await runner.cleanup()
        await loop.run_in_executor(None, service.queue.close)


async def _idle(queue: Queue, patience_s: float) -> None:
    """Wait until every request that was let in has been answered. aiohttp's own
    shutdown would stop reading uploads.
    """
    queue.stop()
    until = asyncio.get_running_loop().time() + patience_s
    while not queue.idle and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(LOOK_S)
