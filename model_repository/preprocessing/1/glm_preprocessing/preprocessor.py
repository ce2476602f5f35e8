"""The whole of stage 1: one request in, everything that the engine needs out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from glm_preprocessing import images
from glm_preprocessing.chat import (
    ChatTemplate,
    Conversation,
    ImagePart,
    parse_conversation,
    parse_json,
    user_turn,
)
from glm_preprocessing.checkpoint import Checkpoint
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.patches import PatchConfig, patchify
from glm_preprocessing.positions import mrope_positions
from glm_preprocessing.settings import PreprocessingSettings
from glm_preprocessing.tokenizer import PromptTokenizer

HASH_BYTES = 16


def content_hash(image: bytes) -> bytes:
    """The name of an image: a hash of what the client sent, file or text."""
    return blake2b(image, digest_size=HASH_BYTES).digest()


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """What stage 1 gets: either ``messages`` or ``text_input``; JSON fields still as text.

    Attributes:
        image_hashes: content hash of each entry of ``image``, where the caller has them.
        known_grids: the grids of images that need not be decoded, by content hash. Their entries of
            ``image`` may be empty.
    """

    messages: str | None = None
    text_input: str | None = None
    tools: str | None = None
    chat_template_kwargs: str | None = None
    image: Sequence[bytes] = ()
    image_hashes: Sequence[bytes] = ()
    known_grids: Mapping[bytes, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine needs.

    Attributes:
        input_ids: (tokens,) int32, image placeholders repeated once a merged patch.
        position_ids: (3, tokens) int32 M-RoPE positions.
        rope_delta: token n after the prompt is at position n + rope_delta on all axes.
        patches: (patches, 3 * patch_size ** 2) uint8 of all images in order, but for known ones.
        image_grid_thw: (images, 3) int32 grid of each image in patches.
        image_hash: (images, HASH_BYTES) uint8 content hash of each image.
    """

    input_ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    rope_delta: int
    patches: npt.NDArray[np.uint8]
    image_grid_thw: npt.NDArray[np.int32]
    image_hash: npt.NDArray[np.uint8]


class Preprocessor:
    """Turns requests into prompts. Holds no state between requests."""

    def __init__(self, checkpoint: Checkpoint, settings: PreprocessingSettings) -> None:
        self._settings = settings
        self._tokenizer = PromptTokenizer(checkpoint.tokenizer)
        self._template = ChatTemplate(checkpoint.chat_template)
        self._patch_config = PatchConfig.from_image_processor(checkpoint.image_processor)
        self._context: int = checkpoint.config["text_config"]["max_position_embeddings"]
        self._image_token_id = self._tokenizer.token_id("<|image|>")
        if checkpoint.config.get("image_token_id") != self._image_token_id:
            raise ValueError(
                f"config.json has image_token_id {checkpoint.config.get('image_token_id')}, "
                f"the tokenizer has {self._image_token_id} for <|image|>"
            )

    @classmethod
    def from_settings(cls, settings: PreprocessingSettings) -> Self:
        """Load the checkpoint that the settings name."""
        return cls(Checkpoint.load(settings.model), settings)

    def __call__(self, request: PromptRequest) -> Prompt:
        """Render, tokenise, decode, resize and place.

        Raises:
            InvalidInput: naming the field that the client has to change.
        """
        conversation = self._conversation(request)
        prompt = self._template.render(conversation)
        if not _is_text(prompt):
            raise InvalidInput("messages", "hold half a surrogate pair, which is no text")
        if self._tokenizer.min_tokens(prompt) >= self._context:
            # Before the tokenizer spends seconds on what stage 2 refuses anyway.
            raise InvalidInput(
                "text_input" if request.messages is None else "messages",
                f"the prompt of {len(prompt)} characters leaves no room for an answer in the "
                f"context of {self._context}",
            )
        token_ids = self._tokenizer.encode(prompt)
        patches, grids, hashes = self._images(conversation.image_parts, request)
        input_ids = self._expand_images(token_ids, grids)
        position_ids, rope_delta = mrope_positions(
            input_ids, self._image_token_id, grids, self._patch_config.merge_size
        )
        return Prompt(
            input_ids=input_ids,
            position_ids=position_ids,
            rope_delta=rope_delta,
            patches=patches,
            image_grid_thw=np.array(grids, np.int32).reshape(-1, 3),
            image_hash=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
        )

    def _conversation(self, request: PromptRequest) -> Conversation:
        if request.messages is not None and request.text_input is not None:
            raise InvalidInput("text_input", "give either text_input or messages, not both")
        messages: Any
        if request.messages is not None:
            messages = parse_json(request.messages, "messages")
        elif request.text_input is not None:
            messages = user_turn(request.text_input, len(request.image))
        else:
            raise InvalidInput("messages", "is missing; give messages or text_input")
        tools = _optional_json(request.tools, "tools")
        kwargs = _optional_json(request.chat_template_kwargs, "chat_template_kwargs")
        try:
            return parse_conversation(messages, tools, kwargs, self._tokenizer)
        except RecursionError:
            field = "chat_template_kwargs" if tools is None else "tools"
            raise InvalidInput(field, "is nested too deeply") from None

    def _images(
        self, parts: Sequence[ImagePart], request: PromptRequest
    ) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int, int]], list[bytes]]:
        """Patches of the images that are not known, and grid and content hash of all."""
        if len(parts) > self._settings.max_images:
            raise InvalidInput(
                "image", f"{len(parts)} given, at most {self._settings.max_images} are taken"
            )
        wanted = sum(part.data_uri is None for part in parts)
        if wanted != len(request.image):
            raise InvalidInput(
                "image", f"{len(request.image)} given, but the messages have {wanted} image part(s)"
            )
        sent = iter(range(len(request.image)))
        patches, grids, hashes = [np.empty((0, self._patch_config.row), np.uint8)], [], []
        for part in parts:
            if part.data_uri is not None:
                field, data, name = part.field, part.data_uri.encode(), None
            else:
                index = next(sent)
                field, data = f"image[{index}]", request.image[index]
                name = request.image_hashes[index] if request.image_hashes else None
            hashes.append(name or content_hash(data))
            grid = request.known_grids.get(hashes[-1])
            if grid is None:
                file = images.file_bytes(data, field)
                image = images.decode(file, field, self._settings.max_image_pixels)
                side = self._settings.max_image_side
                own, grid = patchify(image, self._patch_config, field, side)
                patches.append(own)
            grids.append(grid)
        return np.concatenate(patches), grids, hashes

    def _expand_images(
        self, token_ids: Sequence[int], grids: Sequence[tuple[int, int, int]]
    ) -> npt.NDArray[np.int32]:
        ids = np.array(token_ids, np.int32)
        placeholders = int(np.count_nonzero(ids == self._image_token_id))
        if placeholders != len(grids):
            # As for an image before "</think>" in an assistant's turn: a thought is dropped.
            raise InvalidInput(
                "messages",
                f"the chat template has room for {placeholders} of their {len(grids)} image(s)",
            )
        repeats = np.ones(len(ids), np.int64)
        merged = self._patch_config.merge_size**2
        repeats[ids == self._image_token_id] = [t * h * w // merged for t, h, w in grids]
        return np.repeat(ids, repeats)


def _is_text(text: str) -> bool:
    """Whether UTF-8 can say it; JSON's escapes can also write halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _optional_json(text: str | None, field: str) -> Any:
    return None if text is None else parse_json(text, field)
