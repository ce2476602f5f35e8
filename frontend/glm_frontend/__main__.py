"""``python -m glm_frontend``: serve until a signal comes."""

import math
import sys

import uvicorn

from glm_frontend.app import create_app
from glm_frontend.logs import configure_logging
from glm_frontend.settings import SettingsError, load_settings

EXIT_USAGE = 2


def main() -> int:
    """Serve; returns the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    configure_logging(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # ours has the request id
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.graceful_timeout),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
