"""The one error that stage 1 raises for a request that it cannot take."""


class InvalidInput(ValueError):
    """A request that the client has to change.

    ``str(error)`` is ``"<field>: <reason>"``, where ``field`` is the path of the offending input
    on the wire, such as ``messages[0].role`` or ``image[2]``. Clients parse that form.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
