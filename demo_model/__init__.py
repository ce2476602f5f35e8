"""A tiny GLM-4.6V-Flash that truly sees: its pictures, its training, its evaluation.

``checkpoint/`` is the result, and the model that ``make serve`` and the tests run by default.
"""
