"""What the tests and the measurements share; nothing of it is needed to serve."""
