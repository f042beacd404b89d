"""Large requests take turns, and none waits for ever."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pocketfed.server.turns import PIECE, Turns

LARGE = {"type": "http", "path": "/large"}
SMALL = {"type": "http", "path": "/small"}


class Counting:
    """An application whose requests end when they are let go; how many are inside, and were at most."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.go.wait()
        self.inside -= 1


async def nothing(*_: Any) -> Any: ...


def outcome_of(longest: float, then: Callable[[Counting], Any]) -> Counting:
    """Five large requests and one small one, two turns; `then` runs when all have come as far as they can."""

    async def scene() -> Counting:
        app = Counting()
        turns = Turns(app, ["/large"], most=2, longest=longest)
        calls = [asyncio.create_task(turns(scope, nothing, nothing)) for scope in [LARGE] * 5 + [SMALL]]
        await asyncio.sleep(0.1)
        then(app)
        app.go.set()
        await asyncio.gather(*calls)
        return app

    return asyncio.run(scene())


def test_so_many_large_requests_at_a_time_and_any_number_of_small_ones() -> None:
    seen: list[int] = []
    app = outcome_of(60.0, lambda app: seen.append(app.inside))
    assert seen == [3]
    assert (app.inside, app.most) == (0, 3)


def test_a_turn_that_lasts_long_is_the_next_ones() -> None:
    seen: list[int] = []
    app = outcome_of(0.01, lambda app: seen.append(app.inside))
    assert seen == [6]
    assert app.inside == 0


def test_a_turn_is_not_kept_by_a_body_that_does_not_come() -> None:
    """Nor by one that comes in drops: what counts is for how long it was waited for in all."""

    async def scene() -> list[str]:
        done: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["more_body"]:
                pass
            done.append(scope["name"])

        turns = Turns(app, ["/large"], most=1, longest=60.0, patience=0.2)

        async def nothing_comes() -> Any:
            await asyncio.sleep(3600)

        async def drops() -> Any:
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def comes() -> Any:
            return {"type": "http.request", "body": b"x", "more_body": False}

        sources = {"idle": nothing_comes, "slow": drops, "quick": comes}
        calls = [
            asyncio.create_task(turns(LARGE | {"name": name}, source, nothing))
            for name, source in sources.items()
        ]
        await asyncio.wait_for(calls[-1], 5)
        for call in calls[:-1]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return done

    assert asyncio.run(scene()) == ["quick"]


@given(st.sampled_from([0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 7]), st.booleans())
def test_an_answer_in_pieces_is_the_same_answer(length: int, more: bool) -> None:
    body = bytes(i % 251 for i in range(length))
    sent: list[Any] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def noting(message: Any) -> None:
        sent.append(message)

    asyncio.run(Turns(answer, ["/large"])(LARGE, nothing, noting))
    begin, *pieces = sent
    assert begin["status"] == 200
    assert b"".join(piece["body"] for piece in pieces) == body
    assert max(len(piece["body"]) for piece in pieces) <= PIECE
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [more]
