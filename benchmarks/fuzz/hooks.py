"""What schemathesis loads: requests stay cheap, or the server would mostly write long answers."""

import schemathesis

MOST_TOKENS = 16
FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@schemathesis.hook
def before_call(context, case, kwargs):  # type: ignore[no-untyped-def]
    """Lower the tokens that a valid request asks for; invalid values stay as they are."""
    if isinstance(case.body, dict):
        for name in FIELDS:
            if type(case.body.get(name)) is int and case.body[name] > MOST_TOKENS:
                case.body[name] = MOST_TOKENS
