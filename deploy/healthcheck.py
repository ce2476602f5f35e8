"""``healthcheck.py URL``, for a container's health check: 0 when it answers 200, else 1."""

import http.client
import sys
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 12


def main() -> int:
    """Ask the URL that the command line names."""
    url = urlsplit(sys.argv[1])
    connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", url.path)
        response = connection.getresponse()
        print(response.status, response.read(1000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error!r}")
        return 1
    return int(response.status != 200)


if __name__ == "__main__":
    sys.exit(main())
