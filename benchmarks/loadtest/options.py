"""Options of ``make load`` in addition to Locust's; also by environment and on the page."""

import argparse
from collections.abc import Callable

from locust.argument_parser import LocustArgumentParser

SHAPES = ("steps", "burst", "soak", "none")


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def positive(text: str) -> float:
    """A number that may be 0, but not less."""
    if not 0 <= (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is less than 0, or no end to it")
    return value


def counts(text: str) -> str:
    """Whole numbers above 0 with commas between them, as they were given: so they stay editable."""
    if not all(part.strip().isdecimal() and int(part) > 0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 1,2,4")
    return text


def add(parser: LocustArgumentParser) -> None:
    """Add them to Locust's; plain strings and numbers, because they are sent to the workers."""

    def option(
        name: str, kind: Callable[[str], object], default: object, text: str, **more: object
    ) -> None:
        variable = "LOAD_" + name.removeprefix("--").upper().replace("-", "_")
        parser.add_argument(
            name, type=kind, default=default, env_var=variable, metavar=variable, help=text, **more
        )

    hidden = {"include_in_web_ui": False}
    option("--grpc", str, "127.0.0.1:8001", "host and port of Triton's gRPC, for GrpcUser")
    option("--model", str, "glm-4.6v-flash", "name of the model in requests over HTTP")
    parser.add_argument(
        "--api-key", type=str, default="", env_var="GLM_API_KEY", is_secret=True,
        help="key for requests over HTTP; better given as GLM_API_KEY than here",
    )  # fmt: skip

    option("--ttft-limit", positive, 2000.0, "goodput: most milliseconds to the first token")
    option("--tpot-limit", positive, 100.0, "goodput: most milliseconds for each token after it")

    option("--text", positive, 1.0, "weight of questions without a picture")
    option("--picture", positive, 3.0, "weight of questions about one picture")
    option("--conversation", positive, 1.0, "weight of a picture and two questions, one by one")
    option("--sides", counts, "112,224,448", "sides of the pictures in pixels, equally often")
    option("--repeats", share, 0.2, "share of pictures that were sent before")
    option("--disconnects", share, 0.05, "share of requests whose client leaves before the end")
    option("--max-tokens", int, 64, "tokens of every answer")
    option("--pause", positive, 0.0, "seconds that a user rests between requests")
    option("--seed", int, 1, "of the pictures and the order of requests")

    parser.add_argument(
        "--shape", choices=SHAPES, default="steps", env_var="LOAD_SHAPE", include_in_web_ui=False,
        help="users over the time; none: --users, --spawn-rate and --run-time alone",
    )  # fmt: skip
    option("--steps", counts, "1,2,4,8,16,32", "steps: users of each")
    option("--step-seconds", float, 20.0, "steps: seconds of each")
    option("--burst-users", int, 32, "burst: users that come at once, besides --users")
    option("--burst-seconds", float, 10.0, "burst: seconds that they stay, of every 30")

    option("--least-answers", int, 0, "of every number of users; it stays until they have come")

    option("--output", str, "build/load/load.md", "the result, .svg and .json beside it",
           **hidden)  # fmt: skip
    option("--note", str, "", "a word for the result, such as on what else the machine does",
           **hidden)  # fmt: skip
