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


def content_hash(image: bytes, max_pixels: int = 0) -> bytes:
    """The name of an image: a hash of what the client sent, file or text, and its pixel budget."""
    name = blake2b(image, digest_size=HASH_BYTES)
    if max_pixels:
        name.update(b"%d" % max_pixels)
    return name.digest()


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """What stage 1 gets: one of the first four; JSON fields still as text.

    Attributes:
        prompt: a whole prompt, for which the chat template is not used: tags in it are tokens.
        prompt_token_ids: a whole prompt, tokenised.
        image_max_pixels: for each entry of ``image`` the pixels that it is scaled down to; 0 for
            the checkpoint's own limit.
        image_hashes: content hash of each entry of ``image``, where the caller has them.
        known_grids: the grids of images that need not be decoded, by content hash. Their entries of
            ``image`` may be empty.
    """

    messages: str | None = None
    text_input: str | None = None
    prompt: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    tools: str | None = None
    chat_template_kwargs: str | None = None
    image: Sequence[bytes] = ()
    image_max_pixels: Sequence[int] = ()
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
        image_size: (images, 2) int32 width and height of each image, upright, before it was
            resized; zeros for known ones.
    """

    input_ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    rope_delta: int
    patches: npt.NDArray[np.uint8]
    image_grid_thw: npt.NDArray[np.int32]
    image_hash: npt.NDArray[np.uint8]
    image_size: npt.NDArray[np.int32]


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
        field = _prompt_field(request)
        parts = [ImagePart(f"image[{i}]", None) for i in range(len(request.image))]
        if request.prompt_token_ids is not None:
            token_ids = self._checked(request.prompt_token_ids)
        elif request.prompt is not None:
            token_ids = self._encode(request.prompt, field)
        else:
            conversation = self._conversation(request)
            parts = conversation.image_parts
            token_ids = self._encode(self._template.render(conversation), field)
        patches, grids, hashes, sizes = self._images(parts, request)
        input_ids = self._expand_images(token_ids, grids, field)
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
            image_size=np.array(sizes, np.int32).reshape(-1, 2),
        )

    def texts(self, input_ids: Sequence[int]) -> list[str]:
        """Each token by itself as text; incomplete characters as U+FFFD."""
        return [self._tokenizer.decode([token_id]) for token_id in input_ids]

    def text(self, input_ids: Sequence[int]) -> str:
        """All tokens together as text."""
        return self._tokenizer.decode(input_ids)

    def _encode(self, prompt: str, field: str) -> list[int]:
        if not _is_text(prompt):
            raise InvalidInput(field, "holds half a surrogate pair, which is no text")
        if self._tokenizer.min_tokens(prompt) >= self._context:
            # Before the tokenizer spends seconds on what stage 2 refuses anyway.
            raise InvalidInput(
                field,
                f"the prompt of {len(prompt)} characters leaves no room for an answer in the "
                f"context of {self._context}",
            )
        token_ids = self._tokenizer.encode(prompt)
        if not token_ids:
            raise InvalidInput(field, "is empty")
        return token_ids

    def _checked(self, token_ids: Sequence[int]) -> Sequence[int]:
        if not len(token_ids):
            raise InvalidInput("prompt_token_ids", "is empty")
        if len(token_ids) >= self._context:
            raise InvalidInput(
                "prompt_token_ids",
                f"the prompt has {len(token_ids)} tokens and leaves no room for an answer in the "
                f"context of {self._context}",
            )
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._tokenizer.num_tokens:
                raise InvalidInput(f"prompt_token_ids[{i}]", f"there is no token {token_id}")
        return token_ids

    def _conversation(self, request: PromptRequest) -> Conversation:
        messages: Any
        if request.messages is not None:
            messages = parse_json(request.messages, "messages")
        else:
            messages = user_turn(request.text_input or "", len(request.image))
        tools = _optional_json(request.tools, "tools")
        kwargs = _optional_json(request.chat_template_kwargs, "chat_template_kwargs")
        try:
            return parse_conversation(messages, tools, kwargs, self._tokenizer)
        except RecursionError:
            field = "chat_template_kwargs" if tools is None else "tools"
            raise InvalidInput(field, "is nested too deeply") from None

    def _images(
        self, parts: Sequence[ImagePart], request: PromptRequest
    ) -> tuple[
        npt.NDArray[np.uint8], list[tuple[int, int, int]], list[bytes], list[tuple[int, int]]
    ]:
        """Patches of the images that are not known; grid, content hash and size of all."""
        if len(parts) > self._settings.max_images:
            raise InvalidInput(
                "image", f"{len(parts)} given, at most {self._settings.max_images} are taken"
            )
        wanted = sum(part.data_uri is None for part in parts)
        if wanted != len(request.image):
            raise InvalidInput(
                "image", f"{len(request.image)} given, but the messages have {wanted} image part(s)"
            )
        budgets = request.image_max_pixels or [0] * len(request.image)
        if len(budgets) != len(request.image):
            raise InvalidInput("image_max_pixels", "needs one entry for each image")
        sent = iter(range(len(request.image)))
        patches, grids, hashes = [np.empty((0, self._patch_config.row), np.uint8)], [], []
        sizes: list[tuple[int, int]] = []
        for part in parts:
            max_pixels = part.max_pixels
            if part.data_uri is not None:
                field, data, name = part.field, part.data_uri.encode(), None
            else:
                index = next(sent)
                field, data = f"image[{index}]", request.image[index]
                name = request.image_hashes[index] if request.image_hashes else None
                max_pixels = budgets[index]
                if max_pixels < 0:
                    raise InvalidInput(f"image_max_pixels[{index}]", "has to be 0 or more")
            hashes.append(name or content_hash(data, max_pixels))
            grid = request.known_grids.get(hashes[-1])
            if grid is None:
                file = images.file_bytes(data, field)
                image = images.decode(file, field, self._settings.max_image_pixels)
                side = self._settings.max_image_side
                own, grid = patchify(image, self._patch_config, field, side, max_pixels)
                patches.append(own)
                sizes.append(image.size)
            else:
                sizes.append((0, 0))
            grids.append(grid)
        return np.concatenate(patches), grids, hashes, sizes

    def _expand_images(
        self, token_ids: Sequence[int], grids: Sequence[tuple[int, int, int]], field: str
    ) -> npt.NDArray[np.int32]:
        ids = np.array(token_ids, np.int32)
        placeholders = int(np.count_nonzero(ids == self._image_token_id))
        if placeholders != len(grids):
            # As for an image before "</think>" in an assistant's turn: a thought is dropped.
            raise InvalidInput(
                "messages" if field == "text_input" else field,
                f"the prompt has room for {placeholders} of {len(grids)} image(s)",
            )
        repeats = np.ones(len(ids), np.int64)
        merged = self._patch_config.merge_size**2
        repeats[ids == self._image_token_id] = [t * h * w // merged for t, h, w in grids]
        return np.repeat(ids, repeats)


def _prompt_field(request: PromptRequest) -> str:
    """The field that the prompt comes from."""
    fields = ("messages", "text_input", "prompt", "prompt_token_ids")
    given = [name for name in fields if getattr(request, name) is not None]
    if not given:
        raise InvalidInput("messages", f"is missing; give one of {', '.join(fields)}")
    if len(given) > 1:
        raise InvalidInput(given[1], f"cannot be given beside {given[0]}")
    if given[0] in fields[2:]:
        for name in ("tools", "chat_template_kwargs"):
            if getattr(request, name) is not None:
                raise InvalidInput(name, f"is for messages, not for {given[0]}")
    return given[0]


def _is_text(text: str) -> bool:
    """Whether UTF-8 can say it; JSON's escapes can also write halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _optional_json(text: str | None, field: str) -> Any:
    return None if text is None else parse_json(text, field)
