"""Starts, watches and stops Triton and the frontend on one machine: ``python -m launcher``."""
