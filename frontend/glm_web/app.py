"""The web app: the page's files, and the three calls of the API that the page makes."""

import mimetypes
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glm_frontend.admission.inflight_bytes import InflightBytes
from glm_frontend.core.record import RequestRecord
from glm_frontend.http.errors import install_error_handlers
from glm_frontend.http.middleware import BodyLimitMiddleware, UnexpectedErrorMiddleware
from glm_web.proxy import Proxy
from glm_web.settings import PageSettings

STATIC = Path(__file__).parent / "static"
# What the page needs of the API, and no more.
FORWARDED = (
    ("GET", "/v1/health"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
)
# Nothing from other hosts, no script in the page itself, and text of the model never as markup:
# only DOMPurify may make nodes of it.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

# Not every system has these in its list of types, and some have others.
for kind, suffixes in {"text/javascript": (".js", ".mjs"), "font/woff2": (".woff2",)}.items():
    for suffix in suffixes:
        mimetypes.add_type(kind, suffix)


def create_app(settings: PageSettings) -> FastAPI:
    """The app. It needs no frontend to start: the page tells whether there is one."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await proxy.aclose()

    proxy = Proxy(settings)
    app = FastAPI(
        openapi_url=None,
        lifespan=lifespan,
        middleware=[
            Middleware(PageHeadersMiddleware),
            Middleware(UnexpectedErrorMiddleware),
            Middleware(
                BodyLimitMiddleware,
                max_bytes=settings.max_body_bytes,
                inflight=InflightBytes(settings.max_inflight_bytes),
            ),
        ],
    )
    install_error_handlers(app)

    async def get_limits(request: Request) -> JSONResponse:
        """What the page may attach."""
        return JSONResponse(
            {"max_images": settings.max_images, "max_image_bytes": settings.max_image_bytes}
        )

    for method, path in FORWARDED:
        app.add_route(path, proxy.forward, methods=[method])
    app.add_route("/limits.json", get_limits, methods=["GET"])
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


class PageHeadersMiddleware:
    """Gives each request an id and each response the headers of ``HEADERS``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {}).update(
            request_id=f"req-{uuid.uuid4().hex}", record=RequestRecord()
        )

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                # Files may be kept, but are asked after: a new version of the page comes at once.
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        await self._app(scope, receive, send_with_headers)
