"""Requests to an ASGI application in this process."""

import asyncio
from typing import Any

import httpx
from starlette.types import ASGIApp


def ask(
    app: ASGIApp, path: str, method: str = "GET", base: str = "http://here", **options: Any
) -> httpx.Response:
    """The answer; redirections are not followed."""

    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.request(method, path, **options)

    return asyncio.run(request())
