"""The stages of a request, from its timeline."""

from glm_engine.request import Timeline
from glm_engine.tracing import Stage, stages


def test_an_answered_request() -> None:
    first = Timeline(
        queued=2, scheduled=3, vision_began=3.1, vision_ended=3.4, first_token=4, finished=6
    )
    second = Timeline(queued=2, scheduled=4, first_token=4.1, finished=7)
    assert stages(1, [first, second], ended=7.2) == (
        Stage("preprocessing", 1, 2),
        Stage("queue", 2, 3),
        Stage("prefill", 3, 4, (Stage("vision", 3.1, 3.4),)),
        Stage("decode", 4, 7),
    )


def test_a_request_that_ended_early_was_no_further() -> None:
    assert stages(0, [], ended=5) == ()
    assert stages(1, [], ended=5) == (Stage("preprocessing", 1, 5),)
    waiting = [Timeline(queued=2)]
    assert stages(1, waiting, ended=5)[1:] == (Stage("queue", 2, 5),)
    prefilled = [Timeline(queued=2, scheduled=3)]
    assert stages(1, prefilled, ended=5)[2:] == (Stage("prefill", 3, 5),)
    decoding = [Timeline(queued=2, scheduled=3, first_token=4)]
    assert stages(1, decoding, ended=5)[3:] == (Stage("decode", 4, 5),)
