"""OpenTelemetry's SDK, where its standard variables switch it on; else it is not imported.

Each part of the server works alone, so each that traces has this file.
"""

import os
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SHUTDOWN_SECONDS = 2.0

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# What each variable may be besides not set; all else would be ignored silently.
_CHOICES = {
    "OTEL_TRACES_EXPORTER": ("otlp", "none"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf",),
}


def is_on(env: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a collector to be told: an endpoint is named, or ``otlp`` as the exporter.

    Raises:
        ValueError: naming a variable whose value is not supported; or the SDK is not installed.
    """
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    for name, choices in _CHOICES.items():
        value = env.get(name, "").strip()
        if value and value not in choices:
            raise ValueError(f"{name}={value!r}: only {' and '.join(choices)} are supported")
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter == "none" or not (exporter or any(env.get(name) for name in _ENDPOINTS)):
        return False
    for package in ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"):
        try:
            version(package)
        except PackageNotFoundError:
            raise ValueError(
                f"the OTEL_ variables ask for traces, but {package} is not installed: "
                "pip install 'glm-triton-server[tracing]', or set OTEL_SDK_DISABLED=true"
            ) from None
    return True


def create_provider(service: str, env: Mapping[str, str] = os.environ) -> "TracerProvider":
    """Makes tracers whose spans go to the collector in the background.

    A queue of bounded length holds them; what the collector does not take is dropped.

    Args:
        service: the name to go by, unless the environment has one.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in env or f"{SERVICE_NAME}=" in env.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {SERVICE_NAME: service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def shut_down(provider: "TracerProvider") -> None:
    """Send what is left, if the collector takes it at once."""
    # By itself it would go on trying for half a minute.
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(_SHUTDOWN_SECONDS)
