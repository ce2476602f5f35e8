"""From a request in OpenAI's form to a request on the wire, and from its answer back."""
