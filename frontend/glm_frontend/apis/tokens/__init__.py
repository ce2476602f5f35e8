"""Tokens of a text or a conversation, and back."""
