"""The server's bundle, for phones to fetch.

GET /bundle             {"id", "version", "bytes", "manifest", "signature"}: what is current; asked for again and again
GET /bundles/ID/NAME    a file of it by the hash of the whole: never changes, may be kept by anybody on the way

The manifest is a string, since its bytes (in UTF-8) are what the signature is over and what ID is the SHA-256 of; the
signature is null if there is none. Only names in the manifest lead to files. Ranges are Starlette's.
"""

import hashlib
import json
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pocketfed.core.bundle import Bundle
from pocketfed.core.release import MANIFEST

CURRENT, FILES = "/bundle", "/bundles/"
"""Paths: of what is current, and the beginning of those of files."""

FOR_EVER = "public, max-age=31536000, immutable"


def bundle_routes(bundle: Bundle) -> list[BaseRoute]:
    """Routes of one bundle, for any Starlette or FastAPI application; for everybody, whatever opens the page.

    Args:
        bundle: whole, and left alone as long as the routes are served.
    """
    digests = {name: file.sha256 for name, file in bundle.release.files.items()} | {MANIFEST: bundle.id}
    described = json.dumps(
        {
            "id": bundle.id,
            "version": bundle.version,
            "bytes": bundle.release.size,
            "manifest": (bundle.folder / MANIFEST).read_bytes().decode(),
            "signature": bundle.signature,
        }
    ).encode()
    about = _headers(hashlib.sha256(described).hexdigest(), "no-cache")

    async def current(request: Request) -> Response:
        if _is_known(request, about):
            return Response(status_code=304, headers=about)
        return Response(described, headers=about, media_type="application/json")

    # No coroutine: it looks at the disk.
    def file(request: Request) -> Response:
        wanted, name = request.path_params["bundle"], request.path_params["name"]
        if wanted != bundle.id:
            return _absent(f"The bundle here is {bundle.id}, not {wanted[:64]!r}.")
        if name not in digests:
            return _absent(f"The bundle has no file {name[:100]!r}.")
        headers = _headers(digests[name], FOR_EVER)
        if _is_known(request, headers):
            return Response(status_code=304, headers=headers)
        path = bundle.folder / name
        try:
            found = path.stat()
        except OSError:
            return _absent(f"The file {name!r} is missing on this server.")
        if "," in request.headers.get("range", ""):  # each would be a part of its own
            unmet = {"Content-Range": f"bytes */{found.st_size}"}
            return Response("One range at a time.", 416, headers=unmet, media_type="text/plain")
        return FileResponse(path, headers=headers, media_type="application/octet-stream", stat_result=found)

    return [Route(CURRENT, current), Route(FILES + "{bundle}/{name:path}", file)]


def _headers(digest: str, kept: str) -> dict[str, str]:
    return {"ETag": f'"{digest}"', "Cache-Control": kept, "X-Content-Type-Options": "nosniff"}


def _is_known(request: Request, headers: Mapping[str, str]) -> bool:
    """Whether the caller has this very content already."""
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return "*" in tags or headers["ETag"] in tags


def _absent(detail: str) -> Response:
    return JSONResponse({"code": 404, "detail": detail}, 404, {"Cache-Control": "no-store"})
