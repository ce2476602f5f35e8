"""The frontend's metrics, for Prometheus. What happens behind it Triton's own port tells.

Labels have few values, whatever clients send: no paths, only routes, and no key's name, because it
would tell everybody who scrapes how much each customer asks (the access log has it).
"""

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from glm_frontend.core.record import RequestRecord
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import REFUSALS

NO_ROUTE = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Upper bounds in seconds.
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TTFT_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2, 3, 5, 10, 20, 30)
_TPOT_SECONDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    1,
)
_FETCH_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Else each counter is a time series more, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("glm_frontend_build", "Version of the frontend", registry=self.registry).info(
            {"version": version("glm-triton-server")}
        )
        self._requests = self._counter(
            "http_requests", "HTTP requests", "method", "route", "status"
        )
        self._seconds = self._histogram(
            "http_request_duration_seconds",
            "From a request's headers to the last byte of its answer",
            _REQUEST_SECONDS,
            "route",
        )
        self._request_bytes = self._counter("http_request_bytes", "Of requests' bodies", "route")
        self._response_bytes = self._counter("http_response_bytes", "Of answers' bodies", "route")
        self._errors = self._counter("errors", "Errors told to clients, in streams too", "code")
        for code in ErrorCode:  # so that the first of a kind is seen as an increase
            self._errors.labels(code)
        self._refusals = self._counter(
            "requests_rejected", "Requests rejected before they began", "reason"
        )
        for reason in REFUSALS:
            self._refusals.labels(reason)
        self._ttft = self._histogram(
            "time_to_first_token_seconds",
            "Of streams: from the checked request to the first piece of the answer",
            _TTFT_SECONDS,
        )
        self._tpot = self._histogram(
            "time_per_output_token_seconds", "Of streams, after their first piece", _TPOT_SECONDS
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens, image tokens included")
        self._image = self._counter("image_tokens", "Prompt tokens that stand for pictures")
        self._cached = self._counter("cached_tokens", "Prompt tokens found in the KV cache")
        self._completion = self._counter("completion_tokens", "Tokens of answers and thoughts")
        self._reasoning = self._counter("reasoning_tokens", "Tokens of thoughts")
        self._fetches = self._counter(
            "media_fetches",
            "Pictures and videos fetched by URL; result: ok, or the error's code",
            "kind",
            "result",
        )
        self._fetch_seconds = self._histogram(
            "media_fetch_duration_seconds", "Of each, redirects included", _FETCH_SECONDS, "kind"
        )
        for kind in ("image", "video"):
            self._fetches.labels(kind, "ok")
            self._fetch_seconds.labels(kind)
        self._answers = self._counter(
            "response_cache",
            "Answers that may be kept: hit (kept before), shared (computed for another), miss",
            "result",
        )
        for result in ("hit", "shared", "miss"):
            self._answers.labels(result)
        self._in_flight = self._gauge(
            "requests_in_flight", "Requests for answers or tokens under way"
        )
        self._limit = self._gauge("requests_in_flight_limit", "Most of them at once")

    def watch_in_flight(self, in_flight: Callable[[], float], limit: float) -> None:
        """Ask so, at each scrape, how many requests are under way."""
        self._in_flight.set_function(in_flight)
        self._limit.set(limit)

    def count_request(
        self,
        record: RequestRecord,
        *,
        method: str,
        route: str,
        status: int,
        seconds: float,
        response_bytes: int,
    ) -> None:
        """A request has ended."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._request_bytes.labels(route).inc(record.request_bytes)
        self._response_bytes.labels(route).inc(response_bytes)
        if record.error_code is not None:
            self.count_error(record.error_code)
        if record.refusal is not None:
            self.count_refusal(record.refusal)
        for answer in record.answers:
            if answer.cache:
                self._answers.labels(answer.cache).inc()
            if answer.time_to_first_token is not None:
                self._ttft.observe(answer.time_to_first_token)
            if answer.time_per_output_token is not None:
                self._tpot.observe(answer.time_per_output_token)
            if answer.usage is not None:
                self._prompt.inc(answer.usage.prompt)
                self._image.inc(answer.usage.image)
                self._cached.inc(answer.usage.cached)
                self._completion.inc(answer.usage.completion)
                self._reasoning.inc(answer.usage.reasoning)

    def count_error(self, code: str) -> None:
        """A client was told of an error."""
        self._errors.labels(code).inc()

    def count_refused_connection(self, code: str) -> None:
        """A connection was shut by :class:`glm_frontend.http.protocol.BoundedProtocol`."""
        self.count_error(code)
        if code == "too_many_connections":
            self.count_refusal("connections")

    def count_refusal(self, reason: str) -> None:
        """A request was rejected; ``reason`` is one of ``errors.REFUSALS``."""
        self._refusals.labels(reason).inc()

    def count_fetch(self, kind: str, result: str, seconds: float) -> None:
        """A picture or a video was fetched, or could not be."""
        self._fetches.labels(kind, result).inc()
        self._fetch_seconds.labels(kind).observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"glm_frontend_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"glm_frontend_{name}", text, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"glm_frontend_{name}", text, labels, buckets=buckets, registry=self.registry
        )
