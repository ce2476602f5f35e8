"""Random input: JSON that is almost right, tensors, files of pictures, schemas and expressions."""

import copy
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from tritonclient.grpc import InferInput
from tritonclient.utils import serialize_byte_tensor

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["<|user|>", "<|image|>", "\x00", "\ud800", "[gMASK]", "</think>"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)

_IMAGE = {"type": "image"}
_MESSAGES: list[Any] = [
    [{"role": "user", "content": "hello"}],
    [
        {"role": "system", "content": "short"},
        {"role": "user", "content": [_IMAGE, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A square.", "reasoning_content": "hm"},
        {"role": "user", "content": "And now?"},
    ],
    [
        {"role": "user", "content": "time?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "get_time", "arguments": {"zone": "UTC"}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "12:00"},
    ],
]
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "The time.",
            "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
        },
    }
]
_SAMPLING: list[Any] = [
    {"max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1},
    {"max_tokens": 4, "n": 2, "logprobs": 2, "stop": ["x"], "stop_token_ids": [5]},
    {"max_tokens": 4, "logit_bias": {"5": 2.0}, "min_tokens": 1, "ignore_eos": True},
    {
        "max_tokens": 4,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
        "min_p": 0.1,
        "priority": 1,
    },
    {"max_tokens": 4, "structured_outputs": {"regex": "[a-z]+"}},
    {"max_tokens": 4, "structured_outputs": {"json": {"type": "object"}}},
    {"max_tokens": 4, "tool_choice": "required"},
    {"max_tokens": 4, "thinking_token_budget": 2},
]
_DOCUMENTS: dict[str, list[Any]] = {
    "messages": _MESSAGES,
    "tools": [_TOOLS],
    "chat_template_kwargs": [{"enable_thinking": False}],
    "sampling_parameters": _SAMPLING,
}
_MOST_TOKENS = 32


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, (dict, list)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(p for key, inner in entries for p in _paths(inner, (*path, key)))]


@st.composite
def almost(draw: st.DrawFn, documents: Sequence[Any]) -> Any:
    """One of the documents, with some of its parts replaced, added or taken away."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(0, 2))):
        *above, last = draw(st.sampled_from(_paths(document)[1:] or [(None,)]))
        target = document
        for key in above:
            target = target[key]
        if last is None:
            return draw(JSON)
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                target[last] = draw(JSON)
            case "remove":
                del target[last]
            case "add" if isinstance(target, dict):
                target[draw(st.text(max_size=8))] = draw(JSON)
            case "add":
                target.append(draw(JSON))
    return document


def _encoded(document: Any) -> bytes:
    if isinstance(document, dict) and type(document.get("max_tokens")) is int:
        document["max_tokens"] = min(document["max_tokens"], _MOST_TOKENS)
    return json.dumps(document).encode(errors="surrogatepass")


def picture_file(format: str, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    """A small picture."""
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)
    image = Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


PICTURES = [
    *(picture_file("PNG", mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1", "I;16")),
    *(picture_file("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(picture_file(format) for format in ("GIF", "WEBP", "BMP", "TIFF", "PPM")),
]


@st.composite
def files(draw: st.DrawFn, originals: Sequence[bytes] = tuple(PICTURES)) -> bytes:
    """A picture with some of its bytes changed, cut off, repeated or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "cut", "repeat", "insert", "number"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 20))
            case "insert":
                data[at:at] = draw(st.binary(max_size=32))
            case _:  # a length, a width or an offset
                data[at : at + 4] = draw(
                    st.sampled_from([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"])
                )
    return bytes(data)


_TEXT = st.text(max_size=30).map(lambda text: text.encode(errors="replace"))
_BYTES: dict[str, st.SearchStrategy[bytes]] = {
    "text_input": _TEXT | st.binary(max_size=20),
    "prompt": _TEXT | st.sampled_from([b"[gMASK]<sop><|user|>\n<|image|>hi<|assistant|>"]),
    "image": files() | st.binary(max_size=40) | st.just(b"data:image/png;base64,AAAA"),
    "video": files() | st.binary(max_size=40),
    "cancel_key": st.binary(max_size=20),
    "tenant": _TEXT | st.binary(max_size=8),
    **{
        name: almost(documents).map(_encoded) | st.binary(max_size=20)
        for name, documents in _DOCUMENTS.items()
    },
}
_DTYPES = {"INT32": np.int32, "UINT8": np.uint8, "BOOL": np.bool_, "FP32": np.float32}


@st.composite
def tensors(draw: st.DrawFn, declared: dict[str, tuple[str, list[int]]]) -> dict[str, InferInput]:
    """Some of a model's inputs, mostly of their declared type and shape.

    Args:
        declared: type on the wire and dims by the name of the input.
    """
    prompts = ("messages", "text_input", "prompt", "prompt_token_ids")
    names = draw(st.lists(st.sampled_from(sorted(declared)), max_size=4, unique=True))
    if draw(st.integers(0, 9)):
        names = [name for name in names if name not in prompts] + [draw(st.sampled_from(prompts))]
    given = {}
    for name in names:
        datatype, dims = declared[name]
        if not draw(st.integers(0, 19)):
            datatype = draw(st.sampled_from([*_DTYPES, "BYTES"]))
        shape = [size if size > 0 else draw(st.integers(0, 3)) for size in dims]
        if not draw(st.integers(0, 19)):
            shape = draw(st.lists(st.integers(0, 3), max_size=3))
        given[name] = draw(_tensor(name, datatype, shape))
    return given


@st.composite
def _tensor(draw: st.DrawFn, name: str, datatype: str, shape: list[int]) -> InferInput:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        values = [draw(_BYTES.get(name, st.binary(max_size=20))) for _ in range(count)]
        array = np.array([*values, None], object)[:-1]
        raw = serialize_byte_tensor(array.reshape(shape)).item() if count else b""
    else:
        dtype = np.dtype(_DTYPES[datatype])
        small = st.integers(0, 300) if name == "prompt_token_ids" else st.integers(0, 1)
        if datatype == "INT32":
            small |= st.integers(-(2**31), 2**31 - 1)
        raw = np.array([draw(small) for _ in range(count)], np.int64).astype(dtype).tobytes()
    tensor = InferInput(name, shape, datatype)
    tensor._raw_content = raw  # what set_data_from_numpy would refuse is wanted, too
    return tensor


_SCALARS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "maxLength": 5},
        {"type": "string", "pattern": "^[a-f]{2,3}$"},
        {"type": "string", "format": "date"},
        {"type": "integer", "minimum": 0, "maximum": 9},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", 1, None, [2]]},
        {"const": {"a": 1}},
        {"const": "<|user|>"},
        {"$ref": "#"},
        {"$ref": "#/$defs/endless", "$defs": {"endless": {"$ref": "#/$defs/endless"}}},
        False,
        {},
        True,
    ]
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c d", "é", ""])
    return st.builds(
        lambda properties, closed: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(names, inner, max_size=3),
        st.booleans(),
    )


SCHEMAS = st.recursive(
    _SCALARS,
    lambda inner: (
        _objects(inner)
        | inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2})
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    ),
    max_leaves=6,
) | almost([{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}])

_PIECES = (
    *("a", "b", "[a-c]", "\\d", ".", "(", ")", "|", "*", "+", "?", "{2,9}", "{99999}", "[", "]"),
    *("^", "$", "\\b", "(?=a)", "(?:ab)", "\\", "é", "(a*)*", "(a|a)*"),
)
EXPRESSIONS = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join)
