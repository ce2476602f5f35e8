"""The FastAPI app, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from glm_client import AsyncClient
from glm_frontend import otel
from glm_frontend.admission.inflight_bytes import InflightBytes
from glm_frontend.apis.chat import routes as chat
from glm_frontend.apis.completions import routes as completions
from glm_frontend.apis.decisions import routes as decisions
from glm_frontend.apis.health import routes as health
from glm_frontend.apis.messages import routes as messages
from glm_frontend.apis.metrics import routes as metrics
from glm_frontend.apis.models import routes as models
from glm_frontend.apis.multimodal import routes as multimodal
from glm_frontend.apis.responses import routes as responses
from glm_frontend.apis.tokens import routes as tokens
from glm_frontend.core.backend import Backend
from glm_frontend.heap import keep_heap_trimmed
from glm_frontend.http import docs
from glm_frontend.http.errors import install_error_handlers
from glm_frontend.http.middleware import (
    ANTHROPIC_REQUEST_ID_HEADER,
    CACHE_HEADER,
    PROCESSING_HEADER,
    REQUEST_ID_HEADER,
    BodyLimitMiddleware,
    MethodAndVersionMiddleware,
    RefusalMiddleware,
    RequestContextMiddleware,
    UnexpectedErrorMiddleware,
)
from glm_frontend.http.openapi import DocumentedAPI
from glm_frontend.http.services import build_services, get_permit
from glm_frontend.media.fetch import ImageFetcher, create_transport
from glm_frontend.observability.metrics import Metrics
from glm_frontend.observability.tracing import telemetry
from glm_frontend.settings import Settings

_ROUTERS = (
    chat, responses, messages, completions, decisions, multimodal, tokens, models, health, metrics,
    docs,
)  # fmt: skip


def create_app(
    settings: Settings, backend: Backend | None = None, fetcher: ImageFetcher | None = None
) -> FastAPI:
    """The app. It connects when it starts, and closes its connections when it stops.

    Args:
        backend: the model server; by default that of ``settings.triton_url``.
        fetcher: loads pictures; by default one that may dial out.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        used_backend = backend or AsyncClient(settings.triton_url, tls=settings.triton_tls)
        counts = Metrics()
        used_fetcher = fetcher or ImageFetcher(
            settings, create_transport(settings.media_proxy), on_fetched=counts.count_fetch
        )
        app.state.services = build_services(settings, used_backend, used_fetcher, counts)
        trimming = asyncio.create_task(keep_heap_trimmed())
        try:
            yield
        finally:
            trimming.cancel()
            if provider is not None:
                otel.shut_down(provider)
            await app.state.services.cache.aclose()
            await used_fetcher.aclose()
            await used_backend.aclose()

    provider = otel.create_provider("glm-frontend") if otel.is_on() else None
    app = DocumentedAPI(
        title="GLM-4.6V-Flash",
        version=version("glm-triton-server"),
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        middleware=_middleware(settings),
        telemetry=telemetry(provider),
    )
    install_error_handlers(app)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.mount(docs.ASSETS_PATH, docs.swagger_assets())
    return app


def _routes_with_permit() -> dict[str, APIRoute]:
    """Routes behind ``get_permit`` that take a POST, by their path."""
    routes = (route for module in _ROUTERS for route in module.router.routes)
    return {
        route.path: route
        for route in routes
        if isinstance(route, APIRoute)
        and "POST" in (route.methods or ())
        and any(needed.call is get_permit for needed in route.dependant.dependencies)
    }


def _middleware(settings: Settings) -> list[Middleware]:
    """Outermost first: even a 500 has CORS headers, a request id and a log line."""
    middleware = [Middleware(MethodAndVersionMiddleware), Middleware(RequestContextMiddleware)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                # The browser SDKs send headers of their own; without cookies all are harmless.
                allow_headers=["*"],
                expose_headers=[
                    REQUEST_ID_HEADER,
                    ANTHROPIC_REQUEST_ID_HEADER,
                    PROCESSING_HEADER,
                    CACHE_HEADER,
                    "retry-after",
                ],
            )
        )
    middleware.append(Middleware(UnexpectedErrorMiddleware))
    middleware.append(Middleware(RefusalMiddleware, routes=_routes_with_permit()))
    middleware.append(
        Middleware(
            BodyLimitMiddleware,
            max_bytes=settings.max_body_bytes,
            inflight=InflightBytes(settings.max_inflight_bytes, is_fair=len(settings.keys) > 1),
        )
    )
    return middleware
