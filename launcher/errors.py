"""The errors of the launcher."""


class LaunchError(Exception):
    """The server failed to start or stopped working; the message is for the operator."""


class Crashed(LaunchError):
    """A process was terminated by a signal before it was ready."""
