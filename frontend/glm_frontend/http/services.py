"""What the endpoints work with, built once when the app starts, and how they get at it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from glm_frontend.admission.keys import APIKey, KeyRing, tenant_of
from glm_frontend.admission.permits import InflightLimiter, Permit
from glm_frontend.admission.rates import RateLimiter, parse_rates
from glm_frontend.admission.refusals import Refusals
from glm_frontend.core.answer_cache import AnswerCache
from glm_frontend.core.answer_store import create_store
from glm_frontend.core.backend import Backend
from glm_frontend.core.caller import Caller
from glm_frontend.core.generation import Generator
from glm_frontend.core.health import HealthProbe
from glm_frontend.core.model_info import ModelInfo
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.observability.metrics import Metrics
from glm_frontend.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """All state of the app; ``app.state.services``.

    Attributes:
        started: Unix time in seconds.
        draining: set once the server is shutting down.
    """

    settings: Settings
    backend: Backend
    generator: Generator
    cache: AnswerCache
    model_info: ModelInfo
    health: HealthProbe
    keys: KeyRing
    limiter: InflightLimiter
    refusals: Refusals
    rates: RateLimiter
    metrics: Metrics
    started: int
    draining: threading.Event = field(default_factory=threading.Event)

    def check_model(self, name: str | None) -> None:
        """Refuse any name but that of the served model; None stands for it.

        Raises:
            APIError: 404.
        """
        served = self.settings.served_model_name
        if name is not None and name != served:
            raise APIError(
                ErrorCode.MODEL_NOT_FOUND,
                f"model: there is no {name!r} here, only {served!r}",
                param="model",
            )


def build_services(
    settings: Settings, backend: Backend, fetcher: ImageFetcher, metrics: Metrics
) -> Services:
    """The services over ``backend``; the caller closes that and ``fetcher``."""
    info = ModelInfo(backend)
    health = HealthProbe(backend, settings.status_file, info=info)
    store = create_store(
        settings.response_cache.get_secret_value(),
        settings.response_cache_bytes,
        settings.response_cache_seconds,
    )
    cache = AnswerCache(store, info)
    limiter = InflightLimiter(settings.max_inflight, is_fair=len(settings.keys) > 1)
    metrics.watch_in_flight(lambda: limiter.inflight, settings.max_inflight)
    return Services(
        settings=settings,
        backend=backend,
        generator=Generator(
            backend,
            fetcher,
            health,
            cache,
            settings.request_timeout,
            drops_oldest=settings.media_overflow == "oldest",
        ),
        cache=cache,
        model_info=info,
        health=health,
        keys=KeyRing(settings.keys),
        limiter=limiter,
        refusals=Refusals(),
        rates=RateLimiter(parse_rates(settings.rate_limit)),
        metrics=metrics,
        started=int(time.time()),
    )


# All of these are async: FastAPI runs other dependencies in threads.
async def get_services(request: Request) -> Services:
    """The app's services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]

_bearer = HTTPBearer(
    auto_error=False, description="Only where the server has keys (`GLM_API_KEYS`)."
)


BearerDep = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


async def require_key(request: Request, services: ServicesDep, bearer: BearerDep) -> None:
    """Let the request in only with a known key.

    Raises:
        APIError: 401.
    """
    request.state.key = services.keys.check(None if bearer is None else bearer.credentials)


_x_api_key = APIKeyHeader(
    name="x-api-key", auto_error=False, description="The same key, as Anthropic's clients send it."
)


async def require_key_or_x_api_key(
    request: Request,
    services: ServicesDep,
    bearer: BearerDep,
    x_api_key: Annotated[str | None, Security(_x_api_key)],
) -> None:
    """As :func:`require_key`; the key may also be in the header ``x-api-key``."""
    if x_api_key is None:
        await require_key(request, services, bearer)
    else:
        request.state.key = services.keys.check(x_api_key)


async def get_caller(request: Request) -> Caller:
    """Who asks; behind :func:`require_key`."""
    key: APIKey | None = request.state.key
    state = request.state
    directives = {
        directive.strip().lower()
        for line in request.headers.getlist("cache-control")
        for directive in line.split(",")
    }
    return Caller(
        state.request_id,
        tenant_of(key),
        takes_kept_answer=not directives & {"no-cache", "no-store"},
        keeps_answer="no-store" not in directives,
        record=state.record,
        hold=state.bytes.hold,
    )


CallerDep = Annotated[Caller, Depends(get_caller)]


async def get_permit(
    request: Request, services: ServicesDep, caller: CallerDep
) -> AsyncIterator[Permit]:
    """A permit, until the response is sent. It is taken once the body is there, but where there is
    none to be had, the body is not waited for.

    Raises:
        APIError: 408, 413, 429; 503 when the server is shutting down.
    """
    if services.draining.is_set():
        raise APIError(ErrorCode.DRAINING, "The server is shutting down.", refusal="draining")
    services.limiter.check(caller.tenant)
    services.refusals.check(caller.tenant)
    key: APIKey | None = request.state.key
    address = request.client.host if request.client else ""
    own = None if key is None or key.rate is None else parse_rates(key.rate)
    request.state.headers = services.rates.hit(caller.tenant or address, own)
    try:
        async with asyncio.timeout(services.settings.body_timeout):
            await request.body()
    except TimeoutError:
        raise APIError(
            ErrorCode.BODY_TIMEOUT,
            f"The body did not arrive within {services.settings.body_timeout:g} s.",
            headers={"connection": "close"},
        ) from None
    with services.limiter.acquire(caller.tenant) as permit:
        try:
            yield permit
        except APIError as error:
            services.refusals.note(caller.tenant, error)
            raise
        services.refusals.note_answer(caller.tenant)


PermitDep = Annotated[Permit, Depends(get_permit)]
