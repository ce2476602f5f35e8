"""Compile the GPU's kernels for a GPU that is not here; writes JSON of what they take of it.

A process of its own, for test_gpu_kernels.py: in the tests' own process they are interpreted.

usage: python compile_gpu_kernels.py 90      (compute capability 9.0)
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from glm_engine import gpu_kernels, sampling_kernels
from glm_engine.quantization import gpu_kernels as quantized

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

# GLM-4.6V-Flash in bfloat16.
BF16, BATCH = "*bf16", "*i32"
SHAPE = {"HEADS": 32, "KV_HEADS": 2, "SHARED": 16, "HEAD_DIM": 128, "DIMS": 128}
NORM = {"x": BF16, "weight": BF16, "out": BF16, "hidden": BF16, "x_weight": BF16, "eps": "fp32",
        "size": "i32"}  # fmt: skip
ATTEND = {"qkv": BF16, "cache": BF16, "block_tables": BATCH, "num_computed": BATCH,
          "query_start_loc": BATCH, "items": BATCH, "header": BATCH, "out": BF16,
          "partial": "*fp32", "stats": "*fp32", "table_width": "i32", "scale": "fp32"}  # fmt: skip
IN_FLOAT32 = {"qkv": "*fp32", "cache": "*fp32", "out": "*fp32"}
MERGE = {"partial": "*fp32", "stats": "*fp32", "query_start_loc": BATCH, "merges": BATCH,
         "out": BF16}  # fmt: skip
VOCAB = {"num_tokens": "i32"}
SAMPLING = {"logits": "*fp32", "scores": "*fp32", "masks": "*i32", "floats": "*fp32",
            "ints": "*i32", "seeds": "*i64", "results": "*fp32", "stride": "i32",
            "num_words": "i32", **VOCAB}  # fmt: skip
ITEM = SHAPE | {"BLOCK_SIZE": 16, "TILE": 64}
# Weights in 4 bits with zero points, and in FP8.
MULTIPLY = {"x": BF16, "weight": "*u8", "scales": BF16, "zeros": "*i8", "bias": BF16, "out": BF16,
            "rows": "i32", "outputs": "i32", "inputs": "i32", "stride": "i32", "groups": "i32",
            "each": "i32"}  # fmt: skip
WEIGHT_SIZES = ("outputs", "inputs", "stride", "each")
INT4 = {"BITS": 4, "FP8": False, "ZEROS": True, "BIAS": True, "GROUP": 128, "TILE": 64}
FP8 = {"BITS": 8, "FP8": True, "ZEROS": False, "BIAS": True, "GROUP": 0, "TILE": 64}
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any], int]] = {
    "norm": (gpu_kernels._norm_kernel, NORM,
             {"ADD": False, "NORM_FIRST": False, "BLOCK": 4096}, 8),
    "add_norm": (gpu_kernels._norm_kernel, NORM,
                 {"ADD": True, "NORM_FIRST": True, "BLOCK": 4096}, 8),
    "gate": (gpu_kernels._gate_kernel, {"gate_up": BF16, "out": BF16, "size": "i32"},
             {"BLOCK": 1024}, 4),
    "rotate": (gpu_kernels._rotate_kernel,
               {"x": BF16, "cos_sin": "*fp32", "cache": BF16, "slot_mapping": "*i64",
                "heads": "i32",
                "kv_heads": "i32"},
               {"HEAD_DIM": 128, "HALF": 64, "PAIRS": 32, "STORE": True}, 1),
    "attend, decode": (gpu_kernels._attend_kernel, ATTEND, ITEM | {"TOKENS": 1, "ROWS": 16}, 4),
    "attend, prefill": (gpu_kernels._attend_kernel, ATTEND, ITEM | {"TOKENS": 8, "ROWS": 128}, 8),
    "attend, float32": (gpu_kernels._attend_kernel, ATTEND | IN_FLOAT32,
                        ITEM | {"TOKENS": 2, "ROWS": 32, "TILE": 32}, 4),
    "clear counts": (sampling_kernels.clear_kernel, {"counts": "*i32", "slots": "*i32", **VOCAB},
                     {"BLOCK": 2048}, 4),
    "count": (sampling_kernels.count_kernel,
              {"counts": "*i32", "new": "*i32", "num_new": "i32", **VOCAB}, {"BLOCK": 256}, 4),
    "penalize": (sampling_kernels.penalize_kernel, SAMPLING | {"counts": "*i32"},
                 {"BLOCK": 2048}, 4),
    "add": (sampling_kernels.add_kernel,
            {"scores": "*fp32", "places": "*i32", "values": "*fp32", "num_added": "i32",
             "stride": "i32"}, {"BLOCK": 256}, 4),
    "sample": (sampling_kernels.sample_kernel, SAMPLING, {"BLOCK": 2048}, 8),
    "logprobs": (sampling_kernels.logprob_kernel, SAMPLING, {"BLOCK": 2048}, 8),
    "merge": (gpu_kernels._merge_kernel, MERGE, SHAPE | {"ROWS": 128, "SLOTS": 32}, 4),
    **{
        f"multiply by {name}, {step}": (
            quantized._multiply_kernel, types, {**form, "ROWS": rows, "COLUMNS": 64}, warps
        )
        for name, form, types in (
            ("int4", INT4, MULTIPLY),
            ("fp8", FP8, MULTIPLY),
            ("int8", {**FP8, "FP8": False}, MULTIPLY | {"weight": "*i8"}),
        )
        for step, rows, warps in (("decode", 16, 4), ("prefill", 128, 8))
    },
}  # fmt: skip


def main() -> None:
    """Compile all of them."""
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    taken = {}
    for name, (kernel, types, constants, num_warps) in KERNELS.items():
        names = kernel.arg_names
        source = ASTSource(
            fn=kernel,
            signature={argument: types.get(argument, "constexpr") for argument in names},
            constexprs={(names.index(argument),): value for argument, value in constants.items()},
            # As at run time: tensors begin at multiples of 16 bytes, and so do rows of weights.
            attrs={
                (number,): [["tt.divisibility", 16]]
                for number, argument in enumerate(names)
                if types.get(argument, "").startswith("*")
                or (name.startswith("multiply") and argument in WEIGHT_SIZES)
            },
        )
        stages = 3 if name.startswith("multiply") else 2
        options = {"num_warps": num_warps, "num_stages": stages}
        compiled = compile(source, target=target, options=options)
        taken[name] = usage(compiled.asm["cubin"]) | {
            "shared": compiled.metadata.shared,
            "threads": 32 * num_warps,
        }
    sys.stdout.write(json.dumps(taken))


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its local memory, to which registers are spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", text)}
    return {"registers": found["REG"], "spilled": found["STACK"]}


if __name__ == "__main__":
    main()
