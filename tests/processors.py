"""Processors that this machine can stand in for, by doing without its newest instructions.

The suite as it runs tests the machine's own. What is here lets a machine with AVX-512 test what one
without it does.
"""

import torch

# Instruction sets to which torch, oneDNN, fbgemm and numba are limited.
_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+popcnt",
}
# oneDNN multiplies bfloat16 there, without the instructions for it.
_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx512",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512",
    "NUMBA_CPU_NAME": "skylake-avx512",
}


def processors() -> dict[str, dict[str, str]]:
    """The environment of each processor, by its instructions."""
    found = {"AVX2": _AVX2}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        found["AVX512"] = _AVX512
    return found
