"""Find a checkpoint and read what the engine needs besides the weights."""

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from glm_engine.request import GenerationDefaults

# Larger files are hashed in samples, so that the start does not read all weights twice.
_MAX_WHOLE = 32 * 2**20
_SAMPLES, _SAMPLE_BYTES = 16, 64 * 2**10


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder and its small files.

    Attributes:
        folder: holds the weights.
        config: ``config.json``.
        tokenizer: ``tokenizer.json``, parsed.
        image_processor: the image processor's configuration.
        defaults: ``generation_config.json``.
        revision: tells this checkpoint from others: a hash of its small files, and of samples of
            its weights.
    """

    folder: Path
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    image_processor: dict[str, Any]
    defaults: GenerationDefaults
    revision: str = ""

    @classmethod
    def load(cls, model: str) -> Self:
        """Load from a local folder, or from the hub if ``model`` is not a folder.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
        """
        folder = resolve_checkpoint(model)
        return cls(
            folder=folder,
            config=_read_json(folder / "config.json"),
            tokenizer=_read_json(folder / "tokenizer.json"),
            image_processor=_read_image_processor(folder),
            defaults=_generation_defaults(
                _read_json(folder / "generation_config.json"), _read_json(folder / "config.json")
            ),
            revision=_revision(folder),
        )


def resolve_checkpoint(model: str) -> Path:
    """The folder of a checkpoint, which is downloaded if it is not a local one.

    Raises:
        FileNotFoundError: a local path is not a folder.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith("."):
        raise FileNotFoundError(f"GLM_MODEL={model!r}: no such folder")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.json", "*.jinja", "*.safetensors"]))


def _revision(folder: Path) -> str:
    """16 hex digits. Other weights of the same shapes differ in every part of a file."""
    digest = blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".jinja", ".safetensors") or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if size <= _MAX_WHOLE:
                digest.update(file.read())
                continue
            for place in range(_SAMPLES):
                file.seek(place * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint has no {path.name} (looked in {path.parent})")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content


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


def _generation_defaults(
    config: dict[str, Any], model_config: dict[str, Any]
) -> GenerationDefaults:
    # One of the files may lack some: the template's end of a turn, or the end of a text.
    eos = _token_ids(config) | _token_ids(model_config) | _token_ids(model_config["text_config"])
    if not eos:
        raise ValueError("neither generation_config.json nor config.json has an eos_token_id")
    sampled = config.get("do_sample", False)
    return GenerationDefaults(
        eos_token_ids=eos,
        temperature=config.get("temperature", 1.0) if sampled else 0.0,
        top_p=config.get("top_p", 1.0),
        top_k=config.get("top_k", 0),
        repetition_penalty=config.get("repetition_penalty", 1.0),
    )


def _token_ids(config: dict[str, Any]) -> frozenset[int]:
    eos = config.get("eos_token_id")
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
