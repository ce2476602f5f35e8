"""Weights in 8 or 4 bits: how they are made, read from published checkpoints, and multiplied.

``weight`` has the form that everything else shares, ``schemes`` makes it of weights in bfloat16 or
float32, ``layouts`` reads it from a checkpoint that is quantised already, and ``cpu_linear`` and
``gpu_linear`` multiply by it.
"""
