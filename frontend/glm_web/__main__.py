"""``python -m glm_web``: serve the page until a signal comes."""

import logging
import math
import sys

import uvicorn

from glm_frontend.http.protocol import bounded_protocol
from glm_frontend.observability.logs import LOGGER_NAME, configure_logging
from glm_frontend.settings import SettingsError
from glm_frontend.variables import unknown_variables
from glm_web.app import create_app
from glm_web.settings import load_settings

EXIT_FAILURE, EXIT_USAGE = 1, 2

logger = logging.getLogger(LOGGER_NAME)


def main() -> int:
    """Serve; returns the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    configure_logging(settings.log_level, settings.log_format)
    for problem in unknown_variables():
        logger.warning("%s", problem)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.web_port,
        http=bounded_protocol(
            max_connections=settings.max_connections,
            header_timeout=settings.header_timeout,
            write_timeout=settings.write_timeout,
        ),
        log_config=None,
        access_log=False,  # the frontend's has the requests
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.graceful_timeout),
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
