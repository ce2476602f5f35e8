"""Compile the GPU's kernels for a GPU that is not here; writes JSON of the shared memory they take.

A process of its own, for test_gpu_kernels.py: in the tests' own process they are interpreted.

usage: python compile_gpu_kernels.py 90      (compute capability 9.0)
"""

import json
import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from glm_engine import gpu_kernels
from glm_engine.quantization import gpu_kernels as quantized

# GLM-4.6V-Flash in bfloat16.
BF16, BATCH = "*bf16", "*i32"
SHAPE = {"HEADS": 32, "KV_HEADS": 2, "SHARED": 16, "HEAD_DIM": 128, "DIMS": 128, "BLOCK_SIZE": 16,
         "TILE": 64}  # fmt: skip
NORM = {"x": BF16, "weight": BF16, "out": BF16, "hidden": BF16, "x_weight": BF16, "eps": "fp32",
        "size": "i32"}  # fmt: skip
ATTEND = {"qkv": BF16, "cache": BF16, "block_tables": BATCH, "num_computed": BATCH,
          "query_start_loc": BATCH,
          "tile_parts": BATCH, "tile_rows": BATCH, "out": BF16, "partial": "*fp32",
          "stats": "*fp32", "table_width": "i32", "scale": "fp32"}  # fmt: skip
# Weights in 4 bits with zero points, and in FP8.
MULTIPLY = {"x": BF16, "weight": "*u8", "scales": BF16, "zeros": "*i8", "bias": BF16, "out": BF16,
            "rows": "i32", "outputs": "i32", "inputs": "i32", "stride": "i32", "groups": "i32",
            "each": "i32"}  # fmt: skip
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
    "attend, decode": (gpu_kernels._attend_kernel, ATTEND,
                       {**SHAPE, "TOKENS": 1, "ROWS": 16, "SPLITS": 64}, 4),
    "attend, prefill": (gpu_kernels._attend_kernel, ATTEND | {"partial": BF16, "stats": BF16},
                        {**SHAPE, "TOKENS": 8, "ROWS": 128, "SPLITS": 1}, 8),
    "combine": (gpu_kernels._combine_kernel, {"partial": "*fp32", "stats": "*fp32", "out": BF16},
                {"HEAD_DIM": 128, "DIMS": 128, "SPLITS": 64, "SPLITS_2": 64}, 4),
    **{
        f"multiply by {name}, {step}": (
            quantized._multiply_kernel, types, {**form, "ROWS": rows, "COLUMNS": columns}, warps
        )
        for name, form, types in (
            ("int4", INT4, MULTIPLY),
            ("fp8", FP8, MULTIPLY),
            ("int8", {**FP8, "FP8": False}, MULTIPLY | {"weight": "*i8"}),
        )
        for step, rows, columns, warps in (("decode", 16, 64, 4), ("prefill", 128, 128, 8))
    },
}  # fmt: skip


def main() -> None:
    """Compile all of them."""
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    shared = {}
    for name, (kernel, types, constants, num_warps) in KERNELS.items():
        names = kernel.arg_names
        source = ASTSource(
            fn=kernel,
            signature={argument: types.get(argument, "constexpr") for argument in names},
            constexprs={(names.index(argument),): value for argument, value in constants.items()},
        )
        stages = 3 if name.startswith("multiply") else 2
        options = {"num_warps": num_warps, "num_stages": stages}
        shared[name] = compile(source, target=target, options=options).metadata.shared
    sys.stdout.write(json.dumps(shared))


if __name__ == "__main__":
    main()
