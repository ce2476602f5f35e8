"""``python -m glm_frontend``: serve until a signal comes."""

import logging
import sys
from contextlib import suppress
from ipaddress import ip_address

import uvicorn

from glm_frontend.app import create_app
from glm_frontend.http.drain import DrainingServer
from glm_frontend.http.protocol import bounded_protocol
from glm_frontend.observability.logs import LOGGER_NAME, configure_logging
from glm_frontend.settings import SettingsError, load_settings
from glm_frontend.variables import unknown_variables

EXIT_FAILURE, EXIT_USAGE = 1, 2
# For what is said to clients whose answers are not done when the server has drained.
LAST_WORDS_SECONDS = 2

logger = logging.getLogger(LOGGER_NAME)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


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
    if not settings.keys and not is_loopback(settings.host):
        logger.warning(
            "whoever reaches this address may ask, for there are no keys: GLM_HOST=%(host)s, "
            "GLM_API_KEYS and GLM_API_KEYS_FILE are empty",
            {"host": settings.host},
        )
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(
            max_connections=settings.max_connections,
            header_timeout=settings.header_timeout,
            write_timeout=settings.write_timeout,
            on_refused=lambda code: app.state.services.metrics.count_refused_connection(code),
        ),
        log_config=None,
        access_log=False,  # ours has the request id
        server_header=False,
        timeout_graceful_shutdown=LAST_WORDS_SECONDS,
    )
    server = DrainingServer(config, app, settings)
    server.run()
    return 0 if server.started else EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
