"""The command line: ``python -m launcher [--verbose | --upgrade]``."""

import argparse
import asyncio
import logging
import sys

from pydantic import ValidationError

from glm_frontend.settings import describe
from launcher.logs import configure_logging
from launcher.main import serve
from launcher.settings import LauncherSettings, settings_help
from launcher.supervisor import log_error
from launcher.upgrade import upgrade


def main() -> int:
    """Return the exit code: 0 after Ctrl-C or SIGTERM, 1 after a failure, 2 for an invalid
    setting, 130 if a second Ctrl-C forced the stop."""
    parser = argparse.ArgumentParser(
        prog="python -m launcher",
        description="Starts the frontend and Triton with the model repository, and stops both "
        "on Ctrl-C (a second Ctrl-C kills them).",
        epilog="Environment variables (deploy/README.md lists all):\n" + settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--verbose", action="store_true", help="show all log lines of Triton")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="have the running server load the newest versions in its model repository, without "
        "losing a request, instead of starting one",
    )
    arguments = parser.parse_args()

    configure_logging()
    for name in ("launcher", "triton", "frontend", "web"):
        logging.getLogger(name).setLevel(logging.DEBUG if arguments.verbose else logging.INFO)
    log = logging.getLogger("launcher")
    try:
        settings = LauncherSettings()
    except ValidationError as error:
        log_error(log, describe(error))
        return 2
    return asyncio.run((upgrade if arguments.upgrade else serve)(settings, log))


if __name__ == "__main__":
    sys.exit(main())
