"""The demo checkpoint's tokenizer: byte-level BPE over its dialogues, with GLM's special tokens."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo_model.dialogues import COLOUR_ZH, SHAPE_ZH, SYSTEM_PROMPTS, ask, ask_about_two, talk
from demo_model.scenes import sample_scene

# The 36 added tokens of GLM-4.6V in its order. Those with a bar are special; the others are tags
# that survive skip_special_tokens.
ADDED_TOKENS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>",
    "<|begin_of_video|>", "<|end_of_video|>", "<|begin_of_audio|>", "<|end_of_audio|>",
    "<|begin_of_transcription|>", "<|end_of_transcription|>", "<|code_prefix|>", "<|code_middle|>",
    "<|code_suffix|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "/nothink",
    "<|begin_of_box|>", "<|end_of_box|>", "<|image|>", "<|video|>",
)  # fmt: skip
_TAGS = {*ADDED_TOKENS[21:34]}

# Chinese words that stay whole; then GLM's own pattern, but with single digits and single Chinese
# characters, so that a number is read digit by digit.
_WORDS = [*COLOUR_ZH.values(), *SHAPE_ZH.values(), "左上角", "右上角", "左下角", "右下角", "上方", "下方", "左边",
          "右边", "中间", "一个", "什么", "颜色", "图片", "图形", "数字", "背景", "没有", "哪里", "位置", "形状", "多少",
          "第一张", "第二张", "模型", "描述"]  # fmt: skip
_PATTERN = (
    "|".join(_WORDS)
    + r"|\p{Han}|(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})\p{L})+|\p{N}"
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _corpus() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(12_000):
        first, second = sample_scene(rng, 112, 112), sample_scene(rng, 112, 112)
        for dialogue in (ask(rng, first), ask_about_two(rng, first, second), talk(rng)):
            yield dialogue.question
            yield dialogue.answer
            yield dialogue.thought
    yield from SYSTEM_PROMPTS


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the dialogues; the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=20,
        special_tokens=list(ADDED_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in _TAGS
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=(Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8"),
    )
