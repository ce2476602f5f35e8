"""HTTP frontend: OpenAI's chat API in front of the Triton model ``generation``."""
