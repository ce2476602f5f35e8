"""Stage 2 of the server: the engine that runs the model over all live requests.

Knows nothing of Triton; ``Engine`` runs from any Python process. Imports point one way:
engine -> model_runner, sampler, detokenizer -> request -> errors.
"""
