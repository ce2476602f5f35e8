"""From a checked request for tokens, or for their text, to the one request of all APIs."""

from glm_frontend.apis.chat.decode import decode_messages, processor_kwargs
from glm_frontend.apis.shared.schema import as_wire_tool, numbered
from glm_frontend.apis.tokens.schema import DetokenizeRequest, TokenizeRequest
from glm_frontend.core.request import AnswerRequest, of_conversation, of_prompt


def decode_text(body: TokenizeRequest) -> AnswerRequest:
    """The request whose prompt is to be told in tokens.

    Raises:
        APIError: a result of a call has no call.
    """
    if body.messages is None:
        return of_prompt({"prompt": body.prompt}, {})
    reading = body.media_io_kwargs
    return of_conversation(
        decode_messages(body.messages, None if reading is None else reading.video),
        {},
        processor_kwargs=processor_kwargs(body.mm_processor_kwargs),
        template_kwargs=body.template_kwargs(),
        tools=[as_wire_tool(tool.function) for _, tool in numbered(body.tools)],
    )


def decode_tokens(body: DetokenizeRequest) -> AnswerRequest:
    """The request whose tokens are to be told as text."""
    return of_prompt({"prompt_token_ids": body.tokens}, {"prompt_token_ids": "tokens"})
