"""The HTTP side: GET / (a page), GET /health, GET /version, POST /predict. Nothing of a
request is logged or kept.

POST /predict takes one case: a form (multipart/form-data) with one file for each
sequence (t1, t1ce, t2, flair; .nii or .nii.gz). The mask comes back as .nii.gz in the
geometry of the case's first image; its headers say which sequences were used and which
were missing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from wardround.core.errors import DataRefused, Refusal
from wardround.export.bundle_text import NOT_A_DEVICE
from wardround.serving.inference import MASK, Answer, Model, Place, Queue
from wardround.serving.limits import Limits, Token, UploadRefused
from wardround.serving.page import PAGE, POLICY
from wardround.serving.upload import case_of
from wardround.tasks.brain_tumours import SEQUENCES

FORM = "multipart/form-data"
CHUNK = 2**16
SLACK = 2**16
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Service:
    """What the handlers of the service share."""

    model: Model
    queue: Queue
    token: Token
    limits: Limits

    def application(self) -> web.Application:
        """Return the routes, behind one middleware that turns refusals into JSON."""
        app = web.Application(middlewares=[self._speak])
        app.router.add_get("/", self.page)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_post("/predict", self.predict)
        return app

    async def page(self, _: web.Request) -> web.Response:
        """Return the form for one case. It needs no token itself, asks for the token,
        and says nothing about the model.
        """
        return web.Response(
            text=PAGE,
            content_type="text/html",
            headers={"Content-Security-Policy": POLICY},
        )

    async def health(self, _: web.Request) -> web.Response:
        """Return that the service runs. No token is needed."""
        return web.json_response({"status": "ok"})

    async def version(self, request: web.Request) -> web.Response:
        """Return which model this is."""
        self._require_token(request)
        return web.json_response(self.model.about)

    async def predict(self, request: web.Request) -> web.Response:
        """Return the mask of the one case in the request."""
        self._require_token(request)
        self._require_sendable(request)
        with self.queue.place() as place:
            answer = await self._answer(request, place)
        headers = {
            "Content-Disposition": f'attachment; filename="{MASK}"',
            "X-Wardround-Fingerprint": str(self.model.about["fingerprint"]),
            "X-Wardround-Volumes-Ml": json.dumps(
                {name: round(ml, 3) for name, ml in answer.volumes_ml.items()},
            ),
            "X-Wardround-Sequences": ",".join(answer.sequences),
            "X-Wardround-Missing": ",".join(name for name in SEQUENCES if name not in answer.sequences),
            "X-Wardround-Trained-On": str(self.model.about["trained_on"]),
            "X-Wardround-Notice": NOT_A_DEVICE,
        }
        return web.Response(
            body=answer.mask,
            content_type="application/gzip",
            headers=headers,
        )

    async def _answer(self, request: web.Request, place: Place) -> Answer:
        limits = self.limits
        try:
            images = await asyncio.wait_for(
                _parts(request, limits.upload),
                limits.upload_s,
            )
        except asyncio.TimeoutError as error:
            raise _slow(408, "the upload", limits.upload_s) from error
        work = place.work(lambda: self.model.predict(case_of(images, limits)))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), limits.work_s)
        except asyncio.TimeoutError as error:
            raise _slow(504, "the mask", limits.work_s) from error

    def _require_token(self, request: web.Request) -> None:
        if not self.token.opens(request.headers.get(hdrs.AUTHORIZATION, "")):
            raise UploadRefused(
                401,
                "the token",
                found="none, or another one",
                expected="the token that the service was started with",
                fix="send the header `Authorization: Bearer TOKEN`",
            )

    def _require_sendable(self, request: web.Request) -> None:
        """Refuse, by its headers alone, a request that need not be read."""
        if request.content_type != FORM or request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise UploadRefused(
                415,
                "the body's type",
                found="another Content-Type, or a Content-Encoding",
                expected=f"{FORM} with one file for each sequence",
                fix="send a form, for example with `curl -F t1=@x_t1.nii.gz -F flair=@x_flair.nii.gz`",
            )
        if (request.content_length or 0) > self.limits.upload + SLACK:
            raise _too_large(self.limits.upload)

    @web.middleware
    async def _speak(
        self,
        request: web.Request,
        handler: Handler,
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except UploadRefused as refusal:
            response = _refusal(refusal.status, refusal)
            if refusal.status == 503:
                response.headers[hdrs.RETRY_AFTER] = self.queue.retry_after
            if refusal.status == 401:
                response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        except DataRefused as refusal:
            response = _refusal(422, refusal)
        except web.HTTPException as error:
            to_do = "ask for GET /, GET /health, GET /version or POST /predict; `wardround serve --help` shows how"
            response = _json(
                error.status,
                {"error": "http", "what": error.reason, "to_do": to_do},
            )
            if allowed := error.headers.get(hdrs.ALLOW):
                response.headers[hdrs.ALLOW] = allowed
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers[hdrs.SERVER] = "wardround"
        return response


async def _parts(request: web.Request, limit: int) -> dict[str, bytes]:
    """Return the files of a form by sequence, counting bytes while they arrive. A
    damaged form is refused with 400; other names, or one twice, with 422.
    """
    found: dict[str, bytes] = {}
    size = 0
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            name = part.name if isinstance(part, BodyPartReader) else None
            if name is None or name not in SEQUENCES or name in found or not isinstance(part, BodyPartReader):
                raise UploadRefused(
                    422,
                    "the parts of the form",
                    found="a part of another name, or two of one",
                    expected=f"one file for each sequence, called {', '.join(SEQUENCES)}",
                    fix="name the parts so, and leave out those that do not exist",
                )
            found[name] = await _collected(_chunks(part), limit, size)
            size += len(found[name])
    except (ValueError, HttpProcessingError, AssertionError) as error:
        raise UploadRefused(
            400,
            "the form",
            found="one that cannot be read",
            expected=FORM,
            fix="let a library or curl -F make it",
        ) from error
    return found


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(CHUNK):
        yield chunk


async def _collected(chunks: AsyncIterator[bytes], limit: int, size: int) -> bytes:
    """Return all chunks as bytes. The limit counts the `size` bytes that came before."""
    found = []
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        found.append(chunk)
    return b"".join(found)


def _refusal(status: int, refusal: Refusal) -> web.Response:
    said = {
        "what": refusal.what,
        "found": refusal.found,
        "expected": refusal.expected,
        "to_do": refusal.fix,
    }
    response = _json(status, {"error": refusal.code, **said})
    response.force_close()  # what is left of the body is not read
    return response


def _json(status: int, content: Mapping[str, str]) -> web.Response:
    return web.json_response(dict(content), status=status)


def _slow(status: int, what: str, seconds: float) -> UploadRefused:
    return UploadRefused(
        status,
        what,
        found=f"not complete after {seconds:g} s",
        expected="sooner",
        fix="send it again when less is going on",
    )


def _too_large(limit: int) -> UploadRefused:
    return UploadRefused(
        413,
        "the upload",
        found="more bytes",
        expected=f"{limit} bytes at most",
        fix="send one case, compressed, or raise --upload-mib",
    )
