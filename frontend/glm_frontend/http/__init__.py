"""HTTP: bodies, errors, server-sent events, OpenAPI, what surrounds every request."""
