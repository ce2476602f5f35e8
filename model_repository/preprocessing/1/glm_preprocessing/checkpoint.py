"""Find a checkpoint and read the small files that stage 1 needs. No weights, no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint that turn messages and images into model inputs.

    Attributes:
        config: ``config.json``.
        tokenizer: ``tokenizer.json``, parsed.
        tokenizer_config: ``tokenizer_config.json``; empty if the checkpoint has none.
        chat_template: Jinja source.
        image_processor: the image processor's configuration.
        video_processor: the video processor's; empty if the checkpoint has none.
    """

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    chat_template: str
    image_processor: dict[str, Any]
    video_processor: dict[str, Any]
    tokenizer_config: dict[str, Any]

    @classmethod
    def load(cls, model: str) -> Self:
        """Load from a local folder, or from the hub if ``model`` is not a folder.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
        """
        folder = _resolve(model)
        return cls(
            config=_read_json(folder / "config.json"),
            tokenizer=_read_json(folder / "tokenizer.json"),
            chat_template=_read_chat_template(folder),
            image_processor=_read_image_processor(folder),
            video_processor=_read_video_processor(folder),
            tokenizer_config=_read_tokenizer_config(folder),
        )


def _resolve(model: str) -> Path:
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith("."):
        raise FileNotFoundError(f"GLM_MODEL={model!r}: no such folder")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=list(_FILES)))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint has no {path.name} (looked in {path.parent})")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content


def _read_chat_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(template, str):
        raise FileNotFoundError(f"the checkpoint has no chat_template.jinja (looked in {folder})")
    return template


def _read_image_processor(folder: Path) -> dict[str, Any]:
    # transformers 4 writes preprocessor_config.json; 5 may write everything into
    # processor_config.json.
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return _read_json(path)
    image_processor = _read_json(folder / "processor_config.json").get("image_processor")
    if not isinstance(image_processor, dict):
        raise FileNotFoundError(
            f"the checkpoint has no preprocessor_config.json (looked in {folder})"
        )
    return image_processor


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return _read_json(path) if path.is_file() else {}


def _read_video_processor(folder: Path) -> dict[str, Any]:
    path = folder / "video_preprocessor_config.json"
    if path.is_file():
        return _read_json(path)
    path = folder / "processor_config.json"
    found = _read_json(path).get("video_processor") if path.is_file() else None
    return found if isinstance(found, dict) else {}
