"""``GET /docs``: Swagger UI, all of it from this server; a closed network has no CDN."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

ASSETS_PATH = "/docs/assets"

router = APIRouter(include_in_schema=False)


def swagger_assets() -> StaticFiles:
    """Swagger UI's script, style sheet and icon, to be mounted at ``ASSETS_PATH``."""
    return StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")


@router.get("/")
async def redirect_to_docs() -> RedirectResponse:
    """Somebody opened the server in a browser."""
    return RedirectResponse("docs")


@router.get("/docs")
async def get_docs() -> HTMLResponse:
    """The page. Its addresses are relative, so that it works behind a path prefix."""
    return get_swagger_ui_html(
        title="GLM-4.6V-Flash API",
        openapi_url="openapi.json",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon.png",
        swagger_ui_parameters={
            "validatorUrl": None,  # by default it sends the schema to a public validator
            "defaultModelsExpandDepth": 0,
        },
    )
