"""The one place where conversations are built: results of calls, places of faults."""

import pytest

from glm_frontend.core.conversation import ConversationBuilder, Part, PastCall
from glm_frontend.errors import APIError
from glm_frontend.media.fetch import Picture


def _calls(*ids: str) -> list[PastCall]:
    return [PastCall(id, f"tool_{id}", "{}", f"calls.{id}") for id in ids]


def _asked(*ids: str) -> ConversationBuilder:
    builder = ConversationBuilder()
    builder.add("user", "hi", "messages[0]")
    builder.add("assistant", None, "messages[1]", calls=_calls(*ids))
    return builder


def _contents(builder: ConversationBuilder) -> list[object]:
    return [message["content"] for message in builder.finish().messages]


def test_results_come_in_the_order_of_their_calls() -> None:
    builder = _asked("a", "b", "c")
    for place, id in enumerate(("c", "a", "b"), start=2):
        builder.add_result(id, f"of {id}", f"messages[{place}]", id_path="-")
    builder.add("user", "and now?", "messages[5]")
    assert _contents(builder) == ["hi", None, "of a", "of b", "of c", "and now?"]
    # A fault is still found where the client has it.
    assert builder.paths.http("messages[2].content") == "messages[3].content"
    assert builder.paths.http("messages[4]") == "messages[2]"
    assert builder.paths.http("messages[5].content") == "messages[5].content"


def test_results_without_an_id_stay_where_they_are() -> None:
    builder = _asked("a", "b")
    builder.add_result(None, "first", "messages[2]", id_path="-")
    builder.add_result("a", "second", "messages[3]", id_path="-")
    assert _contents(builder)[2:] == ["first", "second"]


def test_an_id_used_again_is_the_latest_call() -> None:
    builder = _asked("a", "b")
    builder.add_result("a", "1", "messages[2]", id_path="-")
    builder.add("assistant", None, "messages[3]", calls=_calls("b", "a"))
    builder.add_result("a", "3", "messages[4]", id_path="-")
    builder.add_result("b", "2", "messages[5]", id_path="-")
    assert _contents(builder)[2:] == ["1", None, "2", "3"]


def test_a_result_without_its_call_names_the_id() -> None:
    builder = _asked("a")
    with pytest.raises(APIError) as raised:
        builder.add_result("x", "?", "messages[2]", id_path="messages[2].tool_call_id")
    assert raised.value.param == "messages[2].tool_call_id"
    assert "'x'" in raised.value.message


def test_paths_end_at_whole_names() -> None:
    builder = ConversationBuilder()
    builder.add("system", "s", "instructions", content_path="instructions")
    for place in range(12):
        builder.add("user", "u", f"input[{place}]")
    paths = builder.finish().paths
    assert paths.http("messages[0].content") == "instructions"
    assert paths.http("messages[1].content") == "input[0].content"
    assert paths.http("messages[11].content[3]") == "input[10].content[3]"
    paths.rename("sampling_parameters.stop", "stop_sequences")
    assert paths.http("sampling_parameters.stop[0]") == "stop_sequences[0]"
    assert paths.http("sampling_parameters.stop_token_ids") == "stop_token_ids"


def test_files_are_numbered_by_kind() -> None:
    builder = ConversationBuilder()
    parts = [
        Part(Picture("data:,", "a"), "x"),
        Part("text", "y"),
        Part(Picture("data:,", "b", kind="video"), "z"),
        Part(Picture("data:,", "c"), "w"),
    ]
    builder.add("user", parts, "messages[0]")
    kinds = [part["type"] for part in builder.finish().messages[0]["content"]]
    assert kinds == ["image", "text", "video", "image"]
    paths = builder.paths
    assert [paths.http(f"image[{n}]") for n in (0, 1)] == ["a", "c"]
    assert paths.http("video[0]") == "b"
