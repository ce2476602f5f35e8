"""What schemathesis loads: requests stay cheap, statuses are noted, refusals name a field."""

import os
from pathlib import Path

import schemathesis

MOST_TOKENS = 16
# More is refused at once, whatever the checkpoint, and stays as it is.
LONGEST_CONTEXT = 131_072
# Codes of a 400 that is about no field.
WITHOUT_FIELD = ("invalid_json", "bad_request")
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


@schemathesis.check
def refusal_names_a_field(context, response, case):  # type: ignore[no-untyped-def]
    """A 400 in OpenAI's shape tells which field is wrong."""
    if response.status_code == 400 and not case.path.startswith("/v1/messages"):
        error = response.json()["error"]
        assert error["param"] or error["code"] in WITHOUT_FIELD, f"no field is named: {error}"
