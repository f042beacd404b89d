"""Refusals of calls."""

import json
from typing import Any


def errors() -> list[dict[str, Any]]:
    """Answers of HTTP status 400 and more, as Flower sends them, and what a phone does."""

    def case(status: int, body: Any, meaning: str) -> dict[str, Any]:
        return {"status": status, "body": json.dumps(body), "code": body.get("code", 0), "meaning": meaning}

    return [
        case(
            401,
            {"detail": "Invalid SuperNode authentication"},
            "the clock is off (compare the header Date, sign again by it), else the server does not know the "
            "node: join anew",
        ),
        case(
            412,
            {"code": 2004, "detail": "Failed to activate SuperNode."},
            "still online: a heartbeat with the remembered node id is enough; else the key is not known: register",
        ),
        case(
            412,
            {
                "code": 2001,
                "detail": "SuperNode authentication is enabled. All SuperNodes must be registered via the CLI.",
            },
            "somebody must enrol this phone",
        ),
        case(412, {"code": 23, "detail": "Public key already in use."}, "registered already: activate"),
        case(
            403,
            {"code": 2007, "detail": "The current run status does not allow this Fleet API operation."},
            "the run is over: drop the message",
        ),
        case(400, {"code": 2003, "detail": "Invalid heartbeat interval."}, "10 to 1800 seconds"),
    ]
