"""All that pocketfed uses of Flower beyond its public interface; `flwr` is pinned exactly for this package's sake.

tests/server/test_flower_private.py says what has changed when a new Flower breaks it.
"""

from pocketfed.server.flower_private.fleet import Fleet, GivenUp, Node
from pocketfed.server.flower_private.identity import (
    Run,
    act_as_server,
    empty_run,
    reusing_object_ids,
    with_id,
    without_content,
)
from pocketfed.server.flower_private.mistakes import DatabaseError, NotStoredError

__all__ = [
    "DatabaseError",
    "Fleet",
    "GivenUp",
    "Node",
    "NotStoredError",
    "Run",
    "act_as_server",
    "empty_run",
    "reusing_object_ids",
    "with_id",
    "without_content",
]
