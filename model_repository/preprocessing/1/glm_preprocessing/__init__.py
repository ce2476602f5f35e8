"""Stage 1 of the server: messages and image files in, token ids, positions and patches out.

Knows nothing of Triton; ``Preprocessor`` runs from any Python process.
"""
