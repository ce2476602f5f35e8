"""The one error of the launcher."""


class LaunchError(Exception):
    """The server could not be started or has stopped working; the message is for the operator."""
