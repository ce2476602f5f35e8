"""Prompts as stage 1 makes them, and an engine on the demo checkpoint."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageDraw

from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.heartbeat import Heartbeat
from glm_engine.request import Output, Prompt, Request, SamplingParams, place_images
from glm_preprocessing.preprocessor import Preprocessor, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from unit.paths import DEMO_CHECKPOINT

# For one answer of the demo model on a machine that has others to serve.
WAIT_SECONDS = 240


def picture(seed: int) -> bytes:
    """A PNG with one ellipse; size, place and colours follow from the seed."""
    width, height = 60 + 37 * seed % 300, 60 + 53 * seed % 200
    image = Image.new("RGB", (width, height), (255, 255 - 40 * (seed % 4), 250))
    box = (width // 4, height // 4, width // 2 + seed % 20, height // 2 + seed % 30)
    ImageDraw.Draw(image).ellipse(box, fill=(40 * (seed % 6), 30, 200 - 30 * (seed % 5)))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_prompt() -> Callable[..., Prompt]:
    """``make_prompt(question, pictures, thinking, videos)`` -> Prompt; pictures come first."""
    settings = PreprocessingSettings.from_env(
        {"GLM_MODEL": str(DEMO_CHECKPOINT), "GLM_MAX_VIDEOS": "2"}
    )
    preprocessor = Preprocessor.from_settings(settings)
    config = json.loads((DEMO_CHECKPOINT / "config.json").read_text())

    def make(
        question: str,
        pictures: list[int] | None = None,
        thinking: bool = True,
        videos: Sequence[bytes] = (),
    ) -> Prompt:
        stage_1 = preprocessor(
            PromptRequest(
                text_input=question,
                image=[picture(seed) for seed in pictures or []],
                video=videos,
                chat_template_kwargs=json.dumps({"enable_thinking": thinking}),
            )
        )
        return Prompt(
            field="text_input",
            input_ids=stage_1.input_ids,
            position_ids=stage_1.position_ids,
            rope_delta=int(stage_1.rope_delta[0]),
            images=place_images(
                stage_1.input_ids,
                config["image_token_id"],
                config["vision_config"]["spatial_merge_size"],
                stage_1.image_grid_thw,
                stage_1.image_hash,
                stage_1.patches,
                stage_1.image_frames,
            ),
        )

    return make


class Harness:
    """An engine and everything that it has put out."""

    def __init__(self, heartbeat: Heartbeat | None = None, **config: Any) -> None:
        self._changed = threading.Condition()
        self.outputs: dict[Request, list[Output]] = defaultdict(list)
        # To clear the default half GiB for each test would take most of the test's time.
        config.setdefault("kv_cache_memory", 64 * 2**20)
        config.setdefault("model", str(DEMO_CHECKPOINT))
        settings = EngineConfig(**config)
        self.engine = Engine(settings, self._take, heartbeat)

    def _take(self, outputs: Sequence[Output]) -> None:
        with self._changed:
            for output in outputs:
                self.outputs[output.request].append(output)
            self._changed.notify_all()

    def add(self, prompt: Prompt, **params: Any) -> Request:
        params.setdefault("temperature", 0.0)
        request = Request(f"r{id(prompt):x}", prompt, SamplingParams(**params))
        self.engine.add(request)
        return request

    def wait(self, request: Request, outputs: int | None = None) -> list[Output]:
        """Wait for a number of outputs of a request, or for its last."""

        def done() -> bool:
            seen = self.outputs[request]
            return bool(seen) and (
                seen[-1].is_final or (outputs is not None and len(seen) >= outputs)
            )

        with self._changed:
            assert self._changed.wait_for(done, timeout=WAIT_SECONDS), "no answer came"
            return list(self.outputs[request])

    def text(self, request: Request) -> str:
        return "".join(output.text for output in self.wait(request))


@pytest.fixture
def make_harness() -> Iterator[Callable[..., Harness]]:
    """``make_harness(start, **config)`` -> Harness with a fresh engine, started if ``start``.

    Afterwards each engine is stopped, and nothing of a request may be left in it.
    """
    made: list[Harness] = []

    def make(start: bool = True, **config: Any) -> Harness:
        harness = Harness(**config)
        made.append(harness)
        if start:
            harness.engine.start()
        return harness

    yield make
    for harness in made:
        harness.engine.stop(timeout=30)
        harness.engine._scheduler.check_integrity()
        assert harness.engine._blocks.num_free == harness.engine._blocks.num_blocks
        for outputs in harness.outputs.values():
            assert [output.is_final for output in outputs].count(True) == 1
            assert outputs[-1].is_final


@pytest.fixture
def harness(make_harness: Callable[..., Harness]) -> Harness:
    """One with the default settings, started."""
    return make_harness()
