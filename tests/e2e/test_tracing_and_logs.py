"""One trace from HTTP to decode, and a log of JSON lines, of a server with both switched on."""

import gzip
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from e2e.calls import PICTURES, chat
from glm_client import Client, GenerationRequest
from tools.stack import Stack
from waiting import wait_until

KEY = "sk-nobody-may-read-this"
SECRET = "xylophone-and-quinces"  # stands in a prompt
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DIRECT_CALLER = "00-1bf7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
STAGES = ["preprocessing", "queue", "prefill", "decode"]
OF_STAGE_2 = ["generation", "vision", *STAGES]


@dataclass
class Collector:
    """Takes spans by OTLP over HTTP. ``received``: with the name of the service of each."""

    url: str = ""
    received: list[tuple[str, Span]] = field(default_factory=list)

    def trace(self, trace_id: str) -> dict[str, tuple[str, Span]]:
        """The spans of a trace, by name."""
        return {s.name: (part, s) for part, s in self.received if s.trace_id.hex() == trace_id}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _attributes(part.resource)["service.name"]
                for scope in part.scope_spans:
                    collector.received.extend((service, span) for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server of its own, which has answered a picture over HTTP and a question over gRPC."""
    server = Stack(
        tmp_path_factory.mktemp("traced") / "launcher.log",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        GLM_LOG_FORMAT="json",
        GLM_LOG_LEVEL="debug",
        GLM_API_KEYS=KEY,
    )
    try:
        server.wait_ready()
        body = chat(f"What is in this image, {SECRET}?", "photo-square.jpg", stream=True)
        headers = {
            "authorization": f"Bearer {KEY}", "traceparent": CALLER, "x-request-id": "job-1"
        }  # fmt: skip
        url = f"{server.base_url}/v1/chat/completions"
        assert "[DONE]" in requests.post(url, json=body, headers=headers, timeout=60).text
        with Client(server.grpc_url) as client:
            picture = (PICTURES / "plot-42.png").read_bytes()
            client.generate(
                GenerationRequest(text_input=SECRET, images=[picture], trace_context=DIRECT_CALLER)
            )
        yield server
        server.interrupt()
        assert server.wait_stopped() == 0, server.log
    finally:
        server.kill()


def _attributes(owner: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))
        for pair in owner.attributes
    }


def _trace(collector: Collector, caller: str, *names: str) -> dict[str, tuple[str, Span]]:
    """The spans of a caller's trace, once all have come that are named: a process sends them in
    batches, as time goes by."""
    trace_id = caller.split("-")[1]
    wait_until(lambda: {*names} <= collector.trace(trace_id).keys())
    return collector.trace(trace_id)


def _assert_stages(spans: Mapping[str, tuple[str, Span]]) -> None:
    """They lie within the span of stage 2, one after the other, and vision within the prefill."""
    _, whole = spans["generation"]
    stages = [spans[name][1] for name in STAGES]
    for span in stages:
        assert span.parent_span_id == whole.span_id
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    bounds = [whole.start_time_unix_nano]
    for span in stages:
        bounds += [span.start_time_unix_nano, span.end_time_unix_nano]
    bounds.append(whole.end_time_unix_nano)
    assert bounds == sorted(bounds)
    prefill, vision = spans["prefill"][1], spans["vision"][1]
    assert vision.parent_span_id == prefill.span_id
    assert prefill.start_time_unix_nano <= vision.start_time_unix_nano
    assert vision.start_time_unix_nano < vision.end_time_unix_nano
    assert vision.end_time_unix_nano <= prefill.end_time_unix_nano


@pytest.mark.timing
def test_one_trace_from_http_to_decode(traced: Stack, collector: Collector) -> None:
    name = "POST /v1/chat/completions"
    spans = _trace(collector, CALLER, name, *OF_STAGE_2)
    assert set(spans) == {name, *OF_STAGE_2}
    part, http = spans[name]
    assert part == "glm-frontend"
    assert {p for n, (p, _) in spans.items() if n != name} == {"glm-generation"}
    assert http.parent_span_id.hex() == CALLER.split("-")[2]
    assert http.kind == Span.SPAN_KIND_SERVER
    whole = spans["generation"][1]
    assert whole.parent_span_id == http.span_id
    assert http.start_time_unix_nano < whole.start_time_unix_nano
    assert whole.start_time_unix_nano < http.end_time_unix_nano
    _assert_stages(spans)
    attributes = _attributes(http)
    assert attributes["http.route"] == "/v1/chat/completions"
    assert attributes["http.response.status_code"] == 200
    assert attributes["gen_ai.request.model"] == "glm-4.6v-flash"
    assert attributes["gen_ai.usage.output_tokens"] > 1
    of_stage_2 = _attributes(whole)
    assert of_stage_2["glm.request_id"] == attributes["glm.request_id"] == "job-1"
    for count in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"):
        assert of_stage_2[count] == attributes[count]


@pytest.mark.timing
def test_a_direct_client_s_trace_goes_on_in_stage_2(traced: Stack, collector: Collector) -> None:
    spans = _trace(collector, DIRECT_CALLER, *OF_STAGE_2)
    assert set(spans) == {*OF_STAGE_2}
    assert spans["generation"][1].parent_span_id.hex() == DIRECT_CALLER.split("-")[2]
    _assert_stages(spans)


def test_no_span_tells_what_was_asked(traced: Stack, collector: Collector) -> None:
    _trace(collector, DIRECT_CALLER, *OF_STAGE_2)
    told = str(collector.received)
    assert "job-1" in told
    assert SECRET not in told and KEY not in told and "red square" not in told


@pytest.mark.timing
def test_every_line_of_the_log_is_json_and_tells_of_its_request(traced: Stack) -> None:
    # A line is written when its request has ended, and may be read when it is half written.
    wait_until(lambda: traced.log.count('"job-1"') >= 2)
    log, _, _ = traced.log.rpartition("\n")
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    own = {line["logger"]: line for line in lines if line.get("request_id") == "job-1"}
    assert set(own) == {"glm_frontend", "generation"}
    assert {line["trace_id"] for line in own.values()} == {CALLER.split("-")[1]}
    access = own["glm_frontend"]
    assert (access["message"], access["level"], access["status"]) == ("request", "info", 200)
    assert (access["method"], access["path"]) == ("POST", "/v1/chat/completions")
    assert own["generation"]["finish_reason"] == "stop"
    assert {"launcher", "glm_engine.model_runner"} <= {line["logger"] for line in lines}
    assert SECRET not in traced.log and KEY not in traced.log and "red square" not in traced.log
