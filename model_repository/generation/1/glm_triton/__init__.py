"""Stage 2 between Triton and the engine: a request's way in, to stage 1, and its responses out.

Only ``tensors`` and ``metrics`` know Triton; everything else runs and is tested without one.
"""
