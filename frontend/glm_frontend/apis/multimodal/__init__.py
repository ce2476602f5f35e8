"""The manual's endpoint: one prompt, pictures, one text."""
