"""OpenAI's Responses API: to the model server's request, and from its answer back."""
