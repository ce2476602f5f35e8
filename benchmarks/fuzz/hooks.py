"""What schemathesis loads: requests stay cheap, or the server would mostly write long answers."""

import os
from pathlib import Path

import schemathesis

MOST_TOKENS = 16
# More is refused at once, whatever the checkpoint, and stays as it is.
LONGEST_CONTEXT = 131_072
FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@schemathesis.hook
def before_call(context, case, kwargs):  # type: ignore[no-untyped-def]
    """Lower the tokens that a valid request asks for; invalid values stay as they are."""
    if isinstance(case.body, dict):
        for name in FIELDS:
            value = case.body.get(name)
            if type(value) is int and MOST_TOKENS < value <= LONGEST_CONTEXT:
                case.body[name] = MOST_TOKENS


@schemathesis.hook
def after_call(context, case, response):  # type: ignore[no-untyped-def]
    """Note the status, for the table."""
    with Path(os.environ["FUZZ_STATUSES"]).open("a") as file:
        print(response.status_code, file=file)
