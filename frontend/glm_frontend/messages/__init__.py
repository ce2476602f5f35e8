"""Anthropic's messages: to the model server's request, and from its answer back."""
