"""What the requests that can be tried from ``/docs`` are made of: tiny, but real files."""

from typing import Any

# A pixel, and a red disc on white of 64 x 64.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/"
    "PchI7wAAAABJRU5ErkJggg=="
)
RED_DISC = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////cHh7/Hx2WAAAA"
    "gElEQVR42r3QsQ2DQBBE0cdCQGAZSsAduANTEiVQGqVQAiEB8jm4wFi6xAkTjfbPajXLteo2BKZ7HtQpLQQNA0FLT/DkRjAS"
    "eQtUJFRCBbPIcPxmTqaBoYha6IvoL7PDVkQHrEX0huVcx0z6PbHIOV1KG8FONgcrNcnrcXrvlfoAVy4aHSoIu8MAAAAASUVO"
    "RK5CYII="
)
# A second of the disc: it moves to the right.
MOVING_DISC = (
    "data:image/gif;base64,R0lGODlhQABAAIEAAP///9weHgAAAAAAACH/C05FVFNDQVBFMi4wAwEAAAAh+QQAMgAAACwA"
    "AAAAQABAAAAIvQABCBxIsKDBgwgTKlzIsKHDhxAjSpxIsaLFixgzatzIsaPHjyBDihxJsqTJkyhTqlwYoKXLlisVvpw5My"
    "ZBmjhrxszJ06XKnkB9mgxKNEDJokVJIiU6cmlSkE6RQo3K1CNVqR2vPuWoterGrlszgvUqdixQrmZ7ok2bcy1bmm7fvowr"
    "Fybdt1brCr3L9qNeo371hqzbtG/htEfNnhz7k6rNqDYHho0sGSfly5gza97MubPnz6BDix5NunTpgAAh+QQBMgACACwEAA"
    "4AOAAkAIH////cHh4AAAAAAAAI1gAFCBxIkCCAgwgPFlwoIIDDhw4ZSpwoIKFFiwshatRIkeLFjxgbbhwJseNCkCgRklz5"
    "0KTAlCkJsmTZESbKjDNJTrQJUmJOnQx5fvT5c2NQoSGJFi1pEGlCk0s5DnT6tGNUphWpKnR5tWVWrS5Fdn2pFUDYrhHLmg"
    "0r9qpatm2jvmWLNsDcs2jvcs1bFm5dvVD5gqWL9itVvGMNO0V8lezgwIkVI4XceGpfq4WbPmZY9+hmmZlPXsYZWfTnuEtr"
    "jkZdNKzaznAHl47Nk/RMuDuHYjbqMiAAOw=="
)


def question(text: str, picture: str) -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": text},
                {"type": "image_url", "image_url": {"url": picture}},
            ],
        }
    ]
