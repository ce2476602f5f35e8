"""``python -m client picture.png "What is in this image?"`` from the repository root."""

import sys

from glm_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
