"""The page's settings: the frontend's, two more."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

import glm_frontend.settings
from glm_frontend.settings import SettingsError, describe

_URL = re.compile(r"https?://[^/\s?#]+(/[^\s?#]*)?")


def _base_url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError("must be a URL such as http://127.0.0.1:8000")
    return value.rstrip("/")


class PageSettings(glm_frontend.settings.Settings):
    """What the page reads from the environment. It listens on ``GLM_HOST`` as the frontend does,
    and has the frontend's limits and timeouts.
    """

    web_port: int = Field(default=7860, ge=0, le=65535)
    """Port of the web page; 0 takes a free one."""
    web_api_url: Annotated[str, AfterValidator(_base_url)] = "http://127.0.0.1:8000"
    """Where the page's server finds the frontend."""


def load_settings() -> PageSettings:
    """Read the environment.

    Raises:
        SettingsError: naming every bad key with its value.
    """
    try:
        return PageSettings()
    except ValidationError as error:
        raise SettingsError(describe(error)) from None
