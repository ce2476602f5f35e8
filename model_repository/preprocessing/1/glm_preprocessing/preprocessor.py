"""Stage 1 as a whole: turns a request into everything that the engine needs."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from glm_preprocessing import images
from glm_preprocessing.chat import (
    ChatTemplate,
    Conversation,
    ImagePart,
    VideoPart,
    parse_conversation,
    parse_json,
    user_turn,
)
from glm_preprocessing.checkpoint import Checkpoint
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.media_options import (
    ProcessorKwargs,
    VideoOptions,
    processor_kwargs,
)
from glm_preprocessing.patches import (
    PatchConfig,
    check_whole,
    cut_frame,
    pair_frames,
    patchify,
    target_size,
)
from glm_preprocessing.positions import mrope_positions
from glm_preprocessing.questions import Question, asked, parse_questions
from glm_preprocessing.settings import PreprocessingSettings
from glm_preprocessing.tokenizer import PromptTokenizer
from glm_preprocessing.videos import Video, VideoLimits, sample

HASH_BYTES = 16
# More than any context holds; bounds the cost of processing tool schemas.
MAX_TOOLS_CHARACTERS = 512 * 1024
# Of frames that come without times.
_FRAMES_A_SECOND = 1.0
# Of the prompts of all questions together: 16 MB of ids and positions.
MAX_QUESTION_TOKENS = 1_000_000
Grid = tuple[int, int, int]


def content_hash(image: bytes, max_pixels: int = 0, processor_kwargs: str = "") -> bytes:
    """The key of an image: a hash of the bytes that the client sent, and of what is done to it."""
    name = blake2b(image, digest_size=HASH_BYTES)
    if max_pixels:
        name.update(b"%d" % max_pixels)
    name.update(processor_kwargs.encode())
    return name.digest()


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """Inputs of stage 1, of which one of the first four is set; JSON fields are unparsed text.

    Attributes:
        prompt: a complete prompt, used without the chat template: tags in it become special tokens.
        prompt_token_ids: a complete prompt, tokenised.
        image_max_pixels: for each entry of ``image`` the maximum number of pixels; 0 for the
            checkpoint's own limit.
        video: like ``image``, for video files, and for pictures that are frames of one.
        mm_processor_kwargs: JSON object; see ``ProcessorKwargs``.
        questions: about the conversation, each of which makes a prompt of its own.
        image_hashes: content hash of each entry of ``image``, if the caller has them.
        known_grids: by content hash, the grids of images that need not be decoded. Their entries
            of ``image`` may be empty.
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
    known_grids: Mapping[bytes, Grid] = field(default_factory=dict)
    video: Sequence[bytes] = ()
    mm_processor_kwargs: str | None = None
    questions: str | None = None


@dataclass(frozen=True, slots=True)
class _Visual:
    """The source of a run of image tokens: a picture, or one temporal patch of a video.

    Attributes:
        patches: (patches * frames, 3 * patch_size ** 2) uint8; None for a known picture.
        frames: frames per patch; 1 for a picture, whose frame is used for all of them.
        size: width and height of a picture, upright, before resizing; zeros for a known one.
    """

    content_hash: bytes
    grid: Grid
    patches: npt.NDArray[np.uint8] | None
    frames: int = 1
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class _SampledVideo:
    """The sampled frames of a video.

    Attributes:
        visuals: its temporal patches.
        seconds: start time of each of them.
    """

    visuals: Sequence[_Visual]
    seconds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input of the engine. An image here is a picture, or a temporal patch of a video.

    Attributes:
        input_ids: (tokens,) int32, image placeholders repeated once per merged patch; with
            questions, of all their prompts, as ``position_ids`` and images.
        position_ids: (3, tokens) int32 M-RoPE positions.
        rope_delta: (prompts,) int32: token n after the prompt is at position n + rope_delta on all
            axes.
        prompt_length, prompt_images: (prompts,) int32 number of tokens, and of images.
        options: tokens of the options of each question.
        patches: (rows, 3 * patch_size ** 2) uint8 of all images in order, except known ones and
            those of earlier prompts; one row per frame of a patch.
        image_grid_thw: (images, 3) int32 grid of each image in patches.
        image_hash: (images, HASH_BYTES) uint8 content hash of each image.
        image_frames: (images,) int32 frames per patch; 1 for a picture.
        image_size: (pictures, 2) int32 width and height of each picture, upright, before
            resizing; zeros for known ones.
    """

    input_ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    rope_delta: npt.NDArray[np.int32]
    prompt_length: npt.NDArray[np.int32]
    prompt_images: npt.NDArray[np.int32]
    options: Sequence[Sequence[Sequence[int]]]
    patches: npt.NDArray[np.uint8]
    image_grid_thw: npt.NDArray[np.int32]
    image_hash: npt.NDArray[np.uint8]
    image_frames: npt.NDArray[np.int32]
    image_size: npt.NDArray[np.int32]


class Preprocessor:
    """Turns requests into prompts. Holds no state between requests."""

    def __init__(self, checkpoint: Checkpoint, settings: PreprocessingSettings) -> None:
        self._settings = settings
        self._tokenizer = PromptTokenizer(checkpoint.tokenizer)
        self._template = ChatTemplate(checkpoint.chat_template)
        self.tokenizer_config = {
            **checkpoint.tokenizer_config,
            "chat_template": checkpoint.chat_template,
        }
        """What a client needs to know of the tokenizer, with the names of transformers."""
        self._patch_config = PatchConfig.from_image_processor(checkpoint.image_processor)
        self._video_config = PatchConfig.from_video_processor(checkpoint.video_processor)
        self._video_limits = VideoLimits(
            settings.max_image_pixels, settings.max_video_frames, settings.video_decode_timeout
        )
        self._context: int = checkpoint.config["text_config"]["max_position_embeddings"]
        self._image_token_id = self._tokenizer.token_id("<|image|>")
        self._video_token_id = self._tokenizer.token_id("<|video|>")
        self._image_tags = tuple(
            self._tokenizer.token_id(tag) for tag in ("<|begin_of_image|>", "<|end_of_image|>")
        )
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
        """Render and tokenise the prompt; decode, resize and insert its images and videos.

        Raises:
            InvalidInput: names the invalid field.
        """
        field = _prompt_field(request)
        parts = [ImagePart(f"image[{i}]", None) for i in range(len(request.image))]
        video_parts = [VideoPart(f"video[{i}]", None) for i in range(len(request.video))]
        if request.questions is not None:
            return self._ask(request, field)
        if request.prompt_token_ids is not None:
            token_ids = self._checked(request.prompt_token_ids)
        elif request.prompt is not None:
            token_ids = self._encode(request.prompt, field)
        else:
            conversation = self._conversation(request, self._messages(request))
            parts, video_parts = conversation.image_parts, conversation.video_parts
            token_ids = self._encode(self._template.render(conversation), field)
        kwargs, budget = self._processor_kwargs(request), self._token_budget()
        pictures = self._images(parts, request, kwargs, [budget] * len(parts))
        videos = self._videos(video_parts, request, kwargs, budget)
        return self._assemble([self._expand(token_ids, pictures, videos, field)], pictures, ())

    def _ask(self, request: PromptRequest, field: str) -> Prompt:
        """The prompts of questions, which share the messages before them and their files."""
        if field in ("prompt", "prompt_token_ids"):
            raise InvalidInput("questions", f"cannot be combined with {field}")
        messages = self._messages(request)
        questions = parse_questions(request.questions or "")
        conversations = [
            self._conversation(request, asked(messages, question)) for question in questions
        ]
        own = [question.num_images for question in questions]
        shared = len(conversations[0].image_parts) - own[0]
        kwargs, budget = self._processor_kwargs(request), self._token_budget()
        parts, budgets = conversations[0].image_parts[:shared], [budget] * shared
        for conversation in conversations:
            after = conversation.image_parts[shared:]
            parts = [*parts, *after]
            budgets += [self._token_budget(budget)] * len(after)
        pictures = self._images(parts, request, kwargs, budgets)
        videos = self._videos(conversations[0].video_parts, request, kwargs, budget)
        expanded, total, first = [], 0, shared
        for number, conversation in enumerate(conversations):
            path = f"questions[{number}]"
            token_ids = self._encode(self._template.render(conversation), path)
            seen = [*pictures[:shared], *pictures[first : first + own[number]]]
            first += own[number]
            expanded.append(self._expand(token_ids, seen, videos, path))
            total += len(expanded[-1][0])
            if total > MAX_QUESTION_TOKENS:
                raise InvalidInput(
                    "questions",
                    f"too many tokens: the prompts up to {path} have {total} together "
                    f"(maximum {MAX_QUESTION_TOKENS})",
                )
        options = [
            self._options(question, f"questions[{number}]")
            for number, question in enumerate(questions)
        ]
        return self._assemble(expanded, pictures, options)

    @staticmethod
    def _processor_kwargs(request: PromptRequest) -> ProcessorKwargs:
        return processor_kwargs(_optional_json(request.mm_processor_kwargs, "mm_processor_kwargs"))

    def _token_budget(self, begun: "_TokenBudget | None" = None) -> "_TokenBudget":
        return _TokenBudget(self._context, self._patch_config.merge_size, begun)

    def _options(self, question: Question, field: str) -> list[list[int]]:
        options = []
        for number, text in enumerate(question.options):
            if not _is_text(text):
                raise InvalidInput(
                    f"{field}.options[{number}]",
                    "contains an unpaired surrogate, which is not valid text",
                )
            options.append(self._tokenizer.encode(self._tokenizer.escape(text)))
        return options

    def _assemble(
        self,
        prompts: Sequence[tuple[npt.NDArray[np.int32], Sequence[_Visual]]],
        pictures: Sequence[_Visual],
        options: Sequence[Sequence[Sequence[int]]],
    ) -> Prompt:
        """All prompts, one after the other, each with its ids and visuals."""
        merge = self._patch_config.merge_size
        positions = [
            mrope_positions(ids, self._image_token_id, [one.grid for one in visuals], merge)
            for ids, visuals in prompts
        ]
        visuals = [visual for _, own in prompts for visual in own]
        new = [np.empty((0, self._patch_config.row), np.uint8)]
        seen: set[bytes] = set()
        for _, own in prompts:
            new += [
                one.patches
                for one in own
                if one.patches is not None and one.content_hash not in seen
            ]
            seen.update(one.content_hash for one in own)
        hashes = b"".join(visual.content_hash for visual in visuals)
        return Prompt(
            input_ids=np.concatenate([ids for ids, _ in prompts]),
            position_ids=np.concatenate([of_prompt for of_prompt, _ in positions], axis=1),
            rope_delta=np.array([delta for _, delta in positions], np.int32),
            prompt_length=np.array([len(ids) for ids, _ in prompts], np.int32),
            prompt_images=np.array([len(own) for _, own in prompts], np.int32),
            options=options,
            patches=np.concatenate(new),
            image_grid_thw=np.array([one.grid for one in visuals], np.int32).reshape(-1, 3),
            image_hash=np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
            image_frames=np.array([visual.frames for visual in visuals], np.int32),
            image_size=np.array([picture.size for picture in pictures], np.int32).reshape(-1, 2),
        )

    def known(self, token_ids: Sequence[int]) -> list[int]:
        """The same tokens, all of which exist.

        Raises:
            InvalidInput: one does not, or there are more than a prompt may have.
        """
        return list(self._checked(token_ids))

    def texts(self, input_ids: Sequence[int]) -> list[str]:
        """Each token by itself as text; incomplete characters as U+FFFD."""
        return [self._tokenizer.decode([token_id]) for token_id in input_ids]

    def text(self, input_ids: Sequence[int]) -> str:
        """All tokens together as text."""
        return self._tokenizer.decode(input_ids)

    def _encode(self, prompt: str, field: str) -> list[int]:
        if not _is_text(prompt):
            raise InvalidInput(field, "contains an unpaired surrogate, which is not valid text")
        if self._tokenizer.min_tokens(prompt) >= self._context:
            # Saves seconds of tokenising a prompt that stage 2 would reject anyway.
            raise InvalidInput(
                field,
                f"the prompt of {len(prompt)} characters leaves no tokens for an answer within the "
                f"context length of {self._context}",
                code="context_length_exceeded",
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
                f"the prompt has {len(token_ids)} tokens, which leaves none for an answer within "
                f"the context length of {self._context}",
                code="context_length_exceeded",
            )
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._tokenizer.num_tokens:
                raise InvalidInput(f"prompt_token_ids[{i}]", f"token id {token_id} does not exist")
        return token_ids

    def _messages(self, request: PromptRequest) -> Any:
        if request.messages is not None:
            return parse_json(request.messages, "messages")
        return user_turn(request.text_input or "", len(request.image), len(request.video))

    def _conversation(self, request: PromptRequest, messages: Any) -> Conversation:
        if len(request.tools or "") > MAX_TOOLS_CHARACTERS:
            raise InvalidInput("tools", f"must not exceed {MAX_TOOLS_CHARACTERS} characters")
        tools = _optional_json(request.tools, "tools")
        kwargs = _optional_json(request.chat_template_kwargs, "chat_template_kwargs")
        try:
            return parse_conversation(messages, tools, kwargs, self._tokenizer)
        except RecursionError:
            field = "chat_template_kwargs" if tools is None else "tools"
            raise InvalidInput(field, "is nested too deeply") from None

    def _images(
        self,
        parts: Sequence[ImagePart],
        request: PromptRequest,
        kwargs: ProcessorKwargs,
        token_budgets: Sequence["_TokenBudget"],
    ) -> list[_Visual]:
        """The pictures, in order; known ones without patches.

        Args:
            token_budgets: for each part that of its prompt.
        """
        if len(parts) > self._settings.max_images:
            raise InvalidInput(
                "image",
                f"too many images: {len(parts)} (maximum {self._settings.max_images})",
                code="too_many_images",
            )
        wanted = sum(part.data_uri is None for part in parts)
        if wanted != len(request.image):
            raise InvalidInput(
                "image",
                f"got {len(request.image)}, but the messages have {wanted} image part(s)",
            )
        budgets = request.image_max_pixels or [0] * len(request.image)
        if len(budgets) != len(request.image):
            raise InvalidInput("image_max_pixels", "must have one entry for each image")
        if request.image_hashes and len(request.image_hashes) != len(request.image):
            raise InvalidInput("image_hash", "must have one entry for each image")
        if not all(map(self._is_grid, request.known_grids.values())):
            raise InvalidInput("image_grid", "must be the grid of an image, or zeros")
        seconds = self._settings.image_decode_timeout
        deadline = time.monotonic() + seconds
        sent = iter(range(len(request.image)))
        pictures = []
        for part, token_budget in zip(parts, token_budgets, strict=True):
            max_pixels = part.max_pixels
            if part.data_uri is not None:
                field, data, name = part.field, part.data_uri.encode(), None
            else:
                index = next(sent)
                field, data = f"image[{index}]", request.image[index]
                name = request.image_hashes[index] if request.image_hashes else None
                max_pixels = budgets[index]
                if max_pixels < 0:
                    raise InvalidInput(f"image_max_pixels[{index}]", "must be 0 or more")
            name = name or content_hash(data, max_pixels, request.mm_processor_kwargs or "")
            grid = request.known_grids.get(name)
            if not grid and time.monotonic() > deadline:
                raise InvalidInput(
                    field, f"decoding the images before it took more than {seconds} s"
                )
            if grid:
                picture = _Visual(name, grid, None)
            else:
                picture = self._image(data, field, name, max_pixels, kwargs)
            token_budget.take(picture.grid, field)
            pictures.append(picture)
        return pictures

    def _is_grid(self, grid: Grid) -> bool:
        """Whether it is a valid grid of an image that fits the context."""
        frames, *sides = grid
        merge = self._patch_config.merge_size
        is_whole = frames == 1 and all(side > 0 and side % merge == 0 for side in sides)
        return is_whole and math.prod(sides) // merge**2 < self._context

    def _image(
        self, data: bytes, field: str, name: bytes, max_pixels: int, kwargs: ProcessorKwargs
    ) -> _Visual:
        """The patches of a picture. Its pixels are freed before the next one is decoded."""
        file = images.file_bytes(data, field)
        picture = images.decode(file, field, self._settings.max_image_pixels)
        # Of the file's own size: how many tokens it has does not depend on how it was decoded.
        config = kwargs.config(self._patch_config, "mm_processor_kwargs")
        size = self._size(picture.size, config, field, max_pixels, kwargs)
        patches, grid = patchify(picture.image, size, config)
        return _Visual(name, grid, patches, size=picture.size)

    def _size(
        self,
        size: tuple[int, int],
        config: PatchConfig,
        field: str,
        max_pixels: int,
        kwargs: ProcessorKwargs,
        frames: int = 0,
    ) -> tuple[int, int]:
        """Width and height to resize to; arguments as those of :func:`target_size`."""
        if not kwargs.do_resize:
            return check_whole(*size, config, field)
        side = self._settings.max_image_side
        return target_size(*size, config, field, side, max_pixels, frames)

    def _videos(
        self,
        parts: Sequence[VideoPart],
        request: PromptRequest,
        kwargs: ProcessorKwargs,
        budget: "_TokenBudget",
    ) -> list[_SampledVideo]:
        if len(parts) > self._settings.max_videos:
            raise InvalidInput(
                "video",
                f"too many videos: {len(parts)} (maximum {self._settings.max_videos})",
                code="too_many_videos",
            )
        wanted = sum(part.options.frames or 1 for part in parts if part.data_uri is None)
        if wanted != len(request.video):
            raise InvalidInput(
                "video",
                f"got {len(request.video)}, but the messages have {wanted} video part(s)",
            )
        sent = iter(range(len(request.video)))
        videos = []
        # The videos of a request have the time of one.
        deadline = time.monotonic() + self._settings.video_decode_timeout
        for part in parts:
            if part.data_uri is not None:
                field, files = part.field, [part.data_uri.encode()]
            else:
                places = [next(sent) for _ in range(part.options.frames or 1)]
                field, files = f"video[{places[0]}]", [request.video[place] for place in places]
            options = part.options
            if options.frames and part.data_uri is None:
                video = self._frames(files, field, options, kwargs, budget, deadline)
            else:
                file = images.file_bytes(files[0], field, "video")
                options = replace(options, fps=options.fps or kwargs.fps)
                video = self._video(file, field, options, kwargs, budget, deadline)
            videos.append(video)
        return videos

    def _video(
        self,
        file: bytes,
        field: str,
        options: VideoOptions,
        kwargs: ProcessorKwargs,
        budget: "_TokenBudget",
        deadline: float,
    ) -> _SampledVideo:
        with closing(Video(file, field, self._video_limits, deadline)) as video:
            return self._look_at(video, field, options, kwargs, budget)

    def _look_at(
        self,
        video: Video,
        field: str,
        options: VideoOptions,
        kwargs: ProcessorKwargs,
        budget: "_TokenBudget",
    ) -> _SampledVideo:
        depth = self._video_config.temporal_patch_size
        if options.start >= video.duration:
            raise InvalidInput(
                field, f"video_start is after the end of the video, which has {video.duration:g} s"
            )
        indices = sample(video, options, depth)
        if not indices:
            raise InvalidInput(
                field,
                f"the video is too short: {video.num_frames} frame(s) in {video.duration:.2g} s; "
                "send an image instead",
            )
        config = kwargs.config(self._video_config, "mm_processor_kwargs")
        size = self._size(
            (video.width, video.height), config, field, options.max_pixels, kwargs, len(indices)
        )
        # Saves seconds of decoding a video that stage 2 would reject anyway.
        budget.take(_grid_of(len(indices) // depth, size, config), field, "video")
        rows = video.frames(indices, lambda pixels: cut_frame(pixels, size, config))
        return _sampled(rows, size, config, [video.times[i] for i in indices])

    def _frames(
        self,
        files: Sequence[bytes],
        field: str,
        options: VideoOptions,
        kwargs: ProcessorKwargs,
        budget: "_TokenBudget",
        deadline: float,
    ) -> _SampledVideo:
        """A video whose frames are pictures."""
        config = kwargs.config(self._video_config, "mm_processor_kwargs")
        depth = config.temporal_patch_size
        number = len(files) + len(files) % depth
        size, rows = (0, 0), []
        begin = int(field.removeprefix("video[").removesuffix("]"))
        for place, data in enumerate(files):
            field = f"video[{begin + place}]"
            if time.monotonic() > deadline:
                seconds = self._settings.video_decode_timeout
                raise InvalidInput(field, f"decoding took more than {seconds} s")
            file = images.file_bytes(data, field)
            picture = images.decode(file, field, self._settings.max_image_pixels)
            if not place:
                size = self._size(picture.size, config, field, options.max_pixels, kwargs, number)
                budget.take(_grid_of(number // depth, size, config), field, "video")
            rows.append(cut_frame(np.array(picture.image), size, config))
        times = list(options.times)
        if not times:
            times = [place / (options.fps or _FRAMES_A_SECOND) for place in range(len(files))]
        if len(rows) % depth:
            rows, times = rows + rows[-1:], times + times[-1:]
        return _sampled(rows, size, config, times)

    def _expand(
        self,
        token_ids: Sequence[int],
        pictures: Sequence[_Visual],
        videos: Sequence[_SampledVideo],
        field: str,
    ) -> tuple[npt.NDArray[np.int32], list[_Visual]]:
        """The prompt with each placeholder repeated, and the source of each placeholder.

        Source for videos: ``Glm46VProcessor.replace_video_token`` in transformers 5.23.
        """
        ids = np.array(token_ids, np.int32)
        given = {self._image_token_id: len(pictures), self._video_token_id: len(videos)}
        for token_id, kind in ((self._image_token_id, "image"), (self._video_token_id, "video")):
            placeholders = int(np.count_nonzero(ids == token_id))
            if placeholders != given[token_id]:
                # As for an image before "</think>" in an assistant turn: the template drops it.
                raise InvalidInput(
                    "messages" if field == "text_input" else field,
                    f"the prompt has {placeholders} {kind} placeholder(s), but "
                    f"{given[token_id]} {kind}(s) were given",
                )
        next_picture, next_video = iter(pictures), iter(videos)
        pieces: list[npt.NDArray[np.int32]] = []
        visuals: list[_Visual] = []
        start = 0
        for place in np.flatnonzero(np.isin(ids, list(given))):
            pieces.append(ids[start:place])
            start = place + 1
            if ids[place] == self._image_token_id:
                visuals.append(next(next_picture))
                pieces.append(self._placeholders(visuals[-1]))
                continue
            video = next(next_video)
            begin, end = self._image_tags
            for visual, seconds in zip(video.visuals, video.seconds, strict=True):
                when = self._tokenizer.encode(f"{seconds:.1f} seconds")
                visuals.append(visual)
                tail = np.array([end, *when], np.int32)
                pieces += [np.array([begin], np.int32), self._placeholders(visual), tail]
        return np.concatenate([*pieces, ids[start:]]), visuals

    def _placeholders(self, visual: _Visual) -> npt.NDArray[np.int32]:
        _, height, width = visual.grid
        tokens = height * width // self._patch_config.merge_size**2
        return np.full(tokens, self._image_token_id, np.int32)


class _TokenBudget:
    """Counts the tokens of pictures and videos, so that none is decoded in vain.

    Args:
        begun: counts those that the prompt shares with others, which come first.
    """

    def __init__(self, context: int, merge_size: int, begun: "_TokenBudget | None" = None) -> None:
        self._context, self._merged, self._begun = context, merge_size**2, begun
        self._own = 0

    @property
    def _taken(self) -> int:
        return self._own + (self._begun._taken if self._begun else 0)

    def take(self, grid: Grid, field: str, kind: str = "image") -> None:
        """Raises InvalidInput if those so far leave no room for an answer."""
        own = math.prod(grid) // self._merged
        self._own += own
        if self._taken < self._context:
            return
        before = f", after {self._taken - own} of those before it" if self._taken > own else ""
        raise InvalidInput(
            field,
            f"the {kind} has {own} tokens{before}, which leaves none for an answer within the "
            f"context length of {self._context}",
            code="context_length_exceeded",
        )


def _grid_of(pairs: int, size: tuple[int, int], config: PatchConfig) -> Grid:
    width, height = size
    return pairs, height // config.patch_size, width // config.patch_size


def _sampled(
    rows: list[npt.NDArray[np.uint8]],
    size: tuple[int, int],
    config: PatchConfig,
    times: Sequence[float],
) -> _SampledVideo:
    """The video of these frames, each cut into patches, and of their times in seconds.

    ``rows`` is empty afterwards: the frames of a video may take hundreds of megabytes.
    """
    depth = config.temporal_patch_size
    visuals = []
    rows.reverse()
    one_by_one = (rows.pop() for _ in range(len(rows)))
    for patches, grid in pair_frames(one_by_one, size, config):
        # Hash of the pixels: identical frames share their embeddings.
        name = content_hash(b"%d %d " % size + patches.tobytes())
        visuals.append(_Visual(name, grid, patches, depth))
    return _SampledVideo(visuals, times[::depth])


def _prompt_field(request: PromptRequest) -> str:
    """The field that contains the prompt."""
    fields = ("messages", "text_input", "prompt", "prompt_token_ids")
    given = [name for name in fields if getattr(request, name) is not None]
    if not given:
        raise InvalidInput("messages", f"is missing; give one of {', '.join(fields)}")
    if len(given) > 1:
        raise InvalidInput(given[1], f"cannot be combined with {given[0]}")
    if given[0] in fields[2:]:
        for name in ("tools", "chat_template_kwargs"):
            if getattr(request, name) is not None:
                raise InvalidInput(
                    name, f"cannot be combined with {given[0]}; it applies to messages only"
                )
    return given[0]


def _is_text(text: str) -> bool:
    """Whether it can be encoded as UTF-8; JSON escapes can contain unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _optional_json(text: str | None, field: str) -> Any:
    return None if text is None else parse_json(text, field)
