"""Logging: one line for each record, on standard error."""

import logging

LOGGER_NAME = "glm_frontend"


def configure_logging(level: str) -> None:
    """Send this package's and uvicorn's records of at least ``level`` to standard error."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    # One line for each fetched picture says nothing that the access log does not.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
