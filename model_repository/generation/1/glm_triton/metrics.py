"""Triton's custom metrics of stage 2."""

import ctypes
import queue
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from glm_engine.engine import EngineStats
from glm_engine.errors import FINISH_REASONS

# Bucket bounds in seconds: for whole requests and their stages, and for events per token.
_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_TOKEN_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5]

# Name of the metric without glm_, its description, and the attribute of EngineStats.
_GAUGES = {
    "requests_running": ("Requests that are running", "running"),
    "image_cache_bytes": ("Size of the cached embeddings of pictures", "image_cache_bytes"),
    "kv_cache_blocks": ("Blocks of the KV cache", "kv_blocks"),
    "kv_cache_blocks_used": ("Blocks of the KV cache in use", "kv_blocks_used"),
}
_COUNTERS = {
    "engine_steps": ("Steps of the engine", "steps"),
    "prompt_tokens": ("Prompt tokens, image tokens included", "prompt_tokens"),
    "cached_prompt_tokens": ("Prompt tokens found in the KV cache", "cached_tokens"),
    "image_tokens": ("Prompt tokens of pictures and videos", "image_tokens"),
    "generation_tokens": ("Tokens generated", "generation_tokens"),
    "preemptions": ("Times that a request was preempted", "preemptions"),
    "image_cache_hits": (
        "Pictures and pairs of video frames whose embeddings were cached",
        "image_cache_hits",
    ),
    "images_encoded": ("Pictures and pairs of video frames that were encoded", "images_encoded"),
}
_HISTOGRAMS = {
    "preprocessing_seconds": ("Round trip from stage 2 to stage 1", _SECONDS),
    "queue_seconds": ("From entering the engine's queue to the first part of the prompt", _SECONDS),
    "vision_seconds": ("Vision encoder, per step that had images", _SECONDS),
    "prefill_seconds": ("From the first part of the prompt to the first token", _SECONDS),
    "decode_seconds": ("From the first token to the last", _SECONDS),
    "time_to_first_token_seconds": ("From arrival at stage 2 to the first token", _SECONDS),
    "time_per_output_token_seconds": ("Per request, after the first token", _TOKEN_SECONDS),
    "request_seconds": ("From arrival at stage 2 to the last token", _SECONDS),
    "cancellation_steps": (
        "Engine steps begun between a cancellation and the release of the request's memory",
        [0, 1, 2, 4, 8, 16],
    ),
}


class Metrics:
    """Triton's custom metrics. Each call is a round trip to the server: keep off the hot path.

    A series belongs to the server, not to this process: while a model is reloaded, the old process
    and the new one count in the same. So a counter is raised by what was added here, whatever its
    value. (To lower it would be an error, and Triton frees the text of such an error while this
    process reads it, which may abort the server.)

    Args:
        model, version: of the model in Triton, the labels of every series, as Triton's own have
            them.
        info: further labels of ``glm_model_info``, which describe the model.
    """

    def __init__(self, model: str, version: str, info: Mapping[str, str]) -> None:
        self._labels = {"model": model, "version": version}
        self._finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._requests = self._family("requests_total", "Requests answered", counter)
        self._by_reason = {
            reason: self._requests.Metric(labels=self._labels | {"finish_reason": reason})
            for reason in FINISH_REASONS
        }
        self._gauges = {
            attribute: self._family(name, description, gauge).Metric(labels=self._labels)
            for name, (description, attribute) in _GAUGES.items()
        }
        self._waiting = self._family(
            "requests_waiting", "Requests before their prefill", gauge
        ).Metric(labels=self._labels)
        self._info = self._family("model_info", "1; the labels describe the model", gauge).Metric(
            labels=self._labels | dict(info)
        )
        self._info.set(1)
        # Counters that were 0 before do not reveal a restart.
        self._started = self._family(
            "start_time_seconds", "Unix time of stage 2's start", gauge
        ).Metric(labels=self._labels)
        self._started.set(time.time())
        self._counters = {
            attribute: self._family(f"{name}_total", description, counter).Metric(
                labels=self._labels
            )
            for name, (description, attribute) in _COUNTERS.items()
        }
        self._histograms = {
            name: self._family(name, description, pb_utils.MetricFamily.HISTOGRAM).Metric(
                labels=self._labels, buckets=buckets
            )
            for name, (description, buckets) in _HISTOGRAMS.items()
        }
        self._published = dict.fromkeys(self._counters, 0)

    def _family(self, name: str, description: str, kind: Any) -> Any:
        family = pb_utils.MetricFamily(name=f"glm_{name}", description=description, kind=kind)
        # Never deleted, not even at the end of this process: Triton frees a deleted series although
        # another process may count in it, and that process would then write to freed memory.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(family))
        return family

    def count_finished(self, finish_reason: str) -> None:
        """Count one answered request; published later."""
        self._finished.put(finish_reason)

    def publish(self, stats: EngineStats, live: int, preprocessing: deque[float]) -> None:
        """Update Triton's metrics from the engine's counters."""
        # First, so that a request that counts as finished is never also shown as running.
        finished = [self._finished.get() for _ in range(self._finished.qsize())]
        for attribute, metric in self._counters.items():
            value = getattr(stats, attribute)
            if value > self._published[attribute]:
                metric.increment(value - self._published[attribute])
                self._published[attribute] = value
        for attribute, metric in self._gauges.items():
            metric.set(getattr(stats, attribute))
        self._waiting.set(max(0, live - stats.running))
        self._observe("preprocessing_seconds", preprocessing)
        self._observe("vision_seconds", stats.vision_seconds)
        self._observe("cancellation_steps", stats.cancellation_steps)
        for times in _taken(stats.times):
            self._histograms["queue_seconds"].observe(times.queue)
            self._histograms["prefill_seconds"].observe(times.prefill)
            self._histograms["decode_seconds"].observe(times.decode)
            self._histograms["time_to_first_token_seconds"].observe(times.ttft)
            self._histograms["request_seconds"].observe(times.end_to_end)
            if times.tpot is not None:
                self._histograms["time_per_output_token_seconds"].observe(times.tpot)
        for reason in finished:
            self._by_reason[reason].increment(1)

    def end(self) -> None:
        """Show that nothing runs here any more; the counters stay."""
        for gauge in (self._waiting, *self._gauges.values()):
            gauge.set(0)

    def _observe(self, name: str, values: deque[Any]) -> None:
        for value in _taken(values):
            self._histograms[name].observe(value)


def _taken(values: deque[Any]) -> Iterator[Any]:
    """Remove and yield the current entries."""
    for _ in range(len(values)):
        yield values.popleft()
