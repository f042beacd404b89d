"""Refusals of calls: answers of HTTP status 400 and more, as Flower and what stands in front of it send them."""

import json
from typing import Any

from pocketfed.mobile_client.connection import Retry
from pocketfed.mobile_client.flower.agent import MAX_REFUSALS


def errors() -> list[dict[str, Any]]:
    """What a phone does about each; the calls of a message at work are all alike, `push-messages` stands for them."""
    return [
        {
            **_case("push-messages", 401, {"detail": "Invalid SuperNode authentication"}),
            "attempts": 1,
            "dropped_after": None,
            "meaning": "the clock is off (compare the header Date, sign again by it), else the server does not know the "
            "node: join anew",
        },
        {
            **_case("activate-node", 412, {"code": 2004, "detail": "Failed to activate SuperNode."}),
            "meaning": "still online: a heartbeat with the remembered node id is enough; else the key is not known: "
            "register",
        },
        {
            **_case(
                "register-node",
                412,
                {
                    "code": 2001,
                    "detail": "SuperNode authentication is enabled. All SuperNodes must be registered via the CLI.",
                },
            ),
            "meaning": "somebody must enrol this phone",
        },
        {
            **_case("register-node", 412, {"code": 23, "detail": "Public key already in use."}),
            "meaning": "registered already: activate",
        },
        {
            **_case("send-node-heartbeat", 400, {"code": 2003, "detail": "Invalid heartbeat interval."}),
            "meaning": "10 to 1800 seconds",
        },
        {
            **_case(
                "push-messages",
                403,
                {"code": 2007, "detail": "The current run status does not allow this Fleet API operation."},
            ),
            "attempts": 1,
            "dropped_after": 1,
            "meaning": "the run is over: drop the message",
        },
        *(_dropped(status, detail) for status, detail in _REFUSED),
        {
            **_case("push-messages", 500, {"detail": "Internal server error"}),
            "attempts": 1,
            "dropped_after": MAX_REFUSALS,
            "meaning": "the server fails over this message: wait, try again, drop it at last",
        },
        *(_tried_again(status, body) for status, body in _BUSY),
    ]


_REFUSED = (
    (400, "Invalid request."),
    (413, "A body has at most 5242880 bytes."),
    (422, "Unprocessable."),
)
_BUSY: tuple[tuple[int, Any], ...] = (
    (408, {"code": 408, "detail": "The body has stood still for 30 seconds."}),
    (429, ""),
    (502, "<html>Bad Gateway</html>"),
    (503, {"code": 503, "detail": "Too much is being sent at once."}),
    (504, "<html>Gateway Timeout</html>"),
)


def _dropped(status: int, detail: str) -> dict[str, Any]:
    return {
        **_case("push-messages", status, {"code": status, "detail": detail}),
        "attempts": 1,
        "dropped_after": 1,
        "meaning": "the server will not take it another time either: drop the message",
    }


def _tried_again(status: int, body: Any) -> dict[str, Any]:
    return {
        **_case("push-messages", status, body),
        "attempts": Retry().tries,
        "dropped_after": None,
        "meaning": "try again at once, with random waits; then wait as if idle and go on, the message is kept",
    }


def _case(call: str, status: int, body: Any) -> dict[str, Any]:
    """`body` is a text as it comes, or JSON."""
    text, code = (body, 0) if isinstance(body, str) else (json.dumps(body), body.get("code", 0))
    return {"call": call, "status": status, "body": text, "code": code}
