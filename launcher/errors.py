"""The errors of the launcher."""


class LaunchError(Exception):
    """The server could not be started or has stopped working; the message is for the operator."""


class Crashed(LaunchError):
    """A process was ended by a signal before it was ready."""
